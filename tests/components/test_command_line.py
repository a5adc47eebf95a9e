"""``sida step``: a step alone, its command line made from the component itself."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from components import around
from sida.registry import STEPS

ROOT = Path(__file__).resolve().parents[2]


def components(*arguments: str, runs: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | ({"SIDA_RUNS": str(runs)} if runs else {})
    for name in ("SIDA_EVENTS", "SIDA_STORE"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-m", "components", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_arguments_it_lists_every_step_with_what_it_does() -> None:
    listed = components().stdout
    rows = dict(line.strip().split(maxsplit=1) for line in listed.splitlines() if line.startswith("  "))
    assert set(rows) == {*STEPS, *around.HELP}
    assert all(text.endswith(".") for text in rows.values())


def test_help_of_a_step_explains_every_flag_and_result_in_less_than_two_seconds() -> None:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = components("distill", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        for word in (
            "--recipe",
            "--teacher-scores",
            "--start",
            "--attempt",
            "ADDRESS",
            "generator of one step",
            "generator  ",
        ):
            assert word in shown.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(2)) < 2.0  # of a processor: others may be using this machine


def test_a_step_prints_the_address_of_its_result_and_reuses_it_when_run_again(tmp_path: Path) -> None:
    first = components("prepare_data", "--recipe", "digits", runs=tmp_path)
    assert first.returncode == 0, first.stderr
    name, address = first.stdout.strip().split("\t")
    assert name == "dataset" and Path(address.removeprefix("file://")).is_file()
    again = components("prepare_data", "--recipe", "digits", runs=tmp_path)
    assert again.stdout == first.stdout
    assert "reused" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("distil",), ["distil", "did you mean 'distill'"]),
        (("prepare_data",), ["--recipe", "--help"]),
        (("prepare_data", "--recipe", "digit"), ["digit", "did you mean 'digits'"]),
        (("prepare_data", "--recipe", "digits", "--attempt", "again"), ["again", "'new'"]),
        (("reference_statistics", "--recipe", "digits", "--dataset", "/nowhere.json"), ["--dataset", "/nowhere.json"]),
        (("teach", "--recipe", "digits", "--dataset", "ftp://x/y"), ["ftp"]),
    ],
)
def test_a_mistake_is_one_line_with_status_2_and_writes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    said = components(*arguments, runs=tmp_path / "runs")
    assert (said.returncode, said.stdout) == (2, ""), said.stderr
    (line,) = said.stderr.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()
