"""Images and containers without a container service: debootstrap for the base, buildah to build, runc or crun to run.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

CACHE = Path(os.environ.get("SIDA_CI_CACHE") or "/var/tmp/sida-ci")
BASE = "localhost/sida-base:bookworm"
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


def build(image: str) -> str:
    """The base, if it is not there, and one of scripts/image.py's images, by the command that users have; its tag."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / "bookworm.tar.gz"
    if not archive.exists():
        _debootstrap(archive)
    if BASE not in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(archive), "/")
        buildah("commit", "--quiet", "--rm", container, BASE)
    tag = f"localhost/sida-{image}:ci"
    command = [
        sys.executable,
        "scripts/image.py",
        "--image",
        image,
        "--engine",
        "buildah",
        "--base",
        BASE,
        "--tag",
        tag,
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return tag


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

    def run(self, *command: str, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
        """A container from its start to its end; ``options`` as `container` takes them."""
        with self.container(*command, **options) as starting:
            return subprocess.run(
                starting, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
            )

    @contextmanager
    def serving(self, *command: str, log: Path, **options: Any) -> Iterator[Callable[..., bytes]]:
        """A container that runs for as long as the block lasts; what it yields runs a program in it, as `kubectl exec` does."""
        with self.container(*command, **options) as starting, log.open("wb") as output:
            program, name = starting[: starting.index("run")], starting[-1]
            server = subprocess.Popen(starting, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

            def execute(*words: str, stdin: bytes = b"") -> bytes:
                inside = [*program, "exec", name, *words]
                done = subprocess.run(inside, input=stdin, capture_output=True, timeout=300, check=False)
                assert done.returncode == 0, (done.stdout + done.stderr).decode()
                return done.stdout

            try:
                yield execute
                assert server.poll() is None, log.read_text()[-3000:]
            finally:
                subprocess.run([*program, "kill", name, "TERM"], capture_output=True, check=False)
                try:
                    server.wait(30)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()

    @contextmanager
    def container(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        files: Mapping[Path, str] | None = None,
        volumes: Mapping[Path, str] | None = None,
        scratch: Sequence[str] = ("/tmp",),
        user: int | None = None,
    ) -> Iterator[list[str]]:
        """The command that starts a container as Kubernetes' "restricted" would: the image's user, no capability, read-only root.

        ``files`` are mounted read-only, ``volumes`` writable, ``scratch`` folders are writable and empty. The network is the
        machine's. Nothing is left of it after the block.
        """
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
            mounts = [
                *(_mount(path, "tmpfs", "tmpfs", SCRATCH) for path in ("/dev/shm", *scratch)),
                *(_mount(inside, "bind", str(path), ("bind", "ro")) for path, inside in (files or {}).items()),
                *(_mount(inside, "bind", str(path), ("bind", "rw")) for path, inside in (volumes or {}).items()),
            ]
            specification = self._specification(command, env or {}, mounts, user)
            Path(folder, "config.json").write_text(json.dumps(specification))
            program, name = runtime(), f"sida-{secrets.token_hex(6)}"
            assert program is not None
            # crun would otherwise look for cgroups that not every machine offers.
            quiet = ["--cgroup-manager=disabled"] if program.endswith("crun") else []
            try:
                yield [program, *quiet, "run", "--bundle", folder, name]
            finally:
                subprocess.run([program, *quiet, "delete", "--force", name], capture_output=True, check=False)

    def _specification(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        more: Sequence[dict[str, Any]],
        user: int | None,
    ) -> dict[str, Any]:
        uid, gid = map(int, self.config["User"].split(":"))
        # Some machines name a kernel for OpenBLAS, whose own choice is wrong there.
        machine = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "OMP_"))]
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            *more,
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
def mounted(tag: str) -> Iterator[Image]:
    """The image's files, for as long as the block lasts."""
    container = buildah("from", "--pull-never", tag)
    try:
        rootfs = Path(buildah("mount", container))
        layer = rootfs.with_name("diff")
        config = json.loads(buildah("inspect", container))["OCIv1"]["config"]
        yield Image(rootfs, layer if layer.is_dir() and rootfs.name == "merged" else None, config)
    finally:
        buildah("rm", container)
