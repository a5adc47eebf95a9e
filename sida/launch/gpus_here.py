"""How many GPUs this machine has, told without torch, which takes seconds to load; and whether processes find one each."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from sida.errors import UserError
from sida.settings import environment

DEVICES, MIG = Path("/dev"), Path("/proc/driver/nvidia/capabilities")


def count(devices: Path = DEVICES, mig: Path = MIG) -> int:
    """Return how many of NVIDIA's GPUs CUDA_VISIBLE_DEVICES leaves of this machine's; 0 where there are none, or it is not known.

    It is not known of GPUs divided by MIG, of which CUDA takes one part, and of those that do not lie in /dev, as under WSL.
    """
    here = sum(1 for node in devices.glob("nvidia*") if re.fullmatch("nvidia[0-9]+", node.name))
    if any(mig.glob("gpu*/mig/gi*")):
        return 0
    visible = environment().get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return here
    names = [name.strip() for name in visible.split(",")]
    known = len(set(names)) == len(names) and all(
        name.startswith("GPU-") or (name.isascii() and name.isdigit() and int(name) < here) for name in names
    )
    return min(len(names), here) if known else 0


def torch_takes_them() -> bool:
    """Return whether the torch that is installed was built for CUDA, as its own file says."""
    found = importlib.util.find_spec("torch")  # which does not load it
    if found is None or found.origin is None:
        return False
    about = Path(found.origin).with_name("version.py")
    return about.is_file() and re.search(r"^cuda\b.*= *['\"]", about.read_text(encoding="utf-8"), re.M) is not None


def check_enough(processes: int, there: int) -> None:
    """Raise UserError for more processes on this machine than it has GPUs, if it has any: each takes one of its own."""
    if 0 < there < processes:
        raise UserError(
            f"{processes} processes on this machine (SIDA_WORKERS, or the recipe's execution.processes), each on a GPU of its own, "
            f"but it has {there} GPU{'s' if there > 1 else ''}: set SIDA_WORKERS to {there}, or less where the batch asks for it"
        )
