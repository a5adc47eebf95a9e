"""Resolve ``requirements.lock``: every package with hashes, except torch, whose right build depends on the machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ["setuptools>=77", "wheel"]  # for the editable install without a network of its own


def torch_needs() -> list[str]:
    """What a CPU build of torch needs: the installed one says so."""
    return [
        r for r in metadata.requires("torch") or [] if ";" not in r and not r.startswith(("nvidia", "cuda", "triton"))
    ]


def main() -> int:
    """Run pip-compile over the project's requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *BUILD, *torch_needs()]
    for extra in ("pipeline", "dev"):
        wanted += project["optional-dependencies"][extra]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(r for r in wanted if not r.startswith("torch")))
        options = [
            "--generate-hashes",
            "--strip-extras",
            "--allow-unsafe",
            "--no-emit-options",
            "--no-header",
            "--no-annotate",
        ]
        target = ["--output-file", str(ROOT / "requirements.lock"), str(source)]
        return subprocess.run(
            [sys.executable, "-m", "piptools", "compile", "--quiet", *options, *target], check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
