"""Whole workers on the accelerator: from a job's spec to what they publish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sida.data.latents import decoder_of
from sida.data.reader import ShuffledData
from sida.data.shards import Shards
from sida.errors import SidaError
from sida.export.generator import Generator, open_generator
from sida.export.sample import sample
from sida.launch.spec import ManifestRef, ReferenceOutcome, ReferenceSpec, ScoreOutcome, ScoreSpec, TeachSpec
from sida.manifests import GeneratorResult, Manifest, ScoresResult
from sida.numerics.networks.build import build_network
from sida.recipe import Latents, Network
from sida.report.samples import Drawn, draw
from sida.scoring.detector import load_detector
from sida.scoring.measure import measure
from sida.scoring.reference_job import reference
from sida.stores import fetch_object
from sida.stores.base import ObjectRef
from sida.teachers.files import load_network, save_network
from sida.training import distill_loop
from sida.training.distill_loop import DistillRun, distill
from sida.training.teach_loop import TeachRun, teach
from tests.accelerator.device import Waits, device
from tests.accelerator.made import NETWORKS
from tests.export.test_export import made as made_generator
from tests.export.test_export import pixels_of as pixels_in
from tests.jobs import stored
from tests.pipeline.command import Command
from tests.training.digits_job import Bench, bench, recipe

FEW = """
method: {images: 96, batch: 16, loss_group: 4, generator_from: 16, adversarial_from: 32}
evaluation: {selection_images: 20, selection_every: 48, images: 24, ranges: 1}
execution: {checkpoint_every: 32, sampling_batch: 10, micro_batch: 8}
teacher: {train: {images: 64, batch: 16, decay_from: 32}, sampler: {steps: 2}}
"""


def generator_of(network: dict[str, Any], weights: ObjectRef) -> GeneratorResult:
    """What `distill` would say of such weights."""
    return GeneratorResult(
        network=network,
        weights=weights,
        sigma_init=2.5,
        method="SiDA",
        images_seen=48,
        selection_score=None,
        curve=None,
        recipe_sha256="0" * 64,
        licence="-",
    )


def test_distil_runs_to_its_end_with_selections_checkpoints_and_a_profile(
    here: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill_loop, "PROFILED", 2)
    result = distill(here.job(FEW, "whole"))
    assert result.images_seen in (48, 96) and result.score > 0
    assert result.profile
    stopped = here.job(FEW, "stopped")
    run = DistillRun(stopped)
    with pytest.raises(SidaError, match="stopped at 48 images"):
        run.train(lambda: run.seen == 48)
    run.writer.close()
    again = distill(here.job(FEW, "stopped"))
    assert again.generator == result.generator  # resumed: the same bits
    assert again.curve == result.curve


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_every_operator_of_distil_and_of_scoring_has_a_deterministic_kernel(here: Bench, deterministic: None) -> None:
    few = FEW.replace("images: 96", "images: 48")
    assert distill(here.job(few, "deterministic")).score > 0
    extra = few.replace("ranges: 1", "ranges: 1, extra_metrics: [is, kid, precision_recall]")
    assert len(measured(here, extra, "teacher", "deterministic").further) == 4


def test_nothing_waits_for_the_device_between_two_reports_of_the_losses(here: Bench, accelerator: Waits) -> None:
    """The reader's batches, the iteration and the curve's sums, as the loop runs them; a report reads once in eight iterations."""
    run = DistillRun(here.job(FEW, "waits"))
    run.history.every = 1 << 40  # a window's end is a report too
    run.distillation.run(0)
    accelerator.clear()
    for seen in (16, 32, 48):
        run.history.add(seen + 16, run.distillation.run(seen) | run.distillation.health)
    assert accelerator.count == 0, str(accelerator)
    run.writer.close()
    job = here.job(FEW, "teach waits", TeachSpec(dataset=here.ref("dataset")))
    train = job.recipe.teacher.train
    assert train is not None
    trained = TeachRun(job, train)
    accelerator.clear()
    trained.iterate()
    trained.iterate()
    assert accelerator.count == 0, str(accelerator)


def test_largest_batch_is_halved_until_it_fits(here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from sida.training.selection import largest_batch

    def make(seeds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if len(seeds) > 12:
            raise torch.OutOfMemoryError("no room")
        return torch.zeros(len(seeds), 1, 8, 8, device=seeds.device)

    job = here.job(FEW, "batch")
    detector = load_detector(Path(__file__).resolve().parents[2] / "recipes/assets/digits-detector.safetensors")
    assert largest_batch(make, detector.to(device()), 10, 40, job.processes) == 10


def test_teach_trains_and_goes_on_from_a_checkpoint(here: Bench) -> None:
    spec = TeachSpec(dataset=here.ref("dataset"))
    whole = teach(here.job(FEW, "teach", spec))
    assert whole is not None and whole.images_seen == 64
    assert teach(here.job(FEW, "teach", spec)) == whole  # from its last checkpoint


@pytest.mark.parametrize(
    "sampler",
    [
        "{steps: 2}",
        "{steps: 2, s_churn: 40, s_min: 0.05, s_max: 50, s_noise: 1.003}",
        "{steps: 2, state: float32, s_churn: 10}",
        "{steps: 2, state: float32, guidance: 1.5}",
    ],
)
def test_a_teacher_is_scored_with_each_sampler(here: Bench, sampler: str) -> None:
    changes = FEW.replace("sampler: {steps: 2}", f"sampler: {sampler}")
    if "guidance" in sampler:
        network = json.dumps(here.inputs["teacher"].result.network)
        changes = changes.replace("teacher: {", f"teacher: {{guide: {{address: none, network: {network}}}, ")
    result = measured(here, changes, "teacher", sampler, floor=True)
    assert len(result.values) == 1 and len(result.floor) == 1


def test_a_model_is_scored_with_every_further_metric_and_a_batch_that_is_tried_out(here: Bench) -> None:
    changes = FEW.replace("images: 24", "images: 24, extra_metrics: [is, kid, precision_recall]")
    changes = changes.replace("sampling_batch: 10", "sampling_batch: auto")
    result = measured(here, changes, "teacher", "all")
    assert set(result.further) == {"is", "kid", "precision", "recall"}


def test_a_row_is_scored_in_its_method_s_precision_or_in_the_one_asked_for(here: Bench) -> None:
    half = FEW.replace("method: {", "method: {precision: float16, ")
    asked = half.replace("evaluation: {", "evaluation: {precision: float32, ")
    full, published, wanted = (
        measured(here, changes, "teacher", str(number)).values for number, changes in enumerate((FEW, half, asked))
    )
    assert wanted == full != published
    assert abs(published[0] - full[0]) < 0.01 * full[0]
    result = ScoresResult(rows=(), detector_sha256="0", reference_digest="0", licence="-")
    assert "precision" not in result.model_dump()  # float32: the digest of before precisions were recorded
    assert result.model_copy(update={"precision": "float16"}).model_dump()["precision"] == "float16"


def reference_spec(here: Bench) -> ReferenceSpec:
    """Statistics of the digits."""
    made = here.inputs["reference"].result
    return ReferenceSpec(dataset=here.ref("dataset"), detector=made.detector, features=made.features, keep=True)


def referenced(here: Bench) -> ReferenceOutcome:
    """What a job of reference statistics publishes."""
    outcome = reference(here.job(FEW, "reference", reference_spec(here)))
    assert outcome is not None
    return outcome


def test_reference_statistics_are_computed(here: Bench) -> None:
    outcome = referenced(here)
    assert outcome.real_features is not None and outcome.precision_recall_features is None


def score_spec(here: Bench, model: ManifestRef, **fields: Any) -> ScoreSpec:
    """A score of 24 images, unless told otherwise."""
    inputs = {"model": model, "dataset": here.ref("dataset"), "reference": here.ref("reference")}
    return ScoreSpec(**{"first_seeds": (1_000_000,), "count": 24, **inputs, **fields})


def measured(here: Bench, changes: str, model: str, name: str, floor: bool = False) -> ScoreOutcome:
    """What a scoring job publishes."""
    chosen = recipe(here.folder, changes)
    guide = here.inputs["teacher"].result.weights if chosen.teacher.guide is not None else None
    extra = tuple(chosen.evaluation.extra_metrics)
    spec = score_spec(here, here.ref(model), extra_metrics=extra, floor=floor, guide=guide)
    outcome = measure(here.job(changes, f"score-{abs(hash(name))}", spec))
    assert outcome is not None
    return outcome


def test_an_edm2_generator_is_distilled_from_a_start_without_head_and_scored(
    place: Path, accelerator: Waits, tmp_path: Path
) -> None:
    """As SiD2A's XS to XXL: the teacher has the uncertainty head, the released generator that theta starts from has none."""
    network = Network(**{**NETWORKS["edm2 with head"], "attn_resolutions": (4,)}).model_dump(mode="json")
    teacher, start = tmp_path / "teacher.safetensors", tmp_path / "start.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build_network(network).state_dict()
    save_network(teacher, state, network)
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("logvar_")}
    save_network(start, headless, network | {"logvar_channels": None})
    changes = f"""
method: {{name: sid2a, images: 48, batch: 16, loss_group: 4, generator_from: 0, adversarial_from: 16, precision: float16,
  augment: 0}}
evaluation: {{selection_images: 20, selection_every: 48, images: 24, ranges: 1}}
execution: {{checkpoint_every: 32, sampling_batch: 10, micro_batch: 8}}
generator: {{address: {start}, licence: none}}
teacher: {{address: {teacher}, sha256: null, network: {json.dumps(network)}, sampler: {{steps: 2, state: float32}}}}
"""
    made = bench(place, changes, start=True)
    made.device = device()
    job = made.job(changes, "edm2")
    result = distill(job)
    assert result is not None
    network = job.recipe.teacher.network.of_generator().model_dump(mode="json")
    manifest = Manifest(result=generator_of(network, result.generator), about=made.inputs["start"].about)
    outcome = measure(made.job(changes, "edm2 score", score_spec(made, stored(made.store, manifest))))
    assert outcome is not None and len(outcome.values) == 1


