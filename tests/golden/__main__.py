"""``python -m tests.golden FOLDER``: recompute every case, one line each; exit 1 if one disagrees or a file was not checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.golden import FAMILIES
from tests.golden.compare import Case, Checks, Folder


def run_case(case: Case) -> tuple[bool, str]:
    """Whether it agrees, and its line."""
    checks = Checks()
    try:
        case.run(checks)
    except Exception as error:  # any failure of the computation is this case's result; the others still run
        return False, f"FAIL  {case.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    worst = checks.worst
    if worst is None:
        return False, f"FAIL  {case.name}: nothing was compared"
    agrees = all(check.agrees for check in checks.done)
    result = f"largest error {worst.error:.1e}, tolerance {worst.limit:.0e}, in {worst.what}"
    remarks = "".join(f"; {text}" for text in checks.remarks)
    return agrees, f"{'ok  ' if agrees else 'FAIL'}  {case.name}: {result} ({len(checks.done)} comparisons{remarks})"


def all_cases(folder: Folder) -> Iterator[Case]:
    """Every case of every family that the folder holds; a family whose files cannot be read is a case that fails."""
    for family in FAMILIES:
        try:
            yield from family.cases(folder)
        except Exception as error:  # the other families are still checked
            yield Case(f"{family.__name__.rpartition('.')[2]}/files", partial(_reraise, error))


def _reraise(error: Exception, checks: Checks) -> None:
    raise error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with golden files (*.safetensors, *.json)")
    path = parser.parse_args(arguments).folder
    if not path.is_dir():
        print(f"{path} is not a folder: give one with golden files", file=sys.stderr)
        return 2
    folder = Folder(path)
    agreed = total = 0
    for case in all_cases(folder):
        agrees, line = run_case(case)
        print(line, flush=True)
        agreed, total = agreed + agrees, total + 1
    left = folder.unchecked([pattern for family in FAMILIES for pattern in family.PATTERNS])
    for line in left:
        print(f"LEFT  {line}")
    print(f"{agreed} of {total} cases agree")
    return 0 if agreed == total and total and not left else 1


if __name__ == "__main__":
    sys.exit(main())
