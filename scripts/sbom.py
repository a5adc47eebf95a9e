"""Write an image's software bill of materials: ``python3 scripts/sbom.py IMAGE [--output sbom.cdx.json]`` (CycloneDX 1.6).

cyclonedx-py lists the Python packages of the image, debsbom those of Debian with their sources; both come from ``images/sbom.lock``
into a temporary environment. The image is read, never run. To attach it: ``cosign attest --type cyclonedx --predicate FILE IMAGE``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "images" / "sbom.lock"


def main(arguments: list[str]) -> int:
    """Write the file; the exit status."""
    parser = argparse.ArgumentParser(description="Write the software bill of materials of an image.")
    parser.add_argument("image", help="an image that docker, podman or buildah has, or the folder of its files")
    parser.add_argument("--output", type=Path, default=Path("sbom.cdx.json"), help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, files_of(args.image, Path(folder)) as root:
        tools = environment(Path(folder) / "tools")
        parts = [python_packages(root, tools, Path(folder)), debian_packages(root, tools, Path(folder))]
        made = merged(args.image, *parts)
    partial = args.output.with_name(f"{args.output.name}.partial")
    partial.write_text(json.dumps(made, indent=1) + "\n")
    partial.replace(args.output)
    print(f"{args.output}: {len(parts[0]['components'])} Python packages, {len(parts[1]['components'])} of Debian")
    return 0


@contextmanager
def files_of(image: str, scratch: Path) -> Iterator[Path]:
    """A folder with the image's files, for as long as the block lasts."""
    if Path(image).is_dir():
        yield Path(image)
        return
    engine = next((name for name in ("docker", "podman", "buildah") if shutil.which(name)), None)
    if engine is None:
        sys.exit("error: no docker, podman or buildah here: give the folder of the image's files")
    create = ["from", "--pull-never"] if engine == "buildah" else ["create"]
    container = _output([engine, *create, image])
    try:
        if engine == "buildah":
            yield Path(_output([engine, "mount", container]))
            return
        (scratch / "root").mkdir()
        exported = subprocess.Popen([engine, "export", container], stdout=subprocess.PIPE)
        unpacking = ["tar", "-x", "-C", str(scratch / "root"), "--no-same-owner"]
        subprocess.run(unpacking, stdin=exported.stdout, check=True)
        if exported.wait():
            sys.exit(f"error: {engine} could not export {image}")
        yield scratch / "root"
    finally:
        _output([engine, "rm", container])


def environment(folder: Path) -> Path:
    """The two tools, with hashes; the folder of their programs."""
    venv.create(folder, with_pip=True)
    installing = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(LOCK)]
    subprocess.run([str(folder / "bin" / "python"), *installing], check=True)
    return folder / "bin"


def python_packages(root: Path, tools: Path, scratch: Path) -> dict[str, Any]:
    """What is installed in the image's environment, read from its metadata."""
    (packages,) = (root / "opt" / "venv" / "lib").glob("python3.*/site-packages")
    output = scratch / "python.json"
    # cyclonedx-py asks an interpreter for its search path: this one answers for the image's, of which nothing is run.
    interpreter = scratch / "interpreter"
    interpreter.write_text(f"#!/bin/sh\nprintf '%s' '{json.dumps([str(packages)])}'\n")
    interpreter.chmod(0o700)
    command = [tools / "cyclonedx-py", "environment", "--sv", "1.6", "--output-reproducible", "-o", output, interpreter]
    _output([str(word) for word in command])
    return _read(output)


def debian_packages(root: Path, tools: Path, scratch: Path) -> dict[str, Any]:
    """What dpkg's database in the image says, binary packages and their sources."""
    output = scratch / "debian"
    _output(
        [
            str(tools / "debsbom"),
            "generate",
            "--sbom-type",
            "cdx",
            "--cdx-schema-version",
            "1.6",
            "--root",
            str(root),
            "--out",
            str(output),
        ]
    )
    return _read(next(scratch.glob("debian*.json")))


def merged(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    """One bill of both: components and dependencies side by side."""
    image = {"type": "container", "name": name, "bom-ref": "image"}
    refs = [component["bom-ref"] for part in parts for component in part["components"]]
    assert len(refs) == len(set(refs))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": image},
        "components": [component for part in parts for component in part["components"]],
        "dependencies": [each for part in parts for each in part.get("dependencies", []) if each["ref"] in set(refs)],
    }


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C.UTF-8"})
    if done.returncode:
        sys.exit(f"error: {command[0]} {command[1]}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
