"""docs/tutorial.md, executed: every command as it stands there, with fewer images."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
SHORTER = {  # lines of the recipe that `new` writes -> what is run here
    "images: 400_000": "images: 256",
    "decay_from: 200_000": "decay_from: 128",
    "images: 200_000": "images: 512",
    "decay_from: 100_000": "decay_from: 256",
    "generator_from: 5_000": "generator_from: 64",
    "adversarial_from: 10_000": "adversarial_from: 128",
    "selection_every: 20_000": "selection_every: 512",
    "checkpoint_every: 20_000": "checkpoint_every: 512",
    "selection_images: 1_000": "selection_images: 64",
    "images: 5_000": "images: 100",
    "ranges: 3": "ranges: 2",
    "steps: 18": "steps: 2",
    "model_channels: 32": "model_channels: 16",
    "generator_within: 2.0": "generator_within: 1_000.0",
}


def blocks(language: str) -> list[str]:
    """The tutorial's code."""
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)


def test_every_command_of_the_tutorial_is_one_that_there_is() -> None:
    from pipeline.__main__ import VERBS, parser

    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    ours = [command[1:] for command in commands if command[0] == "sida"]
    assert [command[0] for command in ours] == ["new", "plan", "teach", "run", "sample", "export"]
    for command in ours:
        parser(*VERBS).parse_args(command)  # leaves with an error if an option is not there


def test_the_recipe_that_new_writes_has_the_lines_that_are_shortened_here() -> None:
    template = (ROOT / "pipeline/templates/own-teacher.yaml").read_text()
    assert all(f"  {line}" in template for line in SHORTER)


@pytest.mark.slow
def test_the_tutorial_leads_from_images_to_a_generator_that_samples_without_this_project(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(command: list[str]) -> str:
        ours = ["-m", "pipeline"] if command[0] == "sida" else []
        done = subprocess.run(
            [sys.executable, *ours, *command[1:]],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    (cut,) = blocks("python")
    assert "2_000" in cut
    run(["python", "-c", cut.replace("2_000", "60")])
    generator = "GENERATOR"
    for line in (line for block in blocks("sh") for line in block.splitlines()):
        command = [generator if word == "GENERATOR" else word for word in shlex.split(line)]
        out = run(command)
        if "new" in command:
            path = place / "patches.yaml"
            text = path.read_text()
            for long, short in SHORTER.items():
                assert long in text
                text = text.replace(long, short, 1)
            path.write_text(text)
        if "run" in command:
            assert "fd_random" in out
            assert "fid" not in out.lower().split()
            (generator,) = re.findall(r"^generator +(\S+)$", out, re.MULTILINE)
    grids = []
    for name in ("samples.png", "again.png"):
        with Image.open(place / name) as file:
            grids.append(np.asarray(file).astype(int))
    image = np.arange(len(grids[0])) % 34 < 32  # without the gaps of two pixels
    ours = grids[0][image][:, image]
    assert ours.shape == grids[1].shape == (256, 256, 3)
    assert np.abs(ours - grids[1]).max() <= 1
