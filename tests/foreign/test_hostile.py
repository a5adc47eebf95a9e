"""Hostile pickles are refused within seconds and little memory, naming what was refused, and do nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.foreign.apart import read_apart
from tests.foreign.hostile import CASES


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every case, read by a child whose memory and time are limited, in a folder where PWNED would show."""
    folder, work = tmp_path_factory.mktemp("cases"), tmp_path_factory.mktemp("work")
    for number, (content, _) in enumerate(CASES.values()):
        (folder / f"{number:03d}").write_bytes(content)
    found = read_apart("tests.foreign.child", folder, work)
    assert list(work.iterdir()) == [], "a hostile pickle was executed"
    return {name: found[f"{number:03d}"] for number, name in enumerate(CASES)}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_pickle_is_refused_by_name_in_seconds_and_little_memory(outcomes: dict[str, Any], name: str) -> None:
    outcome = outcomes[name]
    assert outcome["status"] == 0
    assert " is refused: " in outcome["said"] and CASES[name][1] in outcome["said"]
    assert len(outcome["said"]) < 500 and "\n" not in outcome["said"]
    assert outcome["seconds"] < 5
    assert outcome["extra_mib"] < 600
