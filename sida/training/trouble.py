"""When samples are skipped and losses are not finite: no checkpoint for now, and beyond a limit the end, with a dump."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from sida.errors import SidaError

if TYPE_CHECKING:
    from sida.training.loop import Run


def save_unless_non_finite(run: Run, losses: dict[str, Tensor]) -> None:
    """A checkpoint, unless a loss just now is not finite: then at a later iteration, so that it replaces no good state."""
    bad = [name for name, value in losses.items() if not torch.isfinite(value)]
    if not run.job.processes.agree(bool(bad)):
        run.save()
    elif run.finished:
        raise _dumped(run, losses, "a loss of the last iteration is not finite")
    else:
        run.checkpoint_due = True


def refuse_trouble(run: Run, losses: dict[str, Tensor]) -> None:
    """Skipped samples and non-finite losses are news; beyond the limit the run ends."""
    trouble, limit = run.trouble(), run.job.recipe.execution.non_finite_limit
    if trouble.skipped + trouble.non_finite > limit:
        raise _dumped(run, losses, f"more than execution.non_finite_limit {limit}")


def _dumped(run: Run, losses: dict[str, Tensor], why: str) -> SidaError:
    """What went wrong, with a dump of the networks as they are beside the run's checkpoints, which stay."""
    trouble, job, where = run.trouble(), run.job, ""
    if job.processes.first:
        run.writer.wait()
        name = f"dumps/{run.seen:012d}"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dump.safetensors"
            save_file({key: t.detach().cpu().contiguous() for key, t in run.tensors().items()}, path)
            ref = job.put(path, path.name)
        content = {
            "why": why,
            "seen": run.seen,
            "iteration": run.seen // run.method.batch,
            "trouble": asdict(trouble),
            "losses": {key: str(float(value)) for key, value in losses.items()},
            "object": [ref.name, ref.size, ref.sha256],
        }
        job.publish(f"{name}.json", json.dumps(content, indent=1).encode())
        where = job.store.address_of(f"{job.folder}/{name}.json")
    return SidaError(
        f"{why}: {trouble}; stopped at iteration {run.seen // run.method.batch} ({run.seen:,} images). The state is in {where}, "
        f"the last good checkpoint is kept: lower the learning rates or alpha in the recipe"
    )
