"""Nothing that a run needs comes under a licence that nobody has looked at."""

from __future__ import annotations

import pytest

from scripts import licences


def test_every_locked_package_of_a_run_has_an_allowed_licence() -> None:
    assert licences.refused() == {}, "read it, then allow it in scripts/licences.py or do without"


def test_the_list_of_licences_is_what_is_installed() -> None:
    assert {"torch", "kfp", "pydantic", "diffusers", "mlflow"} <= set(licences.packages())
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page(), "run `python -m scripts.licences`"


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT AND BSD-3-Clause", True),
        ("(MIT OR GPL-3.0-only) AND Zlib", False),
        ("", False),
    ],
)
def test_a_choice_is_allowed_when_all_of_it_is(expression: str, allowed: bool) -> None:
    assert licences.is_allowed(expression) is allowed
