"""The user's view of a run, drawn on stderr from the steps' events.

On a terminal: one line per finished step, and below them a bar for the step at work. Elsewhere (a file, CI): plain lines, progress
once a minute, no colors. Quiet: nothing but what the run itself has to say.
"""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from sida.printing import printable, unguarded
from sida.progress import LINE_SECONDS, duration, progress_in_words

NAME_WIDTH = 22


def open_display(*, quiet: bool = False, verbose: bool = False) -> Display:
    """Return the display that fits stderr and the amount asked for."""
    if quiet:
        return QuietDisplay(sys.stderr)
    return TerminalDisplay(verbose) if sys.stderr.isatty() else PlainDisplay(sys.stderr, verbose)


def finished_line(event: dict[str, Any]) -> str:
    """Return ``distill               ran     312.4 s``."""
    return f"{event['step']:<{NAME_WIDTH}}{event['state']:<8}{event['seconds']:7.1f} s"


class PlainDisplay:
    """Lines, for logs. ``verbose``: it takes the logs' lines too."""

    def __init__(self, stream: TextIO, verbose: bool = False) -> None:
        self._stream, self.verbose = stream, verbose
        self._said = time.monotonic()

    def show(self, event: dict[str, Any]) -> None:
        """Print one event; progress at most once a minute."""
        match event["event"]:
            case "step_started":
                self._said = time.monotonic()
            case "step_finished":
                self.say(finished_line(event))
            case "note":
                self.say(f"{event['step']:<{NAME_WIDTH}}{event['text']}")
            case "progress" if time.monotonic() - self._said >= LINE_SECONDS:
                self._said = time.monotonic()
                self.say(f"{event['step']:<{NAME_WIDTH}}{progress_in_words(event)}")

    def say(self, text: str) -> None:
        """Print a line of our own."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Do nothing: there is no bar to take away."""


class QuietDisplay(PlainDisplay):
    """No events."""

    def show(self, event: dict[str, Any]) -> None:
        """Print nothing."""


class TerminalDisplay:
    """Finished steps as lines, the step at work as a bar. rich follows NO_COLOR and TERM."""

    def __init__(self, verbose: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self.verbose = verbose
        self._console = Console(file=unguarded(sys.stderr), highlight=False, soft_wrap=True)
        self._bars = Progress(
            TextColumn(f"{{task.description:<{NAME_WIDTH - 1}}}", markup=False),
            BarColumn(bar_width=12),
            TimeElapsedColumn(),
            TextColumn("{task.fields[words]}", markup=False, table_column=Column()),  # wraps where it is narrow
            console=self._console,
            transient=True,
            redirect_stdout=False,  # what is printed meanwhile stays guarded
            redirect_stderr=False,
        )
        self._bars.start()
        self._at_work: tuple[str, Any] | None = None  # step and its bar

    def show(self, event: dict[str, Any]) -> None:
        """Draw one event."""
        step = event["step"]
        match event["event"]:
            case "step_started":
                self._bar(step)
            case "progress":
                self._bars.update(
                    self._bar(step), completed=event["done"], total=event["total"] or None, words=_words(event)
                )
            case "note":
                self.say(f"{step:<{NAME_WIDTH}}{event['text']}", "yellow")
            case "step_finished":
                self._drop()
                self.say(finished_line(event), "green" if event["state"] == "ran" else "dim")

    def say(self, text: str, style: str = "") -> None:
        """Print a line above the bar."""
        self._console.print(printable(text), style=style, markup=False)

    def close(self) -> None:
        """Take the bar away."""
        self._drop()
        self._bars.stop()

    def _bar(self, step: str) -> Any:
        if self._at_work is None or self._at_work[0] != step:
            self._drop()
            self._at_work = (step, self._bars.add_task(step, total=None, words=""))
        return self._at_work[1]

    def _drop(self) -> None:
        if self._at_work:
            self._bars.remove_task(self._at_work[1])
        self._at_work = None


Display = PlainDisplay | TerminalDisplay


def _words(event: dict[str, Any]) -> str:
    """Return ``51,200/2,000,000 images, 4,310/s, 7:32 left, loss_psi 0.41``."""
    done, total, rate = event["done"], event["total"], event.get("rate")
    parts = [f"{done:,}{f'/{total:,}' * bool(total)} {event['unit']}"]
    if rate:
        parts += [f"{rate:,.0f}/s", *([f"{duration(max(total - done, 0) / rate)} left"] if total else [])]
    parts += [f"{name} {value:.3g}" for name, value in event["numbers"].items()]
    return printable(", ".join(parts))
