"""``sida`` as a user meets it: help, lists, and one line for each mistake."""

import importlib.util
import os
import platform
import re
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from sida import __version__
from sida.data.latents import check_vae
from sida.errors import UserError
from sida.recipe import Latents
from tests.pipeline.command import Command

ROOT = Path(__file__).resolve().parents[2]


def pipeline(*arguments: str, runs: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, NO_COLOR="1") | ({"SIDA_RUNS": str(runs)} if runs else {})
    environment.pop("SIDA_STORE", None)
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def own_recipe(folder: Path, change: str, to: str) -> str:
    """The digits recipe, resolved, with one line changed."""
    text = pipeline("show", "digits").stdout
    assert change in text
    path = folder / "mine.yaml"
    path.write_text(text.replace(change, to, 1))
    return str(path)


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("teach", "--help")])
def test_help_has_examples_and_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = (
        f"import runpy, sys; sys.argv[1:] = {list(arguments)!r}\n"
        "try: runpy.run_module('pipeline', run_name='__main__')\n"
        "finally: assert not {'kfp', 'torch', 'mlflow', 'rich', 'kubernetes', 'botocore', 'shtab'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "examples:" in shown.stdout
    assert arguments[0] != "--help" or all(f"\n  {status} " in shown.stdout for status in ("0", "1", "2", "130"))


def test_help_takes_less_than_half_a_second() -> None:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert pipeline("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(3)) < 0.5  # of a processor: others may be using this machine


def test_version_is_one_line_with_what_a_report_of_a_fault_needs() -> None:
    said = pipeline("--version")
    assert said.returncode == 0 and said.stderr == ""
    (line,) = said.stdout.splitlines()
    assert line.startswith(f"sida {__version__}, python {platform.python_version()}, ")
    assert f"torch {version('torch')}, " in line and f"kfp {version('kfp')}" in line


def test_list_shows_the_paper_s_table_with_targets_and_names_every_recipe() -> None:
    shown = pipeline("list").stdout
    _, table, _, ours, others = shown.split("\n\n")  # each table below its group; the rest have no table
    rows = {line.split("  ")[0]: line for line in table.splitlines()[1:]}
    assert len(rows) == 11
    assert re.search(r"1\.97 \(35\) .* 1\.923 .* 1\.499 .* cifar10-uncond -sid", rows["CIFAR-10 32x32 unconditional"])
    assert re.search(r"1\.91 \(63\) .* 1\.81 .* 1\.366 ", rows["ImageNet 512x512, EDM2-XXL"])
    named = {line.split()[0] for line in others.splitlines()}
    for line in (*rows.values(), *ours.splitlines()[1:]):
        base, *variants = re.search(r"  ([a-z][a-z0-9-]+(?: [a-z0-9-]+)*)$", line)[1].split()  # type: ignore[index]
        named |= {base, *(base + name if name.startswith("-") else name for name in variants)}
    assert named == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}


def test_show_says_which_file_and_line_set_a_value() -> None:
    lines = pipeline("show", "ffhq-64-sid2a-alpha12").stdout.splitlines()
    found = {line.split(":")[0].strip(): line.split("  # ")[-1] for line in lines if "  # " in line}
    for field, file in {"alpha": "ffhq-64-sid2a-alpha12", "batch": "ffhq-64", "tmax": "bases/edm"}.items():
        name, line = found[field].split(".yaml:")
        assert name == file
        assert f"{field}: " in (ROOT / "recipes" / f"{file}.yaml").read_text().splitlines()[int(line) - 1]
    assert found["decay_from"] == "default"


def test_show_lists_the_addresses_that_a_machine_without_internet_needs() -> None:
    done = pipeline("show", "imagenet-64-sid2a", "--addresses")
    names = [line.rpartition("/")[2] for line in done.stdout.splitlines()]
    assert {"edm-imagenet-64x64-cond-adm.pkl", "inception-2015-12-05.pt", "imagenet-64x64.npz"} < set(names)
    assert len(names) == len(set(names)) == 6  # those, two generators, and the reference of precision and recall


def test_what_show_prints_is_a_recipe_that_resolves_to_itself(tmp_path: Path) -> None:
    first = pipeline("show", "digits").stdout
    path = tmp_path / "mine.yaml"
    path.write_text(first)
    assert yaml.safe_load(pipeline("show", str(path)).stdout) == yaml.safe_load(first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "digit"), ["digit", "did you mean 'digits'"]),
        (("run", "nowhere/mine.yaml"), ["nowhere/mine.yaml", "check the path"]),
        (("run", "digits", "--force", "distil"), ["distil", "did you mean 'distill'"]),
        (("run", "digits", "--wait", "soon"), ["--wait", "soon"]),
        (("run",), ["RECIPE", "--help"]),
        (("runn",), ["runn", "'run'"]),
    ],
)
def test_a_mistake_in_the_command_is_one_line_with_status_2_and_writes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    said = pipeline(*arguments, runs=tmp_path / "runs")
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "to", "words"),
    [
        ("alpha: 1.0", "alphaa: 1.0", ["method.alphaa", "alpha"]),
        ("alpha: 1.0", "alpha: late", ["method.alpha", "late"]),
        ("digits-teacher.safetensors", "nothing.safetensors", ["teacher", "nothing.safetensors", "no such file"]),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line_with_status_2_and_writes_nothing(
    tmp_path: Path, change: str, to: str, words: list[str]
) -> None:
    said = pipeline("run", own_recipe(tmp_path, change, to), runs=tmp_path / "runs")
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


def test_a_teacher_that_no_recipe_trains_is_refused_before_the_data_are_fetched(tmp_path: Path) -> None:
    said = pipeline("teach", "cifar10-uncond", "--store", str(tmp_path / "store"))
    assert said.returncode == 2 and said.stderr.count("\n") == 1, said.stderr
    assert "teacher.train is missing, so there is nothing to train: add it; `run` fetches its teacher" in said.stderr
    assert not (tmp_path / "store").exists()


def test_a_teacher_with_another_digest_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    teacher = tmp_path / "other.safetensors"
    teacher.write_bytes(b"not the teacher")
    recipe = own_recipe(tmp_path, f"file://{ROOT}/recipes/assets/digits-teacher.safetensors", str(teacher))
    said = pipeline("run", recipe, runs=tmp_path / "runs")
    assert said.returncode == 2
    (line,) = said.stderr.splitlines()
    assert "sha256" in line and teacher.name in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_nowhere_and_its_number_no_file_s(closed: str, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m pipeline list {closed}"
    said = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert ("digits-full" in said.stdout) == (closed in ("<&-", "2>&-"))


def test_a_folder_that_is_gone_under_a_command_is_said(tmp_path: Path) -> None:
    command = f"cd {tmp_path} && rmdir {tmp_path} && exec {sys.executable} -m pipeline status"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIDA_")}
    said = subprocess.run(
        ["bash", "-c", command],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert said.stderr == "error: the folder that this is run in is gone: change into another one\n"


def test_plan_says_that_counting_a_network_of_many_blocks_takes_its_time(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(*_: object) -> None:
        raise UserError("counted")

    monkeypatch.setattr("sida.training.cost.iteration_cost", count)
    assert command("plan", "digits").mistake() == "error: counted"
    deep = command.place / "deep.yaml"
    deep.write_text("extends: digits\nname: deep\nteacher: {network: {num_blocks: 32}}\n")
    assert command("plan", str(deep)).err.startswith("counting the work of 64 blocks, layer by layer: ")


@pytest.mark.parametrize(
    ("vae", "words"),
    [
        ("stabilityai/sd-vae-ft-mse", ["dataset.latents.revision is not set", "sida pin"]),
        ("/nowhere/sd-vae", ["dataset.latents.vae /nowhere/sd-vae", "no such folder"]),
    ],
)
def test_a_vae_that_could_not_be_loaded_is_said_before_a_teacher_of_gigabytes_is_fetched(
    tmp_path: Path, vae: str, words: list[str]
) -> None:
    (tmp_path / "images").mkdir()
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"extends: imagenet-512-edm2-xxl\nname: mine\ndataset: {{address: {tmp_path}/images, latents: {{vae: {vae}}}}}\n"
    )
    said = pipeline("run", str(mine), runs=tmp_path / "runs")
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


def test_a_vae_without_diffusers_is_said_before_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    latents = Latents(vae=str(tmp_path), licence="-", image_resolution=64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"latents need the package diffusers: pip install 'diffusers"):
        check_vae(latents)
