"""Distill a diffusion model to one step, and prove the score.

examples:
  sida list               which recipes there are
  sida run digits         the whole DAG on this machine: ten minutes on two cores
  sida run digits         again: seconds, everything is reused
  sida VERB --help        more about one verb
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from pipeline.arguments import JSON
from pipeline.output import NO_JSON
from sida import __version__
from sida.disk import full_disk
from sida.errors import SidaError
from sida.printing import NotPrinted, guarded, one_line

PROGRAM = "sida"
VERBS = {path.stem.replace("_", "-"): path for path in sorted(Path(__file__).with_name("commands").glob("[!_]*.py"))}
EXIT_STATUS = {
    "0": "done",
    "1": "it failed for a reason that is not yours, or a check said no (verify, doctor, plan: does not fit)",
    "2": "something for you to mend: one line on stderr says what, where and how; with --json too",
    "3": "`submit --wait` gave up: a step waits for what does not come by itself (image, room, quota, Secret); the run goes on",
    "75": "a store or server was away for longer than SIDA_PATIENCE; the same command goes on when it is back",
    "130": "stopped by Ctrl-C; a signal N ends with 128 + N (143: SIGTERM). The same command goes on from the last checkpoint",
}


class Parser(argparse.ArgumentParser):
    """Parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with status 2."""
        self.exit(2, f"{one_line(f'error: {message}; see `{self.prog} --help`')}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print as argparse does, but let whoever catches errors know of one."""
        print(message, end="", file=file or sys.stderr, flush=True)


class Version(argparse.Action):
    """Print the program's version and what a report of a fault needs besides, and leave."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print one line and leave with status 0."""
        from sida.steps.provenance import machine

        print(
            f"{PROGRAM} {__version__}", *(f"{name} {value}" for name, value in machine().items()), sep=", ", flush=True
        )
        parser.exit()


def parser(*chosen: str) -> argparse.ArgumentParser:
    """Return the command line, with the arguments of the ``chosen`` verbs: of others no more than the docstring is read."""
    layout = argparse.RawDescriptionHelpFormatter
    summary, _, examples = (__doc__ or "").partition("\n\n")
    statuses = "\n".join(f"  {status:<5}{meaning}" for status, meaning in EXIT_STATUS.items())
    epilog = f"{examples.rstrip()}\n\nexit status:\n{statuses}"
    top = Parser(prog=PROGRAM, description=summary, epilog=epilog, formatter_class=layout)
    top.add_argument(
        "--version", action=Version, nargs=0, help="print the version, and what it runs on, for a report of a fault"
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB", dest="verb", parser_class=Parser)
    for name, path in VERBS.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        summary, _, rest = docstring.partition("\n\n")
        verb = verbs.add_parser(
            name,
            help=summary.rstrip("."),
            description=summary,
            epilog=rest,
            formatter_class=layout,
            add_help=name != "step",  # each step has its own
        )
        if name in chosen:
            module = importlib.import_module(f"pipeline.commands.{path.stem}")
            for add in module.ARGUMENTS if name in NO_JSON else (*module.ARGUMENTS, JSON):
                add(verb)
            verb.set_defaults(main=module.main)
    return top


def main() -> int:
    """Run one verb; return its exit status."""
    if os.getpid() == 1:  # of a container: it is deaf to signals that it does not handle
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with guarded():
        try:
            status = _main()
            sys.stdout.flush()
            return status
        except SidaError as error:
            _tell(str(error))
            return error.exit_code
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:  # the reader of our output (head, less) has seen enough
            _print_no_more()
            return 1
        except NotPrinted as error:
            _print_no_more()
            _tell(f"the output: {error.strerror}: make room there, or send it elsewhere")
            return 2
        except Exception as error:
            if (line := _line(error)) is None:
                raise
            _tell(line)
            return 2


def _main() -> int:
    word = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    top = parser(word)
    if word and word not in VERBS:
        near = difflib.get_close_matches(word, VERBS, n=1)
        top.error(f"no verb {word!r}{f': did you mean {near[0]!r}?' if near else ''}")
    args, flags = top.parse_known_args()
    if args.verb == "step":  # its flags are the step's own
        args.arguments = sys.argv[2:]
    elif flags:
        top.error(f"unrecognized arguments: {' '.join(flags)}")
    if args.verb is None:
        top.print_help()
        return 0
    return int(args.main(args))


def _tell(error: str) -> None:
    with suppress(OSError):  # stderr, too, may lead to a disk that is full
        print(one_line(f"error: {error}"), file=sys.stderr, flush=True)


def _print_no_more() -> None:
    """Let what is still to be printed lead nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(error: Exception) -> str | None:
    """Return what a library or the system could not do on a disk, and what to do; None for another error."""
    if isinstance(error, OSError) and not _has_folder():
        return "the folder that this is run in is gone: change into another one"
    if (full := full_disk(error, "the output")) is not None:
        return str(full)
    if not isinstance(error, OSError) or error.filename is None:
        return None
    return f"{error.filename}: {error.strerror}: free or fix it, or name another place"


def _has_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
