"""The Dockerfiles: clean by hadolint, and built the way that an administrator asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import image
from tests.conftest import ROOT
from tests.manifests.render import MANIFESTS

FILES = {name: ROOT / file for name, (file, _) in image.IMAGES.items()}
each_file = pytest.mark.parametrize("name", FILES)


def stages(path: Path) -> list[list[str]]:
    """The instructions of each stage, continuation lines joined; what stands before the first FROM is the first list."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", path.read_text()))
    found: list[list[str]] = [[]]
    for line in filter(None, text.splitlines()):
        if line.startswith("FROM "):
            found.append([])
        found[-1].append(line)
    return found


@each_file
def test_hadolint_has_nothing_to_say(name: str) -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert program is not None, "hadolint is missing: make setup"
    done = subprocess.run([program, "--no-color", str(FILES[name])], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@each_file
def test_the_last_stage_only_copies_and_runs_as_a_number(name: str) -> None:
    head, *built, last = stages(FILES[name])
    assert head == [f"ARG BASE={image.BASE}"] and ":latest" not in image.BASE
    assert len(built) >= 1
    assert not [line for line in last if line.startswith(("RUN", "ADD"))]
    assert [line for line in last if line.startswith("USER")] == ["USER 10001:10001"]
    assert all("--from=" in line for line in last if line.startswith("COPY"))
    label = next(line for line in last if line.startswith("LABEL"))
    for key in ("title", "description", "licenses", "source", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{key}=" in label


@each_file
def test_every_package_is_locked_with_hashes(name: str) -> None:
    runs = [line for stage in stages(FILES[name]) for line in stage if line.startswith("RUN")]
    installs = re.findall(r"pip install [^&]*", " ".join(runs))
    assert installs
    for install in installs:
        # A torch that the builder names instead of the lock's has no hash; sida itself is the source that is being built.
        assert "--require-hashes" in install or '"${TORCH}"' in install or "--editable ." in install, install
    for lock in set(re.findall(r"/locks/([a-z]+\.lock)", " ".join(runs))) - {"requirements.lock", "build.lock"}:
        text = (ROOT / "images" / lock).read_text()
        entries = re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]
        assert entries and all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def test_the_cuda_image_is_the_cpu_image_with_another_torch_and_libraries_for_rdma() -> None:
    _, cpu_packages, cpu_sources, cpu_last = stages(FILES["cpu"])
    _, cuda_packages, cuda_sources, system, cuda_last = stages(FILES["cuda"])
    assert cpu_sources == cuda_sources
    assert [line for line in cpu_last if not line.startswith(("FROM", "LABEL"))] == [
        line for line in cuda_last if not line.startswith(("FROM", "LABEL"))
    ]
    different = set(cpu_packages) ^ set(cuda_packages)
    assert {line.split()[0] for line in different} == {"ARG", "COPY", "RUN"} and len(different) == 7
    assert "libibverbs1" in system[1]


@pytest.mark.parametrize("name", ["cuda", "mlflow"])
def test_only_the_cpu_image_takes_another_torch(name: str) -> None:
    with pytest.raises(SystemExit, match="--torch is for the CPU image"):
        image.main(["--image", name, "--torch", "torch==1.0"])


def test_the_manifests_name_the_images_that_are_built_here() -> None:
    named = {
        match[1]
        for path in MANIFESTS.rglob("*.yaml")
        for match in re.finditer(r"image: \S+/(sida[a-z-]*)@sha256:", path.read_text())
    }
    assert named == {tag.split("/")[-1].split(":")[0] for _, tag in image.IMAGES.values()}
