"""Resolve ``requirements.lock``: every package with hashes, except torch, whose right build depends on the machine.

``images/cpu.lock`` is the part of it that a container needs: the same pins without what only development uses.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
IMAGE_LOCK = ROOT / "images" / "cpu.lock"
BUILD = ["setuptools>=77", "wheel"]  # for the editable install without a network of its own


def torch_needs() -> list[str]:
    """What a CPU build of torch needs: the installed one says so."""
    return [
        r for r in metadata.requires("torch") or [] if ";" not in r and not r.startswith(("nvidia", "cuda", "triton"))
    ]


def wanted(*extras: str) -> list[str]:
    """The project's requirements with the named extras; torch itself aside, what it needs included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [*project["dependencies"], *torch_needs()]
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return [requirement for requirement in found if not requirement.startswith("torch")]


def part(lock: str, requirements: Iterable[str]) -> str:
    """The entries of ``lock`` that ``requirements`` lead to, by what the installed packages say they need."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    def named(needed: Iterable[str], extra: str) -> Iterable[tuple[str, str]]:
        for requirement in map(Requirement, needed):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield from ((canonicalize_name(requirement.name), wish) for wish in ("", *requirement.extras))

    found: set[tuple[str, str]] = set()
    pending = list(named(requirements, ""))
    while pending:
        if (item := pending.pop()) not in found:
            found.add(item)
            pending += named(metadata.requires(item[0]) or [], item[1])
    names = {name for name, _ in found}
    return "".join(entry for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", lock) if _name(entry) in names)


def _name(entry: str) -> str:
    return entry.partition("==")[0].strip().lower()


def main() -> int:
    """Run pip-compile over the project's requirements, then take the image's part of the outcome."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join([*wanted("pipeline", "laptop", "latents", "dev"), *BUILD]))
        options = [
            "--generate-hashes",
            "--strip-extras",
            "--allow-unsafe",
            "--no-emit-options",
            "--no-header",
            "--no-annotate",
        ]
        compiling = [sys.executable, "-m", "piptools", "compile", "--quiet", *options, "--output-file", str(LOCK)]
        if status := subprocess.run([*compiling, str(source)], check=False).returncode:
            return status
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)], check=True)
    IMAGE_LOCK.write_text(part(LOCK.read_text(), wanted("pipeline")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
