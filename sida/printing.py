"""Text of others on its way to a person: nothing in it moves the cursor, turns the line around, or shows a secret."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO, cast

from sida.masking import masked

LINE = 300  # characters of an error, at most
_READ = 20_000  # characters of one that are looked at
# Colors and cursor movements of our own steps and libraries
_COLORS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def printable(text: str) -> str:
    r"""Return a text with what cannot be printed as escapes: control characters but line end and tab, marks of direction, ...

    >>> printable("a\x1b[31mb\u202ec d")
    'a\\x1b[31mb\\u202ec d'
    """
    if text.translate({10: None, 9: None}).isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def one_line(text: str, most: int = LINE) -> str:
    """Return a text as one printable line without secrets, cut in its middle to ``most`` characters: its end says what to do."""
    if len(text) > _READ:
        text = f"{text[: _READ // 2]} ... {text[-_READ // 2 :]}"
    text = printable(masked(" ".join(text.split()), {}))
    if len(text) <= most:
        return text
    end = (most - 5) * 2 // 5
    return f"{text[: most - 5 - end]} ... {text[-end:]}"


def plain(text: str) -> str:
    """Return a line of a log without colors and cursor movements."""
    return _COLORS.sub("", text)


class NotPrinted(OSError):
    """The output could not be written: the device or the disk that it leads to is full, or failed."""


@contextmanager
def printing() -> Iterator[None]:
    """Raise NotPrinted for what goes wrong with the output in the block, except for a reader who has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NotPrinted(*error.args) from error


class _Printable:
    """A stream that passes on what is printable and no secret."""

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        with printing():
            self.raw.write(printable(masked(text, {})))
        return len(text)

    def flush(self) -> None:
        with printing():
            self.raw.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(printable(masked("".join(traceback.format_exception(kind, error, trace)), {})), end="", file=sys.stderr)


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream itself, for a program that draws with colors and escapes what is not its own."""
    return stream.raw if isinstance(stream, _Printable) else stream


@contextmanager
def guarded() -> Iterator[None]:
    """Let stdout and stderr of this process pass on what is printable and no secret, while the block lasts.

    The traceback of an exception that ends the process, which Python prints after the block, is guarded too. What is closed
    (``sida list >&-``) leads nowhere instead: the next file to be opened would get its number, and whatever others print there.
    """
    _fill_closed()
    before, sys.excepthook = (sys.stdout, sys.stderr), _print_exception
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where the terminal's encoding lacks a character
    with open(os.devnull, "w") as nowhere:
        sys.stdout, sys.stderr = (cast(TextIO, _Printable(stream or nowhere)) for stream in before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _fill_closed() -> None:
    """Open what is closed of stdin, stdout and stderr, on nothing."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
