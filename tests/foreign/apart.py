"""Files of others, read by a child process whose environment holds nothing of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


def read_apart(module: str, folder: Path, work: Path, *more: str, seconds: float = 300) -> dict[str, Any]:
    """What became of each file in ``folder``, by its name: ``module`` reads them in the folder ``work`` and prints JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder), *more],
        cwd=work,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
