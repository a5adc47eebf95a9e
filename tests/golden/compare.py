"""Reading golden files, comparing with them, and remembering what was not compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class Golden:
    """The tensors of one file; knows which of them nobody asked for."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._tensors = load_file(path)
        self._unread = set(self._tensors)

    def __getitem__(self, key: str) -> Tensor:
        self._unread.discard(key)
        return self._tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def get(self, key: str) -> Tensor | None:
        """The tensor, or None."""
        self._unread.discard(key)
        return self._tensors.get(key)

    def names(self, prefix: str = "") -> list[str]:
        """All names with a prefix, sorted; they do not count as read."""
        return sorted(key for key in self._tensors if key.startswith(prefix))

    def groups(self, depth: int = 1) -> list[str]:
        """The distinct first ``depth`` parts of the names that have more parts than that."""
        parts = (key.split("/") for key in self._tensors)
        return sorted({"/".join(p[:depth]) for p in parts if len(p) > depth})

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Name without the prefix -> tensor."""
        return {key.removeprefix(prefix): self[key] for key in self.names(prefix)}

    def unread(self) -> list[str]:
        """The names nobody has read."""
        return sorted(self._unread)


class Folder:
    """A folder of golden files. Files count as checked once they are opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: dict[str, Golden] = {}
        self.read_json: set[str] = set()

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def names(self, pattern: str) -> list[str]:
        """File names that match, sorted."""
        return sorted(path.name for path in self.path.iterdir() if path.is_file() and fnmatch(path.name, pattern))

    def tensors(self, name: str) -> Golden:
        if name not in self.opened:
            self.opened[name] = Golden(self.path / name)
        return self.opened[name]

    def json(self, name: str) -> Any:
        self.read_json.add(name)
        return json.loads((self.path / name).read_text())

    def unchecked(self, patterns: list[str]) -> list[str]:
        """What was left over in files of known families: whole files, and tensors of opened ones."""
        known = {name for pattern in patterns for name in self.names(pattern)}
        left = [f"{name}: not checked" for name in sorted(known - set(self.opened) - self.read_json)]
        for name, golden in sorted(self.opened.items()):
            if unread := golden.unread():
                left.append(f"{name}: {len(unread)} tensors not checked, e.g. {', '.join(unread[:3])}")
        return left


@dataclass(frozen=True)
class Check:
    """One comparison: error and limit are in the same unit."""

    what: str
    error: float
    limit: float

    @property
    def agrees(self) -> bool:
        return self.error <= self.limit


@dataclass
class Checks:
    """The comparisons of one case."""

    done: list[Check] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def close(self, what: str, ours: Any, golden: Any, absolute: float, relative: float = 0.0) -> None:
        """|ours - golden| <= absolute + relative |golden|, element by element; NaN agrees with NaN only.

        The error reported is on the scale on which the limit is ``absolute``, or ``relative`` if that is all there is.
        """
        ours, golden = _float64(ours), _float64(golden)
        limit = absolute or relative
        if ours.shape != golden.shape:
            self.done.append(Check(f"{what} (shape {list(ours.shape)}, not {list(golden.shape)})", math.inf, limit))
            return
        allowed = (absolute + relative * golden.abs()) / limit
        difference = (ours - golden).abs()
        error = torch.where(difference == 0, 0.0, difference / allowed)
        error = torch.where(ours.isnan() & golden.isnan(), 0.0, error).nan_to_num(nan=math.inf, posinf=math.inf)
        self.done.append(Check(what, float(error.max()) if error.numel() else 0.0, limit))

    def exact(self, what: str, ours: Any, golden: Any) -> None:
        """Equal, element by element."""
        ours, golden = _float64(ours), _float64(golden)
        self.true(what, ours.shape == golden.shape and bool((ours == golden).all()))

    def true(self, what: str, holds: bool) -> None:
        """A plain condition."""
        self.done.append(Check(what, 0.0 if holds else math.inf, 0.0))

    def remark(self, text: str) -> None:
        """Said beside the result."""
        self.remarks.append(text)

    @property
    def worst(self) -> Check | None:
        """The comparison closest to, or furthest beyond, its limit."""
        return max(self.done, key=lambda check: check.error / check.limit if check.limit else check.error, default=None)


def _float64(value: Any) -> Tensor:
    return value.detach().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A named computation that fills in comparisons."""

    name: str
    run: Callable[[Checks], None]


Family = Callable[[Folder], Iterator[Case]]
