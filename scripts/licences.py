"""docs/licences.md: under which licence each package comes that a run needs. ``python -m scripts.licences`` writes it.

Read are the locked packages of ``pipeline``, ``laptop`` and ``latents``, and torch, as they are installed. A test fails for a
licence that nobody has allowed here, and for one that cannot be told.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from scripts.lock import LOCK, part, pinned, wanted
from scripts.reference import table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-2.0",  # of files: whoever changes one of theirs gives that file away, and nothing else
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
# What packages without an SPDX expression say -> SPDX's name; "BSD" where they do not say which.
SPOKEN = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
READ = {"huey": "MIT", "skops": "MIT"}  # not a word in the metadata: read in their LICENSE files


def packages() -> list[str]:
    """What a run may need, by name."""
    lock = part(LOCK.read_text(encoding="utf-8"), wanted("pipeline", "laptop", "latents"))
    return sorted([*pinned(lock), "torch"], key=str.lower)


def licence_of(name: str) -> str:
    """SPDX's expression: as the package gives it, else from its words and classifiers; empty when nothing tells."""
    package = metadata.metadata(name)
    if expression := package.get("License-Expression"):
        return expression
    text = (package.get("License") or "").strip()
    classifiers = [each for each in package.get_all("Classifier") or [] if each.startswith("License ::")]
    words = [SPOKEN.get(each, each) for each in (text, *(each.rpartition(" :: ")[2] for each in classifiers))]
    return next((each for each in words if is_allowed(each)), READ.get(name) or " ".join(text.split())[:60])


def is_allowed(expression: str) -> bool:
    """Return whether an OR-branch uses allowed licences only; parentheses are not supported, and never allowed."""
    return any(all(each in ALLOWED for each in choice.split(" AND ")) for choice in expression.split(" OR "))


def refused() -> dict[str, str]:
    """Package -> licence of those that are not allowed."""
    licences = {name: licence_of(name) for name in packages()}
    return {name: licence for name, licence in licences.items() if not is_allowed(licence)}


def page() -> str:
    """The whole file."""
    lines = [
        "# Licences of what a run needs",
        "",
        "Written by `python -m scripts.licences` from the installed packages of the lock; do not edit. The project's own code",
        "is under Apache-2.0. A test fails for a licence that is not on the list in `scripts/licences.py`:",
        "permissive ones, and MPL-2.0.",
        "",
        "Images with CUDA also carry NVIDIA's libraries (`images/cuda.lock`: nvidia-*), under NVIDIA's own licences. Weights and",
        "data sets have licences of their own, most of them for research only: each recipe names that of its teacher.",
        "",
        *table(("package", "licence"), [(name, licence_of(name)) for name in packages()]),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for name, licence in refused().items():
        print(f"error: {name}: {licence or 'no licence told'}: read it, then allow it or do without", file=sys.stderr)
    sys.exit(1 if refused() else 0)
