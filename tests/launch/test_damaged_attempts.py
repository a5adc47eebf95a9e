"""A manifest that is damaged: its step takes what the job left, where the objects prove that it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sida import recipe
from sida.errors import UserError
from sida.launch import job
from sida.launch.base import Work
from sida.launch.job import run_job
from sida.launch.spec import (
    DistillSpec,
    ManifestRef,
    ScoreSpec,
    Spec,
    TeachSpec,
    is_best,
    outcome_file,
    parse_curve,
    parse_job,
)
from sida.manifests import TeacherResult
from sida.settings import settings
from sida.steps import StepRun, step
from sida.stores import open_store
from sida.stores.objects import put_object

RECIPE = recipe.load("digits")
DATA = ManifestRef(key="steps/prepare_data/" + "0" * 64 + "/1.json", digest="1" * 64)
POINTS = [{"images": 512, "score": 3.5}, {"images": 1024, "loss": 1.0}, {"images": 2048, "score": 1.23457}]
SPECS: dict[str, Spec[Any]] = {
    "teach": TeachSpec(dataset=DATA),
    "distill": DistillSpec(teacher=DATA, start=DATA, dataset=DATA, reference=DATA),
    "score": ScoreSpec(model=DATA, dataset=DATA, reference=DATA, first_seeds=(0,), count=10),
}
chosen: list[str] = []
worked: list[str] = []


@step(version=1, sources=("sida/errors.py",), launches=True)
def laborious(run: StepRun, recipe: recipe.Recipe, kind: str) -> TeacherResult:
    run.claim({"kind": kind})
    outcome = run_job(run, SPECS[kind])
    weights = getattr(outcome, "teacher", None) or getattr(outcome, "generator", None)
    weights = weights or run.put(outcome.model_dump_json().encode(), "score.json")
    return TeacherResult(network={}, weights=weights, source_sha256=weights.sha256, licence="none")


class Workers:
    """In place of processes: they leave an outcome of their kind."""

    def __init__(self, log: Path) -> None:
        pass

    def run(self, work: Work) -> None:
        worked.append(work.job)
        store = open_store(settings().store)
        weights = put_object(store, f"weights {len(worked)}".encode(), "weights.safetensors").__dict__
        curve = put_object(store, json.dumps(POINTS).encode(), "curve.json").__dict__
        outcomes: dict[str, dict[str, Any]] = {
            "teach": {"teacher": weights, "images_seen": 9},
            "distill": {"generator": weights, "curve": curve, "images_seen": 2048, "score": 1.2345678, "dropped": 0}
            | {"seconds": {}, "profile": {}},
            "score": {"values": [float(len(worked))], "sampling_bias": 0.1, "images_per_second": 1.0, "batch": 1},
        }
        file = parse_job(store.read(work.job), work.job)
        outcome = file.spec.outcome.model_validate(outcomes[file.spec.kind])
        store.put(f"{file.folder}/{job.RESULT}", outcome_file(file.folder, file.spec, outcome))

    def settle(self, work: Work) -> None:
        pass


@pytest.fixture(autouse=True)
def _workers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worked.clear()
    monkeypatch.setattr(job, "LocalLauncher", Workers)


def damaged(kind: str) -> tuple[Any, Path]:
    """A result whose manifest lost a byte, and the store's folder."""
    first = laborious(recipe=RECIPE, kind=kind)
    path = Path(first.address.removeprefix("file://"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-2])
    return first, path.parents[3]


def job_files(store: Path, name: str) -> Path:
    (path,) = store.glob(f"jobs/laborious/*/1/{name}")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("kind", ["teach", "distill"])
