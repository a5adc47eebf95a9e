"""Resolve ``requirements.lock``: every package with hashes, except torch, whose right build depends on the machine.

``images/cpu.lock`` is the part of it that a container needs: the same pins without what only development uses. Beside it:
``cuda.lock`` is torch with CUDA and no more than what ``cpu.lock`` lacks, ``mlflow.lock`` the tracking server, ``sbom.lock`` what
``scripts/sbom.py`` runs. ``python scripts/lock.py cuda mlflow sbom`` resolves these alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
IMAGES = ROOT / "images"
IMAGE_LOCK = IMAGES / "cpu.lock"
TORCH = "2.13.0"
OTHERS = {  # lock -> requirements, and pins of requirements.lock that do not fit them
    "cuda": ([f"torch=={TORCH}"], ()),
    "mlflow": (["mlflow>=3.1,<3.18", "psycopg[binary]>=3.2", "boto3>=1.35"], ()),
    "sbom": (["cyclonedx-bom>=7", "debsbom[cdx]>=0.6"], ()),
}
OPTIONS = [
    "--generate-hashes",
    "--strip-extras",
    "--allow-unsafe",
    "--no-emit-options",
    "--no-header",
    "--no-annotate",
]
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


def compile_lock(requirements: Iterable[str], lock: Path, *more: str, plain_index: bool = False) -> int:
    """pip-compile; the exit status. ``plain_index``: without the folders of wheels that pip's settings name, PyPI's files only."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(requirements))
        command = [sys.executable, "-m", "piptools", "compile", "--quiet", *OPTIONS, *more, "--output-file", str(lock)]
        variables = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
        variables["PIP_CONFIG_FILE"] = os.devnull
        return subprocess.run([*command, str(source)], env=variables if plain_index else None, check=False).returncode


def compile_other(name: str) -> int:
    """One of OTHERS, with the project's pins where both have a package."""
    requirements, unfit = OTHERS[name]
    pins = re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", LOCK.read_text())
    with tempfile.TemporaryDirectory() as folder:
        constraints, made = Path(folder) / "constraints.txt", Path(folder) / "made.lock"
        constraints.write_text("".join(f"{pin}=={version}\n" for pin, version in pins if pin not in unfit))
        more = ("--constraint", str(constraints), "--pip-args", "--use-feature=fast-deps")
        if status := compile_lock(requirements, made, *more, plain_index=name == "cuda"):
            return status
        text = made.read_text()
    if name == "cuda":
        ours = {pin.lower() for pin, _ in pins}
        entries = [
            entry for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", text) if "==" in entry and _name(entry) not in ours
        ]
        text = "".join(torch_entry() if _name(entry) == "torch" else entry for entry in entries)
    (IMAGES / f"{name}.lock").write_text(text)
    return 0


def torch_entry() -> str:
    """torch with the hashes that PyPI has of its x86_64 wheels: pip-compile would take that of a wheel on this machine."""
    asking = urllib.request.Request(
        "https://pypi.org/simple/torch/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(asking, timeout=60) as answer:  # noqa: S310 (https)
        files = json.load(answer)["files"]
    wheel = re.compile(rf"torch-{re.escape(TORCH)}-cp31[123]-cp31[123]-manylinux\w*_x86_64\.whl")
    hashes = sorted(file["hashes"]["sha256"] for file in files if wheel.fullmatch(file["filename"]))
    return f"torch=={TORCH} \\\n" + " \\\n".join(f"    --hash=sha256:{digest}" for digest in hashes) + "\n"


def main(names: list[str]) -> int:
    """Run pip-compile over the project's requirements, take the image's part of the outcome, then do the others."""
    if not names:
        if status := compile_lock([*wanted("pipeline", "laptop", "latents", "dev"), *BUILD], LOCK):
            return status
        installing = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)]
        subprocess.run(installing, check=True)
        IMAGE_LOCK.write_text(part(LOCK.read_text(), wanted("pipeline")))
    return max(compile_other(name) for name in names or OTHERS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