def test_latents_are_encoded_and_decoded(place: Path, workers_here: Any, tmp_path: Path, accelerator: Waits) -> None:
    pytest.importorskip("diffusers")
    from sida.settings import settings
    from sida.stores import open_store
    from tests.data.making import class_folders, result, tiny_vae
    from tests.data.test_latents import fields

    vae = tiny_vae(tmp_path / "vae")
    found = result(class_folders(tmp_path / "images", 3, size=(80, 70)), classes=2, **fields(vae, 64))
    assert (found.record, found.count) == ("latents", 3)
    shards = Shards(open_store(settings().store), found)
    accelerator.clear()
    x, c = ShuffledData(shards, 0, device(), stride=2).batch(torch.arange(2))
    assert accelerator.count == 0, str(accelerator)
    assert x.device == c.device == device()
    latents = Latents(vae=str(vae), licence="-", image_resolution=64)
    assert decoder_of(latents, device())(x).shape == (2, 3, 64, 64)


def drawn_by(here: Bench, changes: str) -> Drawn:
    """The comparison's pictures, with the teacher's weights for a generator."""
    job = here.job(changes, "draw")
    teacher = here.inputs["teacher"].result
    generator = generator_of(teacher.network, teacher.weights)
    inputs: Any = {**here.inputs, "generator": SimpleNamespace(result=generator)}
    inputs["teacher_scores"] = SimpleNamespace(result=SimpleNamespace(guide=None))
    return draw(here.store, job.recipe, inputs)


