"""Try the ranges of pyproject.toml: ``make matrix`` runs the same short tests in an environment at each of their ends.

uv makes each environment anew under build/matrix. torch is a CPU build from PyTorch's index or pip's find-links: the one that is
asked for, else the newest that is there, else none, and the tests that need it stay out; the table notes it. ``python -m
scripts.matrix NAME ...`` makes some environments alone; logs and the table lie in build/matrix too. Interpreters are those on PATH,
of pyenv, or of ``uv python install``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lock import LOCK, TORCH, TORCH_INDEX, asked, floors

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "matrix"
EXTRAS = ("pipeline", "laptop", "latents", "dev")
SHOWN = ("torch", "numpy", "scipy", "pillow", "pydantic", "kfp", "mlflow")
TESTS = (  # seconds each, and none imports torch
    "tests/test_recipe.py",  # pydantic, yaml
    "tests/data/test_decode.py",  # pillow, numpy
    "tests/pipeline/test_compile.py::test_the_compiled_pipelines_are_those_that_are_checked_in",  # kfp, kfp-kubernetes
    "tests/pipeline/test_compile.py::test_kfp_s_own_messages_accept_the_pipeline",
    "tests/launch/test_hostile_api.py",  # kubernetes
    "tests/stores/test_s3.py",  # botocore, urllib3
    "tests/tracking/test_places.py",  # mlflow, against its own server
    "tests/tracking/test_skinny.py",
)
WITH_TORCH = (
    "tests/numerics/test_frechet.py",  # scipy too
    "tests/numerics/test_losses.py",
    "tests/numerics/test_networks.py",
    "tests/report/test_page.py",  # matplotlib, jinja2, pillow's fonts
    "tests/data/test_patches.py",  # scikit-learn's photographs
    "tests/export/test_export.py",
    "tests/training/test_iteration.py",
)


@dataclass(frozen=True)
class Environment:
    """An interpreter, which end of the ranges it has, and its torch."""

    name: str
    python: str
    packages: str  # uv's --resolution, or "locked"
    torch: str


ENVIRONMENTS = (
    Environment("lowest-3.11", "3.11", "lowest-direct", "torch==2.6.*"),
    Environment("locked-3.12", "3.12", "locked", f"torch=={TORCH}"),
    Environment("locked-3.13", "3.13", "locked", f"torch=={TORCH}"),
    Environment("newest-3.11", "3.11", "highest", "torch"),
    Environment("newest-3.13", "3.13", "highest", "torch"),
)


@dataclass
class Outcome:
    """What an environment had, and how its tests ended."""

    environment: Environment
    seconds: float = 0
    versions: dict[str, str] = field(default_factory=dict)
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    broken: bool = False  # not made, though its interpreter is here; or its tests did not end as tests do

    def row(self) -> list[str]:
        counts = [str(each) for each in (self.passed, self.failed, self.skipped)] if self.versions else ["-"] * 3
        shown = [self.versions.get(name, "-") for name in SHOWN]
        return [self.environment.name, self.versions.get("python", "-"), *shown, *counts, f"{self.seconds:.0f}"]


def find_python(version: str) -> str | None:
    """An interpreter of this version: on PATH, of pyenv, or one that uv has installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    paths = [os.environ.get("PATH", ""), *map(str, sorted(pyenv.glob("versions/*/bin")))]
    variables = os.environ | {"PATH": os.pathsep.join(paths)}
    found = _uv("python", "find", "--system", "--no-project", "--no-python-downloads", version, env=variables)
    return found.stdout.strip() if found.returncode == 0 else None


def find_torch(environment: Environment, notes: list[str]) -> Path | None:
    """A CPU build of torch, downloaded; ``notes`` say where it is not the wanted one. No index with CUDA builds is asked."""
    folder = BUILD / "wheels" / environment.name
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--retries", "0", "--no-deps"]
    pip += ["--only-binary=:all:", "--python-version", environment.python, "--dest", str(folder)]
    for wish in dict.fromkeys((environment.torch, "torch")):
        if _run([*pip, "--index-url", TORCH_INDEX, wish]).returncode == 0:
            return next(folder.glob("torch-*.whl"))
        notes.append(f"no CPU build of {wish} for Python {environment.python} at {TORCH_INDEX} or in PIP_FIND_LINKS")
    notes.append("without the tests that need torch")
    return None


