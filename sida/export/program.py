"""A generator as a folder that needs torch and Pillow, and nothing of this project.

``generator.pt2`` is the program as ``torch.export`` records it, weights inside: seeds and class numbers in, images out. The noise
of a seed is a part of it, so that seed 7 is the image that `sample`, `score` and the report show for seed 7.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sida.disk import full_disk
from sida.errors import UserError
from sida.numerics.samplers import last_step
from sida.numerics.schedules import step_sigmas
from sida.printing import one_line
from sida.scoring.protocol import sampling_noise
from sida.teachers.files import generator_header, save_network

if TYPE_CHECKING:
    from sida.export.generator import Generator

SCRIPT = Path(__file__).with_name("standalone.txt")
WEIGHTS, PROGRAM, SAMPLER, ABOUT = "generator.safetensors", "generator.pt2", "sample.py", "README.md"


class Sampler(nn.Module):
    """seeds int64 [B], labels int64 [B] -> images float32 [B, C, H, W] in about [-1, 1]."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.denoiser, self.shape = generator.denoiser, generator.shape
        self.sigmas = step_sigmas(generator.sigma_init, generator.steps)

    def forward(self, seeds: Tensor, labels: Tensor) -> Tensor:
        classes = self.denoiser.label_dim
        c = (labels[:, None] == torch.arange(classes, device=labels.device)).to(torch.float32) if classes else None
        return last_step(self.denoiser, partial(sampling_noise, seeds, self.shape), c, self.sigmas)


def export_generator(generator: Generator, folder: Path) -> list[Path]:
    """Write weights, program, script and README into a new folder, which appears when it is whole.

    The program is run once and compared with the generator. Raises UserError when the folder exists, or torch cannot record it.
    """
    if folder.exists():
        raise UserError(f"--output {folder}: exists already: remove it, or name another")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"--output {folder}: there is no folder {folder.parent}: make it first")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as temporary:
        whole = Path(temporary) / folder.name
        whole.mkdir()
        save_network(
            whole / WEIGHTS,
            generator.denoiser.state_dict(),
            {name: value for name, value in generator.network.items() if value is not None},
            **generator_header(generator.sigma_init, generator.steps),
            licence=generator.licence,
        )
        _record(generator, whole / PROGRAM)
        shutil.copyfile(SCRIPT, whole / SAMPLER)
        (whole / ABOUT).write_text(_readme(generator), encoding="utf-8")
        whole.rename(folder)
    return [folder / name for name in (WEIGHTS, PROGRAM, SAMPLER, ABOUT)]


def _record(generator: Generator, path: Path) -> None:
    sampler = Sampler(generator).eval()
    seeds, labels = torch.arange(3), torch.arange(3) % max(1, generator.classes)
    batch = torch.export.Dim("batch", max=2**20)
    facts = {
        "channels": generator.shape[0],
        "resolution": generator.shape[1],
        "classes": generator.classes,
        "licence": generator.licence,
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on its way from one form to another
        try:
            program = torch.export.export(sampler, (seeds, labels), dynamic_shapes=({0: batch}, {0: batch}))
            torch.export.save(program, path, extra_files={"facts.json": json.dumps(facts)})
            again = torch.export.load(path).module()(seeds, labels)
        except (RuntimeError, ValueError, TypeError) as error:
            if (full := full_disk(error, str(path))) is not None:
                raise full from error
            reason = one_line(str(error), 300)
            raise UserError(
                f"torch {torch.__version__} cannot record this network ({reason}): use the weights"
            ) from error
        difference = float((again - sampler(seeds, labels)).abs().max())
    if not difference <= 1e-5:
        raise UserError(f"the recorded program differs from the generator by {difference:.2g}: nothing was written")


def _readme(generator: Generator) -> str:
    channels, height, width = generator.shape
    kinds = f"{generator.classes} classes" if generator.classes else "no classes"
    facts = "\n".join(f"* {name}: {value}" for name, value in generator.about.items())
    many = generator.steps > 1
    evaluations = f"{generator.steps} network evaluations" if many else "one network evaluation"
    called = f"sigma_init ({generator.sigma_init:g})" + (f", steps ({generator.steps})" if many else "")
    return f"""# {"An" if many else "A one-step"} image generator

{channels} x {height} x {width}, {kinds}; {evaluations} per image. Licence of the weights: {generator.licence}.

    python sample.py --seeds 0-63 --grid grid.png

needs torch {torch.__version__.split("+")[0]} (or newer) and Pillow, nothing else. Seed s is the same image every time.

* `{PROGRAM}`: the program and its weights, as torch.export records them: `torch.export.load("{PROGRAM}").module()(seeds, labels)`.
  Load such files only from people whom you trust.
* `{WEIGHTS}`: the weights alone, float32; architecture and {called} in the header.
{facts}
"""
