"""The examples in docstrings of the library run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.conftest import ROOT


def _with_examples() -> list[str]:
    """The modules that hold some."""
    paths = [path for path in (ROOT / "sida").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")]
    return sorted(_module(path.relative_to(ROOT)) for path in paths)


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("module", _with_examples())
def test_examples_in_docstrings_are_true(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried > 0
    assert failed == 0, "see above"
