"""Print a script with which a shell completes verbs, options, and names of recipes, profiles, steps and runs.

It serves `python -m pipeline` in this repository, for python and python3 of any environment, and an alias `sida` if you have one.
What follows `python` otherwise is completed as before by zsh, and with names of files by bash.

examples:
  source <(python -m pipeline completion bash)              into ~/.bashrc, with the path of the environment's python
  eval "$(python -m pipeline completion zsh)"               into ~/.zshrc, below compinit
"""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SHELL."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash or zsh")


def main(args: argparse.Namespace) -> int:
    """Write the script."""
    from pipeline import completion

    print(completion.script(args.shell))
    return 0
