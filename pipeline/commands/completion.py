"""Print a script with which a shell completes verbs, options, and names of recipes, profiles, steps and runs.

examples:
  source <(sida completion bash)              into ~/.bashrc
  eval "$(sida completion zsh)"               into ~/.zshrc, below compinit
"""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add SHELL."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash or zsh")


def main(args: argparse.Namespace) -> int:
    """Write the script."""
    from pipeline import completion

    print(completion.script(args.shell))
    return 0
