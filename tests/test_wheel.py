"""What `pip wheel` packs: the library with its data and its licence, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import sida
from tests.conftest import ROOT

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.mark.slow
def test_the_wheel_holds_the_library_its_data_and_its_licence(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("sida", "pipeline", "components", "tests"):  # the last three must stay out
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", BUILD, str(tmp_path / "dist")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name == f"sida-{sida.__version__}-py3-none-any.whl"
    packed = set(zipfile.ZipFile(wheel).namelist())
    about = f"sida-{sida.__version__}.dist-info"
    assert {name.partition("/")[0] for name in packed} == {"sida", about}
    assert f"{about}/licenses/LICENSE" in packed
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sida").rglob("*") if path.is_file()}
    assert {name for name in packed if name.startswith("sida/")} == {n for n in ours if "__pycache__" not in n}


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == sida.__version__
    assert cited["license"] == "Apache-2.0"
