"""Small data sets for tests."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sida import recipe
from sida.data.prepare import prepare_data
from sida.manifests import DatasetResult
from sida.recipe import Dataset
from sida.steps import StepOutcome

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "data"


def picture(number: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """A picture like no other."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def png(number: int, size: tuple[int, int] = (12, 10)) -> bytes:
    """Its file."""
    file = io.BytesIO()
    picture(number, size).save(file, "PNG")
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a kilobyte that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def class_folders(top: Path, count: int, classes: int = 2, size: tuple[int, int] = (12, 10)) -> Path:
    """``count`` PNGs spread over class folders a, b, ..."""
    for number in range(count):
        folder = top / chr(ord("a") + number % classes)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.png").write_bytes(png(number, size))
    return top


def section(path: Path | str, source: str = "folder", **fields: Any) -> Dataset:
    """A dataset section: 8x8 RGB images by LANCZOS, unless told otherwise."""
    defaults = {"resolution": 8, "channels": 3, "transform": "lanczos", "licence": "-"}
    return Dataset.model_validate({**defaults, "source": source, "address": str(path), **fields})


def prepare(path: Path | str, source: str = "folder", attempt: str = "", **fields: Any) -> StepOutcome[DatasetResult]:
    """The step on such a section."""
    digits, dataset = recipe.load("digits"), section(path, source, **fields)
    size = {"resolution": dataset.resolution, "channels": dataset.channels, "label_dim": 0}
    teacher = digits.teacher.model_copy(update={"network": digits.teacher.network.model_copy(update=size)})
    whole = digits.model_copy(update={"dataset": dataset, "teacher": teacher})
    return prepare_data(recipe=whole, attempt=attempt)


def result(path: Path | str, source: str = "folder", **fields: Any) -> DatasetResult:
    """What it publishes."""
    found = prepare(path, source, **fields).manifest.result
    assert isinstance(found, DatasetResult)
    return found


def peak_bytes() -> int:
    """Peak resident memory of this process; getrusage's may be that of the process which started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def tiny_vae(folder: Path) -> Path:
    """A VAE of Stable Diffusion's shape, 8 times smaller latents, random weights, as diffusers saves one."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    tiny: Any = AutoencoderKL(
        **blocks, block_out_channels=[4, 4, 4, 4], layers_per_block=1, norm_num_groups=2, latent_channels=4
    )
    tiny.save_pretrained(folder, safe_serialization=True)
    return folder
