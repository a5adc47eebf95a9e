"""Build an image with docker, podman or buildah: ``python3 scripts/image.py [--image cuda] [--tag NAME]`` (`make image`).

The base image is resolved to a digest first; a base named ``localhost/...`` is taken as it is. pip in the build finds packages
as pip does here: with podman and buildah its configuration files, and the files and folders that they name, are mounted
read-only while building; with docker a configuration file is passed as a secret (``--pip-conf``). The image keeps nothing of them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from sida.masking import secret_in  # noqa: E402 (needs nothing beyond Python)

BASE = "docker.io/library/python:3.11-slim-bookworm"
IMAGES = {  # name -> file, tag
    "cpu": ("Dockerfile", "localhost/sida:latest"),
    "cuda": ("images/cuda.Dockerfile", "localhost/sida-cuda:latest"),
    "mlflow": ("images/mlflow.Dockerfile", "localhost/sida-mlflow:latest"),
}
PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "PIP_DEFAULT_TIMEOUT")


def main(arguments: list[str]) -> int:
    """Build; the exit status."""
    parser = argparse.ArgumentParser(description="Build an image of this project.")
    parser.add_argument("--image", choices=IMAGES, default="cpu", help="which (default: %(default)s)")
    parser.add_argument("--tag", help="name of the image (default: localhost/sida:latest, ...)")
    parser.add_argument("--base", default=BASE, help="base image, resolved to a digest (default: %(default)s)")
    parser.add_argument(
        "--torch",
        help="another torch for the CPU image, as pip names it (default: that of images/torch.lock, by its hash)",
    )
    parser.add_argument("--engine", choices=("docker", "podman", "buildah"), help="default: the first that works")
    parser.add_argument("--pip-conf", type=Path, help="a pip configuration file for the build (an index, credentials)")
    args = parser.parse_args(arguments)
    if args.torch and args.image != "cpu":
        sys.exit(f"error: --torch is for the CPU image: {args.image} takes what its lock names")
    file, tag = IMAGES[args.image]
    engine = args.engine or find_engine()
    if engine is None:
        sys.exit("error: no docker, podman or buildah that works here: install one, or name it with --engine")
    values = labels() | {"BASE": pinned(engine, args.base)}
    if args.torch:
        values["TORCH"] = args.torch
    command = [engine, "build", "--file", str(ROOT / file), "--tag", args.tag or tag]
    if engine == "buildah":
        command[1:2] = ["bud", "--layers"]
    if args.pip_conf:
        command += ["--secret", f"id=pip,src={args.pip_conf}"]
    elif engine != "docker":
        for path in pip_paths():
            command += ["--volume", f"{path}:{path}:ro"]
    for name, value in (values | pip_values(engine)).items():
        command += ["--build-arg", f"{name}={value}"]
    # Again, as buildah 1.28 takes a LABEL from its cache though its ARG changed.
    for name in ("REVISION", "SOURCE", "VERSION"):
        if name in values:
            command += ["--label", f"org.opencontainers.image.{name.lower()}={values[name]}"]
    command += ["--label", f"org.opencontainers.image.base.name={values['BASE']}"]
    return subprocess.run([*command, str(ROOT)], env=os.environ | {"DOCKER_BUILDKIT": "1"}, check=False).returncode


def find_engine() -> str | None:
    """The first engine that is installed and answers."""
    for engine in ("docker", "podman", "buildah"):
        if shutil.which(engine) and subprocess.run([engine, "info"], capture_output=True, check=False).returncode == 0:
            return engine
    return None


def pinned(engine: str, base: str) -> str:
    """``base`` with its digest, asked of its registry where it has none."""
    if "@sha256:" in base or base.startswith("localhost/"):
        return base
    subprocess.run([engine, "pull", base], stdout=subprocess.DEVNULL, check=True)
    kind = ["--type", "image", "--format", "{{.FromImageDigest}}"]
    if engine != "buildah":
        kind = ["--format", "{{index .RepoDigests 0}}"]
    found = subprocess.run([engine, "inspect", *kind, base], capture_output=True, text=True, check=True).stdout.strip()
    name = base if ":" not in base.rsplit("/", 1)[-1] else base.rsplit(":", 1)[0]
    return f"{name}@{found.rpartition('@')[2]}"


def labels() -> dict[str, str]:
    """Version, revision and source of this checkout, as the image's labels say them."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "sida" / "__init__.py").read_text())
    assert version is not None
    values = {"VERSION": version[1]}
    if revision := _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"):
        values["REVISION"] = revision
    source = urlsplit(_git("remote", "get-url", "origin"))
    if source.scheme == "https" and source.hostname:
        values["SOURCE"] = f"https://{source.hostname}{source.path.removesuffix('.git')}"  # without a token in it
    return values


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def pip_values(engine: str) -> dict[str, str]:
    """pip's environment here, as build arguments. An index of one's own takes the place of PyTorch's."""
    values = {name: os.environ[name] for name in PIP_VARIABLES if os.environ.get(name)}
    for name, value in values.items():
        if secret := secret_in(value):
            sys.exit(f"error: {name} holds {secret}, which would stay in the image's history: use --pip-conf FILE")
    if engine != "docker" and pip_paths():
        values.setdefault("PIP_EXTRA_INDEX_URL", "")  # empty: pip reads its files
    return values


def pip_paths() -> list[str]:
    """pip's configuration files here, and the files and folders that they and the environment name."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "debug"], capture_output=True, text=True, check=False)
    words = re.split(r"[\s'=,]+", " ".join([done.stdout, *(os.environ.get(name, "") for name in PIP_VARIABLES)]))
    paths = {
        word.removeprefix("file://").removesuffix("/simple") for word in words
    }  # an index links to files beside it
    return sorted(path for path in paths if path.startswith("/") and Path(path).exists())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
