"""The console command ``sida``: the command line of ``pipeline``, from any folder."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run ``sida`` of the checkout or image that this library belongs to; return the exit status."""
    if not (ROOT / "pipeline" / "__main__.py").is_file():
        print(
            "error: this installation has the library alone: run `sida` from a checkout (make setup) or from the images",
            file=sys.stderr,
        )
        return 2
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # for the processes that it starts
    sys.path.insert(0, str(ROOT))
    runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
    return 0
