"""Origin of a result: the code, and the machine."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_CODE = (".py", ".html", ".css", ".js")


def code_digest(sources: Iterable[str]) -> str:
    """Return sha256 over code, and templates of pages, in the named files and folders (relative to the repository root)."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        path = ROOT / source
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in _CODE):
            digest.update(f"{file.relative_to(ROOT).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def machine() -> dict[str, str]:
    """Return facts about this machine for a reader of a score."""
    facts = {"python": platform.python_version(), "platform": platform.platform(), "processor": platform.machine()}
    for package in ("torch", "numpy", "kfp"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = git_commit()
    return facts | ({"commit": commit} if commit else {})


@cache
def git_commit() -> str | None:
    """Return the checkout's commit, with a mark when files differ from it; None outside a checkout."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
