"""The worker's side of prepare_data for latents: images through the VAE, by any number of processes."""

from __future__ import annotations

import torch

from sida.data.convert import convert
from sida.data.latents import encoder_of, load_vae
from sida.data.prepare import conversion_of
from sida.launch.spec import EncodeOutcome, EncodeSpec
from sida.process.scratch import scratch_folder
from sida.progress import Progress
from sida.worker.job import Job


def encode(job: Job[EncodeSpec]) -> EncodeOutcome | None:
    """Run one process of the encoding job: shards as they are dealt; those already published are skipped."""
    dataset, processes = job.recipe.dataset, job.processes
    assert dataset.latents is not None
    vae = load_vae(dataset.latents).to(processes.device)
    with scratch_folder() as folder, torch.inference_mode():
        conversion = conversion_of(dataset, folder, job.spec.work, job.spec.shard_bytes)
        total = len(conversion.source)
        bar = Progress(job.step, total, "images")

        def progress(done: int) -> None:
            if processes.first:
                bar.update(min(done * processes.world, total))

        numbers = processes.deal(conversion.shards)
        reused = convert(
            conversion, job.store, job.put, folder, numbers=numbers, encode=encoder_of(vae), progress=progress,
            processes=max(1, job.recipe.execution.threads),
        )  # fmt: skip
    processes.meet()
    (reused,) = processes.total(torch.tensor([reused]))
    return EncodeOutcome(reused=reused) if processes.first else None
