"""Whatever became of a good file of others: it is accepted and whole, or refused in one short line; in seconds, and little memory.

20 mutations of each kind in every run, 500 in `make test-all`: flipped bits, cuts, edited lengths, parts twice or missing.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.foreign.apart import read_apart
from tests.fuzz.kinds import GOOD

LENGTHS = (0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A copy with one to three damages."""
    made = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(made) or 1)
        size = draw.choice((1, 4, 30, 200, 1000))
        match draw.choice(("flip", "flip", "cut", "length", "length", "twice", "missing", "zeros", "text")):
            case "flip" if made:
                made[at] ^= 1 << draw.randrange(8)
            case "cut":
                del made[at:]
            case "length":
                width = draw.choice((1, 2, 4, 8))
                number = draw.choice(LENGTHS) % 2 ** (8 * width)
                made[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))
            case "twice":
                to = draw.randrange(len(made) or 1)
                made[to:to] = made[at : at + size]
            case "missing":
                del made[at : at + size]
            case "zeros":
                made[at : at + size] = bytes(len(made[at : at + size]))
            case _:
                made[at : at + 1] = draw.choice(
                    (b"9" * 30, b"[" * 300, b"-", b"\xff\xfe", b"\n", b"(", b"1e999", b"NaN")
                )
    return bytes(made)


@pytest.fixture(scope="module", params=[20, pytest.param(500, marks=pytest.mark.slow)])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of so many mutations of each kind, and of the good files, in a process of limited memory."""
    folder, work = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("work")
    for kind, make in GOOD.items():
        good, draw = make(work), random.Random(f"{kind} {request.param}")
        (folder / f"good-{kind}").write_bytes(good)
        for number in range(request.param):
            (folder / f"{number:05d}-{kind}").write_bytes(mutated(good, draw))
    found = read_apart("tests.fuzz.kinds", folder, work, seconds=850)
    assert len(found) == len(GOOD) * (request.param + 1)
    return found


@pytest.mark.parametrize("kind", GOOD)
def test_a_damaged_file_is_whole_or_refused_in_one_short_line(outcomes: dict[str, Any], kind: str) -> None:
    mine = {name: outcome for name, outcome in outcomes.items() if name.endswith(f"-{kind}")}
    assert mine.pop(f"good-{kind}")[0] == "read"
    for name, (said, seconds) in mine.items():
        assert not said.startswith("TRACEBACK") and "more memory than there is" not in said, (name, said)
        assert said == "read" or (name in said and "\n" not in said and len(said) <= 300), (name, said)
        assert seconds < 5, (name, said)
