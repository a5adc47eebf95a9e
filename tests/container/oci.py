"""An image and containers without a container service: debootstrap for the base, buildah to build, runc or crun to run.

No registry and no daemon is needed, only root. Everything is kept under SIDA_CI_CACHE (default /var/tmp/sida-ci), so that a second
run builds from cached layers.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

CACHE = Path(os.environ.get("SIDA_CI_CACHE") or "/var/tmp/sida-ci")
BASE, IMAGE = "localhost/sida-base:bookworm", "localhost/sida:ci"
PACKAGES = "ca-certificates,python3,python3-venv"
SCRATCH = ("nosuid", "nodev", "mode=1777", "size=2g")


def missing() -> list[str]:
    """What this machine lacks to build and run containers."""
    programs = [program for program in ("buildah", "debootstrap") if shutil.which(program) is None]
    return programs + ([] if runtime() else ["runc or crun"]) + ([] if os.getuid() == 0 else ["root"])


def runtime() -> str | None:
    return shutil.which("runc") or shutil.which("crun")  # crun refuses where cgroups 1 and 2 are both mounted


def buildah(*arguments: str) -> str:
    """Run buildah on a storage of our own; its standard output."""
    done = subprocess.run(
        ["buildah", *arguments], env=environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"buildah {arguments}: {done.stdout[-2000:]} {done.stderr[-3000:]}"
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """For buildah: images under CACHE, commands of a build in a chroot, which asks least of the machine."""
    driver = (
        "overlay" if _overlay_works() else "vfs"
    )  # vfs copies the whole tree for each layer: slow, but works anywhere
    storage = f'[storage]\ndriver = "{driver}"\ngraphroot = "{CACHE}/{driver}"\nrunroot = "/run/sida-ci"\n'
    (CACHE / "storage.conf").write_text(storage)
    return os.environ | {"CONTAINERS_STORAGE_CONF": str(CACHE / "storage.conf"), "BUILDAH_ISOLATION": "chroot"}


def _overlay_works() -> bool:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        for name in ("lower", "upper", "work", "merged"):
            Path(folder, name).mkdir()
        where = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        mount = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", where, f"{folder}/merged"]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def build() -> None:
    """The base, if it is not there, and the image, by the command that users have."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / "bookworm.tar.gz"
    if not archive.exists():
        _debootstrap(archive)
    if BASE not in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(archive), "/")
        buildah("commit", "--quiet", "--rm", container, BASE)
    command = [sys.executable, "scripts/image.py", "--engine", "buildah", "--base", BASE, "--tag", IMAGE]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _debootstrap(archive: Path) -> None:
    """What stands in for the official Python image: Debian bookworm with its Python, from the mirror that debootstrap knows."""
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-1000:]
        for waste in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder, waste))
            Path(folder, waste).mkdir()
        part = archive.with_suffix(".part")
        subprocess.run(["tar", "--numeric-owner", "-C", folder, "-I", "gzip -1", "-cf", str(part), "."], check=True)
        part.rename(archive)


@dataclass(frozen=True)
class Image:
    """A built image, its files mounted: ``rootfs`` is what a container sees, ``config`` what its builder declared."""

    rootfs: Path
    written: Path | None  # the layer that takes whatever is written to rootfs; None with vfs
    config: dict[str, Any] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files, uncompressed."""
        done = subprocess.run(["du", "-sxb", str(self.rootfs)], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[0])

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        files: Mapping[Path, str] | None = None,
        scratch: Sequence[str] = ("/tmp",),
        user: int | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """One container as Kubernetes' "restricted" would start it: the image's user, no capability, read-only root.

        ``files`` are mounted read-only, ``scratch`` folders are empty and writable. The network is the machine's.
        """
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
            specification = self._specification(command, env or {}, files or {}, scratch, user)
            Path(folder, "config.json").write_text(json.dumps(specification))
            program, name = runtime(), f"sida-{secrets.token_hex(6)}"
            assert program is not None
            # crun would otherwise look for cgroups that not every machine offers.
            quiet = ["--cgroup-manager=disabled"] if program.endswith("crun") else []
            try:
                return subprocess.run(
                    [program, *quiet, "run", "--bundle", folder, name],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=timeout,
                    check=False,
                )
            finally:
                subprocess.run([program, *quiet, "delete", "--force", name], capture_output=True, check=False)

    def _specification(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        files: Mapping[Path, str],
        scratch: Sequence[str],
        user: int | None,
    ) -> dict[str, Any]:
        uid, gid = map(int, self.config["User"].split(":"))
        # Some machines name a kernel for OpenBLAS, whose own choice is wrong there.
        machine = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "OMP_"))]
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            *(_mount(path, "tmpfs", "tmpfs", SCRATCH) for path in ("/dev/shm", *scratch)),
            *(_mount(inside, "bind", str(path), ("bind", "ro")) for path, inside in files.items()),
        ]
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.rootfs), "readonly": True},
            "process": {
                "terminal": False,
                "user": {"uid": uid if user is None else user, "gid": gid if user is None else user},
                "args": list(command),
                "cwd": self.config["WorkingDir"],
                "env": [*self.config["Env"], *machine, *(f"{name}={value}" for name, value in env.items())],
                "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")},
                "noNewPrivileges": True,
            },
            "mounts": mounts,
            "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")]},
        }


def _mount(destination: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


@contextmanager
def mounted() -> Iterator[Image]:
    """The image's files, for as long as the block lasts."""
    container = buildah("from", "--pull-never", IMAGE)
    try:
        rootfs = Path(buildah("mount", container))
        layer = rootfs.with_name("diff")
        config = json.loads(buildah("inspect", container))["OCIv1"]["config"]
        yield Image(rootfs, layer if layer.is_dir() and rootfs.name == "merged" else None, config)
    finally:
        buildah("rm", container)
