"""verify: each kind of result says what its recipe, its inputs and the rest of it say, under its own step and key."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sida.errors import Corrupt, UserError
from sida.export.generator import open_generator
from sida.launch.spec import TeachOutcome
from sida.manifests import Manifest, Score, digest_of, parse_manifest
from sida.recipe import load
from sida.registry import EVERY_STEP
from sida.steps import StepRun
from sida.verify import Recomputed, verify
from tests.scoring.conftest import ASSET, small
from tests.scoring.files import runner, whole_run


@pytest.fixture
def made(here: Path, shelf: Path) -> dict[str, Path]:
    """The manifest of each step of a run, in a store of this test's own."""
    if (shelf / "store").exists():
        shutil.copytree(shelf / "store", here / "store", dirs_exist_ok=True)
    else:
        made = whole_run(here, small())
        table = runner(here, small())(EVERY_STEP["published_table"], scores=[made["score"]])
        assert Path(made["report"]).exists() and Path(table).exists()
        shutil.copytree(here / "store", shelf / "store")
    return {path.parents[1].name: path for path in (here / "store" / "steps").glob("*/*/1.json")}


def reseal(path: Path, change: Callable[[dict[str, Any]], object], to: Path | None = None) -> Path:
    """Change what a manifest says, and give it the checksum of that."""
    fields = json.loads(path.read_bytes())
    change(fields)
    changed: Manifest = Manifest.model_validate_json(json.dumps(fields | {"checksum": ""}))
    to = to or path
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.exists():
        to.chmod(0o644)
    to.write_bytes(changed.to_json())
    return to


def problems(path: Path) -> list[str]:
    return [link.problem for link in verify(f"file://{path}", hashing=False).problems]


def found_in(path: Path) -> list[str]:
    """Return what is wrong, be it found or the reason for which the whole is refused."""
    try:
        return problems(path)
    except UserError as refused:
        return [str(refused)]


def row(model: str, **changes: Any) -> Callable[[dict[str, Any]], object]:
    def change(result: dict[str, Any]) -> None:
        next(row for row in result["rows"] if row["model"] == model).update(changes)

    return change


def say(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda result: result.update(changes)


LIES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "a better score": ("compare", row("generator", values=[0.01, 0.01], mean=0.01, sd=0.0, interval=0.0)),
    "a worse teacher": ("compare", row("teacher", mean=99.0)),
    "another number of images": ("compare", row("generator", n=50_000)),
    "no teacher": ("compare", lambda result: result["rows"].pop(0)),
    "a verdict": ("compare", say(verdict="reached: better than the paper")),
    "a title": ("compare", say(title="imagenet-512")),
    "another recipe": ("compare", say(recipe="digits")),
    "another generator": ("compare", lambda result: result.update(generator=result["grid"])),
    "another licence": ("compare", say(licence="Apache-2.0 or MIT")),
    "a label": ("score", row("generator", label="teacher")),
    "a protocol": ("score", row("generator", protocol="best")),
    "a gate": ("score", say(gate="better than the published 1.5")),
    "the licence of a score": ("score", say(licence="none")),
    "the precision": ("score", say(precision="float16")),
    "the teacher's sampler": ("score_teacher", row("teacher", sampler="Heun, 40 steps", nfe=79)),
    "the floor": ("score_teacher", row("real", mean=0.0)),
    "the method": ("distill", say(method="SiD2A")),
    "the start's noise": ("distill", say(sigma_init=80.0)),
    "the images seen": ("distill", say(images_seen=10**6)),
    "the selection's score": ("distill", say(selection_score=0.01)),
    "no curve": ("distill", say(curve=None)),
    "the network": ("distill", lambda result: result["network"].update(num_blocks=3)),
    "the teacher's file": ("fetch_teacher", say(source_sha256="0" * 64)),
    "the teacher's licence": ("fetch_teacher", say(licence="none")),
    "the images": ("prepare_data", say(count=60_000)),
    "the classes' images": ("prepare_data", lambda result: result["histogram"].append(5)),
    "the resolution": ("prepare_data", say(resolution=512)),
    "the metric": ("reference_statistics", say(metric="fid")),
    "the detector": ("reference_statistics", say(detector_sha256="0" * 64)),
    "the data": ("reference_statistics", say(dataset_digest="0" * 64)),
    "the reference's images": ("reference_statistics", say(count=50_000)),
    "the run of a page": ("report", say(run="0" * 64)),
    "a row of the table": ("published_table", lambda result: result["rows"][0].update(ours=0.5)),
    "a cost in the table": ("published_table", lambda result: result["rows"][0].update(seconds=1.0)),
    "a row of the paper": ("published_table", lambda result: result["paper"][0].update(ours=1.5, verdict="better")),
    "a published number": ("published_table", lambda result: result["paper"][0].update(published=99.0)),
}


def test_an_untouched_result_of_every_kind_holds(made: dict[str, Path]) -> None:
    assert len(made) == 9
    for step, path in made.items():
        assert problems(path) == [], step


@pytest.mark.parametrize("lie", LIES)
def test_what_a_result_repeats_is_compared_with_its_source(made: dict[str, Path], lie: str) -> None:
    step, change = LIES[lie]
    found = problems(reseal(made[step], lambda fields: change(fields["result"])))
    assert found and all(len(line.splitlines()) == 1 for line in found)


