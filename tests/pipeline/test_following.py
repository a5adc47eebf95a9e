"""What several processes of a run say of one outage is drawn once."""

from __future__ import annotations

import io
import json
from pathlib import Path

from pipeline.display import PlainDisplay
from pipeline.following import Following


def test_an_outage_that_launcher_and_workers_meet_is_drawn_once_and_so_is_its_end(tmp_path: Path) -> None:
    events, drawn = tmp_path / "events.jsonl", io.StringIO()
    following = Following(events, PlainDisplay(drawn))

    def say(text: str, **fields: str) -> None:
        with events.open("a") as file:
            file.write(json.dumps({"event": "note", "step": "distill", "text": text, **fields}) + "\n")

    for _ in range(2):
        for who in ("launcher", "worker"):
            say(f"the store is away, says the {who}", away="the store")
        following.draw()
        for who in ("worker", "launcher"):
            say(f"the store is back, says the {who}", back="the store")
        say("something else")
        following.draw()
    lines = [line.removeprefix("distill").strip() for line in drawn.getvalue().splitlines()]
    once = ["the store is away, says the launcher", "the store is back, says the worker", "something else"]
    assert lines == once * 2
