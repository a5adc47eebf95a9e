"""Every numeric option of every verb: what is no number of its kind, or beyond use, is one line with status 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import pytest

from pipeline.__main__ import VERBS, parser
from pipeline.arguments import MOST
from tests.pipeline.command import Command

BAD = ("-1", "-2.5", "nan", "inf", "-inf", "1e320", "1" + "0" * 30, "9" * 5000, "-" + "9" * 30, "\u00b2", "0x10", "one")
EDGES = (*BAD, "0", "1e-320", "1e308", "1.5")


def numeric_options() -> Iterator[tuple[str, argparse.Action]]:
    for verb in VERBS:
        top = parser(verb)
        of_verb = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction)).choices[verb]
        for action in of_verb._actions:
            if action.option_strings and callable(action.type) and type(_read(action, "1")) in (int, float):
                yield verb, action


def _read(action: argparse.Action, text: str) -> object:
    assert callable(action.type)
    try:
        return action.type(text)
    except (argparse.ArgumentTypeError, ValueError, TypeError):
        return None


OPTIONS = {f"{verb} {action.option_strings[0]}": action for verb, action in numeric_options()}


def test_the_numeric_options_are_these() -> None:
    assert set(OPTIONS) == {
        "export-webdataset --samples",
        "new --classes",
        "new --resolution",
        *(f"plan --{name}" for name in ("gpus", "micro-batch", "network", "nodes", "utilization")),
        *(f"run --{name}" for name in ("node-rank", "nodes", "wait")),
        "runtime --max-restarts",
        "sample --batch",
        *(f"score --{name}" for name in ("images", "ranges")),
        "status --last",
        "submit --stuck",
        "teach --wait",
        "ui --port",
    }


@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_beyond_use_is_refused_where_it_is_read(option: str) -> None:
    assert [text for text in BAD if _read(OPTIONS[option], text) is not None] == []
    for text in EDGES:
        value = _read(OPTIONS[option], text)
        if isinstance(value, int | float):
            assert math.isfinite(value) and 0 <= value <= MOST


@pytest.mark.parametrize(
    "arguments",
    [
        *(("plan", "digits", "--utilization", text) for text in ("0", "nan", "inf", "1e-320", "1e-5", "1.01")),
        ("plan", "digits", "--nodes", "1" + "0" * 30),
        ("plan", "digits", "--gpus", "65536", "--nodes", "65536"),
        ("plan", "digits", "--micro-batch", "3"),
        ("new", "birds", "--train", "--resolution", str(2**100)),
        ("new", "birds", "--train", "--classes", "1" + "0" * 30),
        ("run", "digits", "--nodes", "1" + "0" * 30),
        ("run", "digits", "--wait", "1e308"),
        *(("run", "digits", "--nodes", "2", "--rendezvous", f"10.0.0.1:{port}") for port in ("\u00b2", "9" * 5000)),
        ("sample", "g.safetensors", "--grid", "g.png", "--seeds", "9" * 30),
        ("ui", "--port", "65536"),
    ],
)
def test_a_verb_answers_it_in_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(command.place)
    said = command(*arguments)
    assert (said.status, said.out) == (2, "") and said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1 and len(said.err) < 400
    assert not list(command.place.glob("*.safetensors"))
