"""What bash offers when the tab key is pressed behind ``sida``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SHELLS = ("bash", "zsh")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shell -> its script."""
    folder, made = tmp_path_factory.mktemp("completion"), {}
    for shell in SHELLS:
        command = [sys.executable, "-m", "pipeline", "completion", shell]
        made[shell] = folder / shell
        made[shell].write_text(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    return made


def offered(scripts: dict[str, Path], *words: str) -> list[str]:
    """What bash's own machinery would be given for the last word."""
    code = f'source {scripts["bash"]}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_sida; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code, "bash", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "among"),
    [
        (("",), {"run", "score-published", "completion"}),
        (("sco",), {"score", "score-published"}),
        (("run", "digits-"), {"digits-sid", "digits-full"}),
        (("run", "digits", "--"), {"--json", "--verbose", "--force"}),
        (("run", "digits", "--force", "dis"), {"distill"}),
        (("submit", "digits", "--profile", ""), {path.stem for path in (ROOT / "profiles").glob("*.yaml")}),
        (("show", "tests/recipes/t"), {"tests/recipes/tiny.yaml"}),
        (("completion", ""), set(SHELLS)),
    ],
)
def test_verbs_options_recipes_steps_profiles_and_files_are_offered(
    scripts: dict[str, Path], words: tuple[str, ...], among: set[str]
) -> None:
    found = offered(scripts, "sida", *words)
    assert among <= set(found)
    assert all(word.startswith(words[-1]) for word in found)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_the_shell_reads(scripts: dict[str, Path], shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", str(scripts[shell])], check=True)


def test_an_unknown_shell_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "pipeline", "completion", "fishy"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (2, "")
    assert len(said.stderr.splitlines()) == 1 and "bash" in said.stderr