def test_the_comparison_s_pictures_and_samples_are_drawn(here: Bench) -> None:
    drawn = drawn_by(here, FEW)
    teacher = here.inputs["teacher"].result
    assert drawn.sheet and drawn.nearest
    network = load_network(fetch_object(here.store, teacher.weights), teacher.network).to(device()).eval()
    (made,) = sample(Generator(network, teacher.network, 2.5, 1, "-", {}), [0, 1], torch.tensor([3, 4]))
    assert made.is_cpu and made.shape == (2, 1, 8, 8)


def test_sample_computes_on_the_accelerator_by_itself(
    place: Path, accelerator: Waits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, file = Command(place, monkeypatch, capsys), made_generator(tmp_path, "ddpmpp")
    accelerator.clear()
    options = ("--seeds", "3-6", "--labels", "2,0", "--output", str(tmp_path / "images"))
    assert command("sample", str(file), *options).status == 0
    assert accelerator.count > 0  # images came from it
    (expected,) = sample(open_generator(str(file)), range(3, 7), torch.tensor([2, 0, 2, 0]))
    for seed, image in zip(range(3, 7), expected, strict=True):
        found = pixels_in(tmp_path / "images" / f"{seed:08d}.png").astype(int)
        assert abs(found - image[0].numpy()).max() <= 1


def test_sample_decodes_latents_on_the_accelerator(place: Path, accelerator: Waits, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.data.making import tiny_vae

    network = NETWORKS["edm2 with head"] | {"channels": 4, "logvar_channels": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = build_network(network).to(device()).eval()
    latents = Latents(vae=str(tiny_vae(tmp_path / "vae")), licence="-", image_resolution=64)
    generator = Generator(denoiser, network, 2.5, 1, "-", {})
    (made,) = sample(generator, [0, 1], torch.tensor([1, 2]), decode=decoder_of(latents, device()))
    assert made.is_cpu and made.dtype == torch.uint8 and made.shape[:2] == (2, 3)
