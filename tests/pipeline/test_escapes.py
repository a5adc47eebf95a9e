"""What others wrote reaches the terminal as text, in lines of a bounded length, and an address is none of a local server."""

from __future__ import annotations

import io
import json
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pipeline.display import open_display
from sida.printing import guarded
from tests.conftest import ROOT
from tests.pipeline.command import Command, Said

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b1A\x7f\u202e\u200b\r"


def shown(said: Said) -> str:
    """All that was printed, of which nothing moves the cursor or turns a line around."""
    text = said.out + said.err
    assert text.replace("\n", "").replace("\t", "").isprintable()
    assert not said.err.startswith("error: ") or all(len(line) <= 300 for line in said.err.splitlines())
    return text


@pytest.mark.parametrize(
    "fields",
    [
        {f"key{ESCAPES}": 1},
        {"method": {f"key{ESCAPES}": 1}},
        {"method": {"name": ESCAPES}},
        {"teacher": {"address": f"https://host/{ESCAPES}"}},
        {"name": ESCAPES},
        {"extends": ESCAPES},
        {"method": {f"{'k' * 5000}": 1}},
        {"method": {"name": "n" * 5000}},
    ],
)
def test_a_recipe_s_mistake_is_a_printable_line_of_300_characters(command: Command, fields: dict[str, Any]) -> None:
    path = command.place / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": "digits", "name": "mine"} | fields))
    for verb in (("run",), ("show",), ("compile",)):
        said = command(*verb, str(path))
        assert said.mistake() in shown(said)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", f"x{ESCAPES}.yaml"),
        ("run", "x" * 5000),
        ("run", "digits", f"--{ESCAPES}"),
        ("run", "digits", "--force", ESCAPES),
        ("run", "digits", "--store", f"s3://bucket/{ESCAPES}"),
        (f"verb{ESCAPES}",),
        ("sample", f"file:///x{ESCAPES}", "--grid", "g.png"),
        ("inspect", f"file{ESCAPES}"),
        ("sample", "x", "--output", "s3://bucket/x"),
        ("step", f"teach{ESCAPES}"),
        ("step", "teach", "--recipe", "digits", "--dataset", f"s3:/x{ESCAPES}"),
        ("status", ESCAPES),
        ("logs", ESCAPES, ESCAPES),
    ],
)
def test_an_argument_that_is_refused_is_printed_as_text(command: Command, arguments: tuple[str, ...]) -> None:
    said = command(*arguments)
    assert said.status == 2 and len(said.err.splitlines()) == 1, said
    assert shown(said).startswith("error: ")


def test_names_in_a_file_are_shown_as_text(command: Command) -> None:
    path = command.place / "hostile.safetensors"
    save_file({f"a{ESCAPES}": torch.zeros(1)}, path, {f"b{ESCAPES}": ESCAPES, "sida": json.dumps({ESCAPES: ESCAPES})})
    assert "\\x1b]0;title" in shown(command("inspect", str(path)))
    shown(command("convert", str(path), "--output", str(command.place / "out")))
    shown(command("sample", str(path), "--grid", str(command.place / "g.png")))


def test_a_display_shows_notes_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    event = {"event": "note", "step": "teach", "text": ESCAPES}
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "dumb")
        with guarded():
            display = open_display()
            display.show(event)
            display.close()
        assert "\\x1b]0;title\\x07\\x1b[2J\\x9b1A\\x7f\\u202e" in stream.getvalue()
        assert "\x1b]0" not in stream.getvalue() and "\u202e" not in stream.getvalue()


def test_a_traceback_is_printed_as_text_and_without_secrets() -> None:
    code = "from sida.printing import guarded\nwith guarded(): raise ValueError('http://me:hushhush@h \\x1b[2J')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: http://***@h \\x1b[2J"


def test_a_manifest_that_is_nested_too_deeply_is_refused_in_a_line(command: Command) -> None:
    path = command.place / "deep.json"
    path.write_text('{"a": ' * 100_000 + "1" + "}" * 100_000)
    line = command("sample", str(path), "--grid", str(command.place / "g.png")).mistake()
    assert "deep.json: not a manifest" in line


def test_the_pages_listen_on_this_machine_alone_whatever_the_environment_says(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def run(arguments: list[str], *, env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
        started.append((arguments, env))
        return subprocess.CompletedProcess(arguments, 0)

    database = command.place / "mlflow.db"
    database.touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.setenv("MLFLOW_HOST", "0.0.0.0")
    monkeypatch.setenv("MLFLOW_UVICORN_OPTS", "--host 0.0.0.0")
    monkeypatch.setattr(subprocess, "run", run)
    assert command("ui", "--port", "5123").status == 0
    ((arguments, variables),) = started
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert "MLFLOW_UVICORN_OPTS" not in variables


def test_pages_on_a_damaged_database_or_at_a_taken_port_are_refused_in_a_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *given, **how: pytest.fail("it was started"))
    database = command.place / "100% mine?.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    database.write_bytes(b"no database")
    assert f"{database}: cannot be read (file is not a database): move it away" in command("ui").mistake()
    with closing(sqlite3.connect(command.place / "whole.db")) as whole:
        whole.execute(
            "create table a as with recursive n(i) as (select 1 union select i + 1 from n limit 9999) select i from n"
        )
        whole.commit()
    content = (command.place / "whole.db").read_bytes()
    database.write_bytes(content[: len(content) // 2])
    assert "cannot be read" in command("ui").mistake()
    database.write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        line = command("ui", "--port", port).mistake()
    assert f"--port {port}: cannot be used (Address already in use): name another one" in line


def test_no_module_of_ours_needs_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "SIDA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert command("plan", "digits").status in (0, 1)
    assert command("doctor").status == 0
