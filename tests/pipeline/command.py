"""``sida`` inside the test's own process: seconds less for each command."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PROFILE = HERE / "cluster.yaml"


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    status: int
    out: str
    err: str

    def mistake(self) -> str:
        """The one line of a command that was refused."""
        assert (self.status, self.out) == (2, ""), self
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


class Command:
    """Runs verbs; ``profile`` writes a copy of the tests' profile with texts replaced."""

    def __init__(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str = ""
    ) -> None:
        self.place, self._monkeypatch, self._capsys, self.host = place, monkeypatch, capsys, host

    def __call__(self, *arguments: str) -> Said:
        from pipeline.__main__ import main

        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
        try:
            status = main()
        except SystemExit as error:  # argparse
            status = int(error.code or 0)
        said = self._capsys.readouterr()
        return Said(status, said.out, said.err)

    def profile(self, *changes: tuple[str, str], name: str = "mine.yaml") -> str:
        """Path of the profile."""
        text = PROFILE.read_text()
        for old, new in (("http://127.0.0.1:1", self.host or "http://127.0.0.1:1"), *changes):
            assert old in text
            text = text.replace(old, new)
        path = self.place / name
        path.write_text(text)
        return str(path)
