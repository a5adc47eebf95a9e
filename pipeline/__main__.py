"""Distill a diffusion model to one step, and prove the score.

examples:
  sida list               which recipes there are
  sida run digits         the whole DAG on this machine: ten minutes on two cores
  sida run digits         again: seconds, everything is reused
  sida VERB --help        more about one verb
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from typing import Any, NoReturn

from pipeline import commands
from sida.errors import SidaError

PROGRAM = "sida"
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
        self.exit(2, f"error: {' '.join(message.splitlines())}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """Return the command line, from the modules under ``pipeline/commands``."""
    layout = argparse.RawDescriptionHelpFormatter
    summary, _, examples = (__doc__ or "").partition("\n\n")
    statuses = "\n".join(f"  {status:<5}{meaning}" for status, meaning in EXIT_STATUS.items())
    epilog = f"{examples.rstrip()}\n\nexit status:\n{statuses}"
    top = Parser(prog=PROGRAM, description=summary, epilog=epilog, formatter_class=layout)
    verbs = top.add_subparsers(title="verbs", metavar="VERB", dest="verb", parser_class=Parser)
    for found in pkgutil.iter_modules(commands.__path__):
        module: Any = importlib.import_module(f"pipeline.commands.{found.name}")
        summary, _, rest = (module.__doc__ or "").partition("\n\n")
        verb = verbs.add_parser(
            found.name.replace("_", "-"),
            help=summary.rstrip("."),
            description=summary,
            epilog=rest,
            formatter_class=layout,
            add_help=not getattr(module, "OWN_HELP", False),
        )
        module.add_arguments(verb)
        verb.set_defaults(main=module.main)
    return top


def main() -> int:
    """Run one verb; return its exit status."""
    top = parser()
    args, flags = top.parse_known_args()
    if args.verb == "step":  # its flags are the step's own
        args.arguments = sys.argv[2:]
    elif flags:
        top.error(f"unrecognized arguments: {' '.join(flags)}")
    if args.verb is None:
        top.print_help()
        return 0
    try:
        return int(args.main(args))
    except SidaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}: free or fix it, or set SIDA_RUNS", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
