"""Print a script with which a shell completes verbs, options, and names of recipes, profiles, steps and runs.

examples:
  source <(sida completion bash)              into ~/.bashrc
  eval "$(sida completion zsh)"               into ~/.zshrc, below compinit
"""

from __future__ import annotations

import argparse
import shlex
from string import Template

from pipeline.__main__ import VERBS, parser
from pipeline.arguments import argument
from pipeline.profile import PROFILES
from sida.recipe import RECIPES
from sida.registry import STEPS

# What stands for an argument in the help -> how its values are found when the key is pressed.
VALUES = {"RECIPE": "_sida_recipes_or_file", "PROFILE": "_sida_profiles_or_file", "RUN": "_sida_runs"}
FILES = ("FILE", "GENERATOR", "MANIFEST", "SCORE")
FOLDERS = ("FOLDER", "DIR")

FINDING = {
    "bash": r"""
_sida_names() { (cd "$1" 2>/dev/null && compgen -G '*.yaml' | sed 's/\.yaml$//'); }
_sida_yaml() { compgen -W "$(_sida_names "$1")" -- "$2"; compgen -f -X '!*.yaml' -- "$2"; compgen -d -- "$2"; }
_sida_recipes_or_file() { _sida_yaml $recipes "$1"; }
_sida_profiles_or_file() { _sida_yaml $profiles "$1"; }
_sida_runs() { compgen -W "$(cd "${SIDA_RUNS:-runs}" 2>/dev/null && compgen -G '20*-*-*')" -- "$1"; }
""",
    "zsh": r"""
_sida_yaml() { local -a names=("$1"/*.yaml(N:t:r)); compadd -a names; _files -g '*.yaml'; }
_sida_recipes_or_file() { _sida_yaml $recipes; }
_sida_profiles_or_file() { _sida_yaml $profiles; }
_sida_runs() { local -a names=("${SIDA_RUNS:-runs}"/20*-*-*(N:t)); compadd -a names; }
""",
}


ARGUMENTS = (argument("shell", "SHELL", "bash or zsh", choices=tuple(FINDING)),)


def main(args: argparse.Namespace) -> int:
    """Write the script: shtab reads the parser, and is told how to find the names that it cannot know."""
    import shtab

    top = parser(*VERBS)
    for action in _actions(top):
        if action.metavar in VALUES:
            action.complete = dict.fromkeys(FINDING, VALUES[str(action.metavar)])  # type: ignore[attr-defined]
        elif action.metavar in FILES or action.metavar in FOLDERS:
            action.complete = shtab.FILE if action.metavar in FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar == "STEP":
            action.choices = list(STEPS)
    places = {"recipes": shlex.quote(str(RECIPES)), "profiles": shlex.quote(str(PROFILES))}
    finding = Template(FINDING[args.shell]).safe_substitute(places)
    print(shtab.complete(top, args.shell, preamble={args.shell: finding}))  # type: ignore[arg-type]
    return 0


def _actions(top: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the actions of all verbs."""
    (verbs,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return [action for verb in verbs.choices.values() for action in verb._actions]
