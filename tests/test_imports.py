"""What stays light: heavy packages are imported when they are needed, and not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HEAVY = ("torch", "kfp", "mlflow", "kubernetes", "sklearn", "rich", "matplotlib", "jinja2")


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import sida", HEAVY),
        ("import sida.steps, sida.recipe, sida.manifests", HEAVY),
        ("import sida.data.prepare, sida.teachers.fetch, sida.scoring.reference, sida.scoring.score", HEAVY),
        ("import sida.training.distill_step, sida.report.compare, sida.report.report", HEAVY),
        ("import sida.tracking.reconcile, sida.report.comparison.table", HEAVY),
        ("from pipeline.__main__ import parser; parser().format_help()", (*HEAVY, "pydantic")),
        ("from pipeline.__main__ import VERBS, parser; parser(*VERBS)", HEAVY),
    ],
)
def test_reusing_a_step_or_asking_for_help_imports_nothing_heavy(statement: str, forbidden: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint(*(set({forbidden!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_import_rules_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "0 broken" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