def test_an_input_that_another_one_carries_is_that_one_s(made: dict[str, Path]) -> None:
    def other(fields: dict[str, Any]) -> None:
        for of in ("inputs", "input_keys"):
            fields["about"][of]["generator"] = fields["about"][of]["teacher"]

    assert any("its generator is not that of its scores" in line for line in problems(reseal(made["compare"], other)))


@pytest.mark.parametrize("step", [*(name for name in EVERY_STEP if name not in ("score", "score_data")), "nobody"])
def test_a_score_filed_under_another_step_is_found(made: dict[str, Path], step: str) -> None:
    path = made["score"]
    other = path.parents[2] / step / path.parent.name / "1.json"
    moved = reseal(path, lambda fields: fields["about"].update(step=step), other)
    assert found_in(moved)


def test_a_result_under_a_key_of_its_own_choice_is_found(made: dict[str, Path]) -> None:
    path, key = made["compare"], digest_of("of my own")
    moved = reseal(path, lambda fields: fields["about"].update(key=key), path.parents[1] / key / "1.json")
    assert any("under a key" in line for line in problems(moved))


def test_a_trained_teacher_and_a_distribution_of_labels_hold_until_they_are_changed(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: StepRun, *_: Any) -> TeachOutcome:
        return TeachOutcome(teacher=run.put(b"weights", "teacher.safetensors"), images_seen=1)

    monkeypatch.setattr("sida.training.teach_step.run_job", train)
    data = parse_manifest(made["prepare_data"].read_bytes(), "dataset")
    teacher = EVERY_STEP["teach"](recipe=small(), dataset=data).address
    labels = EVERY_STEP["label_distribution"](recipe=load("cifar10-cond")).address
    for address, lie in ((teacher, {"source_sha256": "0" * 64}), (labels, {"count": 60_000})):
        path = Path(address.removeprefix("file://"))
        assert problems(path) == []
        assert problems(reseal(path, lambda fields, lie=lie: fields["result"].update(lie)))


def test_a_folder_s_score_and_an_adopted_generator_hold_until_they_are_changed(made: dict[str, Path]) -> None:
    recipe = small()
    reference = parse_manifest(made["reference_statistics"].read_bytes(), "reference")
    folder = made["score"].parents[4] / "images"
    draw(folder, recipe.evaluation.images)
    scored = EVERY_STEP["score_images"](recipe=recipe, folder=str(folder), reference=reference).address
    adopted = EVERY_STEP["fetch_released"](recipe=recipe, address=ASSET.as_uri(), method="one step").address
    for address, lie in ((scored, row("images", checkpoint_sha256="0" * 64)), (adopted, say(method="SiD"))):
        path = Path(address.removeprefix("file://"))
        assert problems(path) == []
        assert problems(reseal(path, lambda fields, lie=lie: lie(fields["result"])))


def draw(folder: Path, count: int) -> None:
    """Write so many gray pictures of noise."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:04d}.png")


# -- numbers near the edge

EDGES = (math.nan, math.inf, -math.inf, 1e308, 1.7e308, -1e308, 1e101)


def score_of(metric: str, *values: float) -> Score:
    fields = {"model": "generator", "label": "g", "nfe": 1, "sampler": "one step", "checkpoint_sha256": None}
    sums = {"mean": values[0], "sd": 0.0}
    return Score(**fields, metric=metric, values=values, first_seeds=range(len(values)), n=10, **sums)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", EDGES)
def test_a_score_is_a_finite_number_whose_square_can_be_summed(made: dict[str, Path], value: float) -> None:
    with pytest.raises(ValueError, match=r"a finite number from -1e\+100 to 1e\+100"):
        score_of("fid", value)
    for step in ("score", "compare"):
        path = made[step]
        fields = json.loads(path.read_bytes()) | {"checksum": ""}
        fields["result"]["rows"][0]["values"][0] = value
        with pytest.raises(Corrupt):
            parse_manifest(json.dumps(fields).encode(), "file:///m.json")


@pytest.mark.parametrize(("metric", "value"), [("precision", 1.01), ("recall_digits", -0.1), ("is", 0.5), ("is", 1e9)])
def test_a_metric_lies_in_its_range(metric: str, value: float) -> None:
    with pytest.raises(ValueError, match="lies between"):
        score_of(metric, value)


def test_what_is_not_a_number_never_agrees() -> None:
    said = score_of("fid", 1.0, 2.0)
    for values in ((1.0, math.nan), (math.nan, 2.0)):
        again = said.model_copy(update={"values": values})
        assert not Recomputed(said, again).agrees and not Recomputed(again, said).agrees
    assert Recomputed(said, said).agrees


@pytest.mark.parametrize("sigma", [0.0, -2.5, 1e6, 1e308, math.inf, math.nan])
def test_a_generator_starts_from_noise_within_bounds(made: dict[str, Path], sigma: float) -> None:
    fields = json.loads(made["distill"].read_bytes()) | {"checksum": ""}
    fields["result"]["sigma_init"] = sigma
    made["distill"].chmod(0o644)
    made["distill"].write_text(json.dumps(fields))
    with pytest.raises(UserError, match="sigma_init") as refused:
        open_generator(f"file://{made['distill']}")
    assert refused.value.exit_code == 2 and len(str(refused.value).splitlines()) == 1
