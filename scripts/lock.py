"""Resolve ``requirements.lock``: every package with hashes, except torch, whose right build depends on the machine.

``images/cpu.lock`` is the part of it that a container needs: the same pins without what only development uses. Beside it:
``cuda.lock`` is torch with CUDA and no more than what ``cpu.lock`` lacks, ``mlflow.lock`` the tracking server, ``sbom.lock`` what
``scripts/sbom.py`` runs, ``torch.lock`` the CPU image's torch, from PyTorch's own index. ``python scripts/lock.py cuda mlflow sbom
torch`` resolves these alone. Without names, pins stay where they still fit; ``--newest`` (`make lock`) moves them all.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
IMAGES = ROOT / "images"
IMAGE_LOCK = IMAGES / "cpu.lock"
TORCH = "2.13.0"
OTHERS = {
    "cuda": [f"torch=={TORCH}"],
    "mlflow": ["mlflow>=3.2,<3.18", "psycopg[binary]>=3.2", "boto3>=1.35"],
    "sbom": ["cyclonedx-bom>=7", "debsbom[cdx]>=0.6"],
    "torch": [f"torch=={TORCH}+cpu"],
}
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # its CPU builds are nowhere else
BUILD = ["setuptools>=77", "wheel"]  # for the editable install without a network of its own


def torch_needs() -> list[str]:
    """What a CPU build of torch needs: the installed one says so."""
    return [
        r for r in metadata.requires("torch") or [] if ";" not in r and not r.startswith(("nvidia", "cuda", "triton"))
    ]


def asked(*extras: str) -> list[str]:
    """The project's requirements with the named extras, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]


def wanted(*extras: str) -> list[str]:
    """The project's requirements with the named extras; torch itself aside, what it needs included."""
    return [each for each in [*asked(*extras), *torch_needs()] if not each.startswith("torch")]


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
    return "".join(entry for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", lock) if entry.partition("==")[0] in names)


def pinned(lock: str) -> list[str]:
    """The names of the packages in a lock."""
    return re.findall(r"(?m)^([A-Za-z0-9._-]+)==", lock)


def floors(lock: str, requirements: Iterable[str]) -> list[str]:
    """What ``requirements`` name, at no older version than in ``lock``: uv may go back with kfp to move what kfp pins."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    names = {canonicalize_name(Requirement(each).name) for each in requirements}
    pins = re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", lock)
    return [f"{name}>={version}" for name, version in pins if name in names]


def resolve(requirements: Iterable[str], lock: Path, *options: str) -> None:
    """Write ``lock`` by uv, which reads none of pip's settings; the versions that it holds already stay where they fit."""
    options = ("--generate-hashes", "--no-annotate", "--no-header", "--quiet", *options)
    command = [sys.executable, "-m", "uv", "pip", "compile", "--python", sys.executable, *options]
    uv = subprocess.run([*command, "--output-file", lock, "-"], input="\n".join(requirements), text=True, check=False)
    if uv.returncode:
        sys.exit(uv.returncode)


def resolve_other(name: str) -> None:
    """Resolve one of OTHERS, with the project's versions where they fit; CUDA's without what the project's lock holds."""
    left_out = [f"--no-emit-package={each}" for each in pinned(LOCK.read_text()) if name == "cuda"]
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(shutil.copy(LOCK, folder))
        resolve(OTHERS[name], lock, *left_out, *(("--no-deps", "--index", TORCH_INDEX) if name == "torch" else ()))
        shutil.copy(lock, IMAGES / f"{name}.lock")


def main(arguments: list[str]) -> None:
    """Resolve the project's requirements, take the image's part of the outcome, then resolve the others."""
    parser = argparse.ArgumentParser(description="Resolve the locks anew.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"these alone: {', '.join(OTHERS)}")
    parser.add_argument("--newest", action="store_true", help="move every pin to the newest version in its range")
    args = parser.parse_args(arguments)
    for name in args.names:
        if name not in OTHERS:
            parser.error(f"no lock {name!r}: {', '.join(OTHERS)}")
    if not args.names:
        requirements = [*wanted("pipeline", "laptop", "latents", "parquet", "dev"), *BUILD]
        if args.newest:
            resolve([*requirements, *floors(LOCK.read_text(), requirements)], LOCK, "--upgrade")
        else:
            resolve(requirements, LOCK)
        installing = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)]
        subprocess.run(installing, check=True)
        IMAGE_LOCK.write_text(part(LOCK.read_text(), wanted("pipeline", "latents")))
    for name in args.names or OTHERS:
        resolve_other(name)


if __name__ == "__main__":
    main(sys.argv[1:])