def test_what_the_job_made_is_taken_where_only_the_manifest_is_damaged(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = damaged(kind)
    again = laborious(recipe=RECIPE, kind=kind)
    assert len(worked) == 1 and again.address.endswith("/2.json")
    assert again.manifest.digest == first.manifest.digest
    assert "attempt 1" in capsys.readouterr().err
    assert laborious(recipe=RECIPE, kind=kind).reused


def change(name: str, old: str, new: str) -> Callable[[Path], object]:
    def apply(store: Path) -> None:
        path = job_files(store, name)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return apply


def _swap_weights(store: Path) -> None:
    """Another whole object in the place of the generator."""
    other = put_object(open_store(settings().store), b"another network", "weights.safetensors")
    path = job_files(store, "result.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"generator": other.__dict__}))


def _older(store: Path) -> None:
    path = job_files(store, "result.json")
    fields = json.loads(path.read_text())
    del fields["checksum"]
    path.write_text(json.dumps(fields))


def _of_another_task(store: Path) -> None:
    """What the job of another data set would have left, in this one's folder."""
    path = job_files(store, "result.json")
    fields = json.loads(path.read_text())
    del fields["checksum"]
    other = DATA.model_copy(update={"digest": "2" * 64})
    spec = DistillSpec(teacher=other, start=other, dataset=other, reference=other)
    path.write_bytes(outcome_file(_folder(path), spec, spec.outcome.model_validate(fields)))


def _of_another_folder(store: Path) -> None:
    path = job_files(store, "result.json")
    fields = json.loads(path.read_text())
    del fields["checksum"]
    spec = SPECS["distill"]
    path.write_bytes(outcome_file(_folder(path)[:-1] + "2", spec, spec.outcome.model_validate(fields)))


def _folder(path: Path) -> str:
    return "/".join(path.parent.parts[-4:])


def _flip_weights(store: Path) -> None:
    (path,) = store.glob("objects/*/*.safetensors")
    path.chmod(0o644)
    path.write_bytes(b"Weights 1")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no result": lambda store: job_files(store, "result.json").unlink(),
    "half a result": lambda store: job_files(store, "result.json").write_text('{"generator": {'),
    "another digest": change("result.json", '"sha256": "', '"sha256": "0'),
    "another score": change("result.json", "1.2345678", "0.2345678"),
    "other images": change("result.json", "2048", "1024"),
    "weights that changed": _flip_weights,
    "another network": _swap_weights,
    "other seconds": change("result.json", '"dropped": 0', '"dropped": 1'),
    "no checksum": _older,
    "another task": _of_another_task,
    "another job's": _of_another_folder,
    "nested too deep": lambda store: job_files(store, "result.json").write_text("[" * 100_000),
    "a list": lambda store: job_files(store, "result.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_proven_whole_is_made_again(damage: str) -> None:
    _, store = damaged("distill")
    DAMAGES[damage](store)
    laborious(recipe=RECIPE, kind="distill")
    assert len(worked) == 2


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "no result"])
def test_a_result_that_is_not_believed_is_made_again_by_the_same_attempt(
    damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = laborious(recipe=RECIPE, kind="distill")
    path = Path(first.address.removeprefix("file://"))
    path.unlink()  # as if the step had been killed before it published
    DAMAGES[damage](path.parents[3])
    again = laborious(recipe=RECIPE, kind="distill")
    assert len(worked) == 2 and again.address.endswith("/1.json")
    assert "cannot be used" in capsys.readouterr().err


CURVES = [
    b'[{"images": 1, "score": null}]',
    b'[{"images": 1, "score": "x"}]',
    b'[{"images": 1, "score": NaN}]',
    b'[{"images": 1, "score": 1e999}]',
    b'[{"images": 1, "score": true}]',
    b'[{"images": [1], "score": 1}]',
    b'[{"score": 1}]',
    b'[[["images", 1]]]',
    b'{"images": 1}',
    b"null",
    b"[null]",
    b'[{"images": ' + b"9" * 5000 + b"}]",
    b"[" * 100_000,
    b"\xff",
]


@pytest.mark.parametrize("content", CURVES)
def test_what_is_no_curve_is_refused_in_a_line(content: bytes) -> None:
    with pytest.raises(UserError, match=r"its curve .*: run the step again") as caught:
        parse_curve(content)
    assert "\n" not in str(caught.value)


def test_a_curve_is_read_as_it_was_written() -> None:
    points = parse_curve(json.dumps(POINTS).encode())
    assert points == POINTS and is_best(points, 2048, 1.2345678) and not is_best(points, 512, 3.5)
    assert not is_best(parse_curve(b"[]"), 0, 1.0)


def test_numbers_that_no_object_holds_are_measured_again() -> None:
    damaged("score")
    laborious(recipe=RECIPE, kind="score")
    assert len(worked) == 2


def test_an_attempt_that_is_wanted_anew_takes_nothing_from_a_damaged_one() -> None:
    damaged("distill")
    laborious(recipe=RECIPE, kind="distill", attempt="new")
    assert len(worked) == 2
