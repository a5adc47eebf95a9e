"""Several files by one address, as WebDataset's users write it: part-{000..100}.tar, {train,extra}.tar."""

from __future__ import annotations

import re
from pathlib import Path

from sida.errors import UserError

MOST = 100_000  # files: ImageNet-22k has 4,608
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def is_pattern(path: Path) -> bool:
    """Return whether a path names several files: it has braces, and no file is called so."""
    return bool(_BRACES.search(str(path))) and not path.exists()


def expand(path: Path) -> list[Path]:
    """Return the files that a path names, in the order of its braces; itself where it is no pattern.

    Raises UserError for braces that hold neither a range nor a list, and for files that are not there or named twice.
    """
    if not is_pattern(path):
        return [path]
    if re.search(r"\{[^}]*\{", str(path)):
        raise UserError(f"{path}: has braces in braces: write the names one after the other, {{a,b}}")
    names = [str(path)]
    while any(found := [_BRACES.search(name) for name in names]):
        names = [
            name[: match.start()] + each + name[match.end() :] if match else name
            for name, match in zip(names, found, strict=True)
            for each in (_alternatives(match[1], path) if match else [""])
        ]
        if len(names) > MOST:
            raise UserError(f"{path}: names more than {MOST:,} files: correct dataset.address")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: names a file twice: correct dataset.address")
    if missing := [name for name in names if not Path(name).is_file()]:
        raise UserError(
            f"{path}: {len(missing):,} of its {len(names):,} files are not there, e.g. {missing[0]}: fetch them, or correct "
            f"dataset.address"
        )
    return list(map(Path, names))


def _alternatives(inner: str, path: Path) -> list[str]:
    """Return what stands for a pair of braces; numbers have the digits of the first one."""
    if numbers := _RANGE.fullmatch(inner):
        first, last = (int(number) for number in numbers.groups())
        if first <= last < first + MOST:
            return [f"{number:0{len(numbers[1])}d}" for number in range(first, last + 1)]
    elif "," in inner:
        return inner.split(",")
    raise UserError(
        f"{path}: {{{inner}}} names no files: write the first number and the last, such as {{000..100}}, or {{a,b}}"
    )


def pattern_of(names: list[str]) -> str:
    """Return the pattern of numbered names, in their order, for a message: the last number of the first stands for all."""
    numbers = [list(re.finditer(r"\d+", name))[-1:] for name in (names[0], names[-1])]
    if len(names) < 2 or not all(numbers):
        return names[0]
    (first,), (last,) = numbers
    return f"{names[0][: first.start()]}{{{first[0]}..{last[0]}}}{names[0][first.end() :]}"
