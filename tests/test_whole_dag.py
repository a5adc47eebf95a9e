"""The DAG end to end on real digits: result, reuse, force, kills, two at once, bad input. Everything through the command line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sida.manifests import GeneratorResult, Manifest, RunResult, TeacherResult, parse_manifest
from sida.scoring.detector import load_detector
from sida.settings import settings
from tests.conftest import ROOT

TINY = ROOT / "tests" / "recipes" / "tiny.yaml"


def command(recipe: Path | str, *options: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "run", str(recipe), "--json", *options]


def run(recipe: Path | str, *options: str, status: int = 0) -> tuple[dict[str, Any], str]:
    done = subprocess.run(command(recipe, *options), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if status == 0 else {}, done.stderr


def states(result: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in result["steps"]}


def made(result: dict[str, Any]) -> str:
    """Digests of the generator and of the curve that distill left."""
    address = next(step["manifest"] for step in result["steps"] if step["name"] == "distill")
    found = json.loads(Path(address.removeprefix("file://")).read_text())["result"]
    return f"{found['weights']['sha256']} {found['curve']['sha256']}"


def manifest_of(result: dict[str, Any], step: str) -> Manifest:
    """What a step of the run published."""
    address = next(made["manifest"] for made in result["steps"] if made["name"] == step)
    return parse_manifest(Path(address.removeprefix("file://")).read_bytes(), address)


def variant(folder: Path, text: str, base: str = str(TINY.with_suffix(""))) -> Path:
    path = folder / "variant.yaml"
    path.write_text(f"extends: {base}\nname: variant\n{text}")
    return path


def longer(folder: Path) -> Path:
    """Long enough to be killed in the middle: about ten seconds of training, a checkpoint every 512 images."""
    shutil.copy(TINY, folder / "tiny.yaml")
    return variant(folder, "method: {images: 8_192}\n", "tiny")


def test_the_dag_ends_with_scores_and_a_verdict_and_the_second_run_reuses_everything(place: Path) -> None:
    first, _ = run(TINY)
    assert set(states(first)) == {
        "fetch_teacher",
        "prepare_data",
        "reference_statistics",
        "score_teacher",
        "distill",
        "score",
        "compare",
        "report",
    }
    assert set(states(first).values()) == {"ran"}
    assert [score["model"] for score in first["scores"]] == ["teacher", "generator", "real"]
    assert all(score["metric"] == "fd_digits" and score["n"] == 200 for score in first["scores"])
    teacher, generator, real = (score["mean"] for score in first["scores"])
    assert real < generator < teacher  # three Heun steps make a poor teacher; 2,048 images already beat it
    assert "surpasses its teacher (Heun, 3 steps, 5 evaluations" in first["verdict"]
    assert "Both as the recipe records" in first["verdict"]
    for name in ("generator", "samples", "report", "run"):
        assert Path(first[name].removeprefix("file://")).stat().st_size > 100

    second, _ = run(TINY)
    assert set(states(second).values()) == {"reused"}
    assert second["scores"] == first["scores"]
    assert second["generator"] == first["generator"]

    forced, _ = run(TINY, "--force", "score")
    assert states(forced) == states(second) | {"score": "ran", "compare": "ran", "report": "ran"}
    assert forced["scores"] == first["scores"]  # the same seeds, the same numbers


def test_patches_of_photographs_in_color_go_through_the_dag(place: Path) -> None:
    found, _ = run(TINY.with_name("tiny-patches.yaml"))
    assert set(states(found).values()) == {"ran"}
    assert [(score["model"], score["metric"], score["n"]) for score in found["scores"]] == [
        ("teacher", "fd_random", 32),
        ("generator", "fd_random", 32),
        ("real", "fd_random", 32),
    ]


def _training_processes() -> list[int]:
    store = settings().store
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment, line = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if store.encode() in environment and (b"sida.worker" in line or b"pipeline" in line):
            found.append(int(entry.name))
    return found


def _pid(kind: Callable[[bytes], bool]) -> int:
    for pid in _training_processes():
        if kind(Path(f"/proc/{pid}/cmdline").read_bytes()):
            return pid
    raise AssertionError("no such process")


def _checkpoints(place: Path) -> list[str]:
    return [p.name for p in place.glob("store/jobs/distill/*/1/checkpoints/*.json")]


def _wait(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


VICTIMS: dict[str, Callable[[subprocess.Popen[bytes]], int]] = {
    "parent": lambda parent: parent.pid,
    "worker": lambda _: _pid(lambda line: b"sida.worker" in line),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digests of the generator and of the curve that nobody disturbs."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDA_STORE", f"file://{folder / 'store'}")
        patch.setenv("SIDA_RUNS", str(folder / "runs"))
        return made(run(longer(folder))[0])


@pytest.mark.slow
@pytest.mark.parametrize("victim", [*VICTIMS, "ctrl-c"])
def test_a_killed_run_leaves_no_orphan_and_continues_bit_for_bit(place: Path, victim: str, uninterrupted: str) -> None:
    recipe = longer(place)
    with subprocess.Popen(command(recipe), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as parent:
        _wait(lambda: len(_checkpoints(place)) >= 2)
        if victim == "ctrl-c":
            parent.send_signal(signal.SIGINT)
        else:
            os.kill(VICTIMS[victim](parent), signal.SIGKILL)
        parent.communicate(timeout=90)
        assert parent.returncode != 0
    _wait(lambda: not _training_processes(), 15)
    reached = _checkpoints(place)
    time.sleep(1)
    assert _checkpoints(place) == reached  # nobody trains on
    assert not list(place.glob("store/steps/distill/**/*.json"))  # nothing half-written is visible

    result, stderr = run(recipe)
    assert "continuing from the checkpoint at" in stderr
    assert states(result)["fetch_teacher"] == "reused"
    assert made(result) == uninterrupted


@pytest.mark.slow
def test_of_two_runs_at_once_one_is_told_who_holds_the_key(place: Path) -> None:
    recipe = longer(place)
    with subprocess.Popen(command(recipe), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        _wait(lambda: _checkpoints(place))
        _, stderr = run(recipe, status=2)
        assert "held by process" in stderr or "process" in stderr
        assert first.wait(timeout=120) == 0
    assert set(states(run(recipe)[0]).values()) == {"reused"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("teacher: {address: /nowhere/teacher.safetensors}", "/nowhere/teacher.safetensors: no such file"),
        (f"teacher: {{sha256: '{'0' * 64}'}}", "the recipe expects 0000"),
        ("method: {alhpa: 1}", "did you mean 'alpha'?"),
        ("gate: {teacher_at_most: 0.001}", "teacher gate: fd_digits"),
        ("execution: {processes: 3}", "does not divide among 3 processes"),
    ],
)
def test_bad_input_ends_in_one_line_and_status_2(place: Path, text: str, expected: str) -> None:
    shutil.copy(TINY, place / "tiny.yaml")
    _, stderr = run(variant(place, text, "tiny"), status=2)
    last = stderr.strip().splitlines()[-1]
    assert expected in last
    assert "Traceback" not in stderr


def test_an_unknown_recipe_or_step_writes_nothing(place: Path) -> None:
    assert "did you mean 'digits'" in run("digist", status=2)[1]
    assert "did you mean 'distill'" in run(TINY, "--force", "distil", status=2)[1]
    assert not (place / "store").exists()
    assert not (place / "runs").exists()


def test_a_store_that_cannot_be_written_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_text("not a folder")
    monkeypatch.setenv("SIDA_STORE", f"file://{place / 'file'}")
    assert str(place / "file") in run(TINY, status=2)[1].strip().splitlines()[-1]


def test_teach_makes_the_same_files_again_and_a_recipe_without_a_teacher_trains_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for number in (1, 2):
        monkeypatch.setenv("SIDA_STORE", f"file://{place / f'store{number}'}")
        teach = [sys.executable, "-m", "pipeline", "teach", str(TINY), "--output", str(place / f"assets{number}")]
        done = subprocess.run(teach, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
        said.append([line for line in done.stdout.splitlines() if "sha256" in line])
    assert said[0] == said[1]
    assert len(said[0]) == 2  # teacher and detector
    assert "held-out accuracy 99" in said[0][1]
    shutil.copy(TINY, place / "tiny.yaml")
    result, _ = run(variant(place, "teacher: {address: null, sha256: null}", "tiny"))
    assert states(result)["teach"] == "reused"  # store2 holds it already
    assert "fetch_teacher" not in states(result)


@pytest.mark.parametrize("variable", ["SIDA_WORKERS", "SIDA_LEASE_WAIT", "SIDA_CACHE_BYTES"])
def test_a_setting_that_is_no_number_is_named(place: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "many")
    assert f"{variable}='many'" in run(TINY, status=2)[1].strip().splitlines()[-1]


def test_work_that_does_not_divide_and_data_that_are_nowhere_are_said_before_anything_is_fetched(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "docs/benchmarks.md" in run("ffhq-64", status=2)[1].strip().splitlines()[-1]
    monkeypatch.setenv("SIDA_WORKERS", "7")
    said = run("cifar10-uncond", status=2)[1].strip().splitlines()
    possible = "1, 2, 4, 8, 16, 32, 64, 128, 256"
    assert said[-1].endswith(f"among 7 processes: use {possible} (execution.processes, or SIDA_WORKERS)")
    assert not (place / "store").exists()


@pytest.mark.slow
def test_sid2a_starts_from_a_finished_generator_that_its_recipe_names(place: Path) -> None:
    """SiD first, as published; then SiD2A from the file that it left."""
    shutil.copy(TINY, place / "tiny.yaml")
    sid, _ = run(variant(place, "method: {name: sid, alpha: 1.2, images: 768}\n", "tiny"))
    finished = shutil.copy(sid["generator"].removeprefix("file://"), place / "sid.safetensors")
    digest = hashlib.sha256(Path(finished).read_bytes()).hexdigest()
    generator = f"generator: {{address: sid.safetensors, sha256: '{digest}', licence: mine}}\n"

    # While the discriminator warms up theta does not move: what comes out is what went in, and not the teacher.
    still, _ = run(variant(place, f"{generator}method: {{name: sid2a, images: 512, generator_from: 512}}\n", "tiny"))
    assert made(still).split()[0] == made(sid).split()[0]
    start = manifest_of(still, "fetch_generator")
    assert isinstance(start.result, TeacherResult)
    assert (start.result.source_sha256, start.result.licence) == (digest, "mine")
    assert manifest_of(still, "distill").about.inputs["start"] == start.digest

    trained, _ = run(variant(place, f"{generator}method: {{name: sid2a, images: 1_024}}\n", "tiny"))
    found = states(trained)
    assert [found[step] for step in ("distill", "score", "compare", "report")] == ["ran"] * 4
    assert {state for step, state in found.items() if step not in ("distill", "score", "compare", "report")} == {
        "reused"
    }
    assert made(trained).split()[0] != made(sid).split()[0]
    result = manifest_of(trained, "distill").result
    assert isinstance(result, GeneratorResult) and (result.method, result.images_seen) == ("SiD2A", 1024)
    before, after = ({row["model"]: row["mean"] for row in scored["scores"]} for scored in (sid, trained))
    assert after["teacher"] == before["teacher"] and after["generator"] != before["generator"]

    wrong = generator.replace(digest, "0" * 64)
    assert "the recipe expects 0000" in run(variant(place, f"{wrong}method: {{name: sid2a}}\n", "tiny"), status=2)[1]
    assert "add a generator section" in run(variant(place, "method: {name: sid2a}\n", "tiny"), status=2)[1]


@pytest.mark.slow
def test_a_recipe_of_two_steps_goes_through_the_dag_on_two_processes(place: Path) -> None:
    found, _ = run(variant(place, "method: {steps: 2, images: 768}\nexpected: null\n"))
    assert set(states(found).values()) == {"ran"}
    assert [score["nfe"] for score in found["scores"]] == [5, 2, None]
    assert found["verdict"].startswith("The two-step generator ")
    assert "Score against steps" in Path(found["report"].removeprefix("file://")).read_text()
    scores = manifest_of(found, "score").result
    assert [row.nfe for row in scores.by_steps] == [1] and scores.by_steps[0].n == 200  # type: ignore[union-attr]


@pytest.mark.slow
def test_sid_needs_labels_alone_and_shows_what_there_is(place: Path) -> None:
    """As the published SiD runs of EDM2: a dataset.json and statistics that somebody published."""
    from sklearn.datasets import load_digits

    detector = load_detector(ROOT / "recipes" / "assets" / "digits-detector.safetensors")
    digits = load_digits()
    pixels = torch.tensor(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    features = detector(pixels).double().detach().numpy()
    np.savez(place / "reference.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    labels = [[f"{number}.png", int(label)] for number, label in enumerate(digits.target)]
    (place / "dataset.json").write_text(json.dumps({"labels": labels}))
    text = (
        "dataset: {source: labels, address: dataset.json, transform: none}\n"
        "method: {name: sid, generator_from: 0, adversarial_from: 0}\n"
        "evaluation: {reference: {address: reference.npz}}\nexpected: null\n"
    )
    result, said = run(variant(place, text))
    assert [score["model"] for score in result["scores"]] == ["teacher", "generator"]
    made = manifest_of(result, "compare").result
    assert isinstance(made, RunResult) and made.nearest is None
    assert [panel.model for panel in made.panels] == ["teacher", "generator"]
    page = Path(result["report"].removeprefix("file://")).read_text()
    assert "labels alone" in page and "Nearest training images" not in page
    assert "Traceback" not in said