def make(environment: Environment, python: str, torch: Path | None) -> Path | str:
    """Install the environment; its interpreter, or what went wrong."""
    folder = BUILD / environment.name
    done = _uv("venv", "--quiet", "--clear", "--python", python, str(folder))
    interpreter = folder / "bin" / "python"
    installing = ["pip", "install", "--quiet", "--python", str(interpreter)]
    steps: list[list[str]] = []
    if environment.packages == "locked":
        steps.append([*installing, "--require-hashes", "-r", str(LOCK)])
        steps += [[*installing, str(torch)]] if torch else []
    else:
        wanted = [each for each in asked(*EXTRAS) if Requirement(each).name != "torch"]
        if environment.packages == "highest":
            wanted += floors(LOCK.read_text(encoding="utf-8"), wanted)
        steps.append([*installing, "--resolution", environment.packages, *wanted, *([str(torch)] if torch else [])])
    steps.append([*installing, "--no-deps", "--editable", str(ROOT)])
    for step in steps:
        if done.returncode == 0:
            done = _uv(*step)
    return interpreter if done.returncode == 0 else done.stderr.strip()


def versions_of(interpreter: Path) -> dict[str, str]:
    """What is installed there, by name; the interpreter's own under "python"."""
    listed = json.loads(_uv("pip", "list", "--format", "json", "--python", str(interpreter)).stdout)
    own = _run([str(interpreter), "-c", "import platform; print(platform.python_version())"]).stdout.strip()
    return {"python": own} | {canonicalize_name(each["name"]): each["version"] for each in listed}


def above_lowest(versions: dict[str, str]) -> list[str]:
    """What pyproject.toml asks for and is newer than its bound: the bound is tested by nothing."""
    found = []
    for wanted in map(Requirement, asked(*EXTRAS)):
        (bound,) = (each.version for each in wanted.specifier if each.operator in (">=", "=="))
        version = versions.get(canonicalize_name(wanted.name))
        if version is not None and wanted.name != "torch" and not f"{version}.".startswith(f"{bound}."):
            found.append(f"{wanted.name} {version}, though {wanted} is asked for: raise its bound")
    return found


def run_tests(interpreter: Path, tests: Iterable[str], outcome: Outcome) -> None:
    """Run them, and count as pytest does."""
    name = outcome.environment.name
    report, log = BUILD / f"{name}.xml", BUILD / f"{name}.log"
    report.unlink(missing_ok=True)
    command = [str(interpreter), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += ["-m", "not slow and not container and not cluster", *tests]
    if outcome.environment.packages == "lowest-direct":
        command += ["-W", "default::DeprecationWarning"]  # old packages use what others of their time deprecate
    with log.open("w") as file:
        status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, check=False).returncode
    outcome.broken |= status not in (0, 1) or not report.is_file()
    if report.is_file():
        count(report, outcome)
    if status:
        outcome.notes.append(f"pytest ended with status {status}: {log.relative_to(ROOT)}")


def count(report: Path, outcome: Outcome) -> None:
    """Add up pytest's report; name what failed."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314  # pytest's own, just written
        if any(case.find(kind) is not None for kind in ("failure", "error")):
            outcome.failed += 1
            outcome.notes.append(f"failed: {case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed += 1


def try_out(environment: Environment) -> Outcome:
    """Make one environment and run the tests in it."""
    outcome = Outcome(environment)
    start = time.monotonic()
    if (python := find_python(environment.python)) is None:
        outcome.notes.append(f"not made: no Python {environment.python} here")
        return outcome
    torch = find_torch(environment, outcome.notes)
    made = make(environment, python, torch)
    if isinstance(made, str):
        outcome.broken = True
        outcome.notes.append(f"cannot be installed: {made}")
    else:
        outcome.versions = versions_of(made)
        if environment.packages == "lowest-direct":
            outcome.notes += (above := above_lowest(outcome.versions))
            outcome.broken = bool(above)
        run_tests(made, (*TESTS, *WITH_TORCH) if torch else TESTS, outcome)
    outcome.seconds = time.monotonic() - start
    return outcome


def table(outcomes: Iterable[Outcome]) -> str:
    """A row an environment, then what is to be said of them."""
    outcomes = list(outcomes)
    rows = [["environment", "Python", *SHOWN, "passed", "failed", "skipped", "seconds"]]
    rows += [outcome.row() for outcome in outcomes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"{each.environment.name}: {note}" for each in outcomes for note in each.notes)])


def status_of(outcomes: Iterable[Outcome]) -> int:
    """1 where a test failed, an environment could not be installed, or nothing ran at all."""
    outcomes = list(outcomes)
    failed = any(outcome.failed or outcome.broken for outcome in outcomes)
    return int(failed or not any(outcome.passed for outcome in outcomes))


def _uv(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "-m", "uv", *arguments], env=env)


def _run(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def main(arguments: list[str]) -> int:
    """Try the environments that are named, or all; the exit status."""
    names = {each.name: each for each in ENVIRONMENTS}
    parser = argparse.ArgumentParser(description="Run short tests at both ends of the ranges of pyproject.toml.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)} (default: all)")
    chosen = parser.parse_args(arguments).names or list(names)
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no environment {unknown[0]!r}: {', '.join(names)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        outcomes.append(try_out(names[name]))
    told = table(outcomes)
    (BUILD / "table.txt").write_text(told + "\n", encoding="utf-8")
    print(told)
    return status_of(outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
