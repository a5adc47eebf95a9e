"""Fields of the training set."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from sida.recipe.section import Positive, Section, Sha256, Size
from sida.recipe.teacher import Channels, Classes


class Latents(Section):
    """Images are encoded by a variational autoencoder, and the networks see its latents (EDM2)."""

    vae: str  # a diffusers repository
    revision: str | None = None
    licence: str
    image_resolution: Size  # of the images; dataset.resolution is that of the latents
    raw_mean: tuple[float, ...] = (5.81, 3.25, 0.12, -2.15)  # per channel, as EDM2 normalizes
    raw_std: tuple[float, ...] = (4.17, 4.62, 3.71, 3.28)


class Dataset(Section):
    """The training set as shards: source, transform, size and labels."""

    source: Literal[
        "digits",
        "patches",
        "cifar10",
        "edm-zip",
        "folder",
        "ffhq",
        "afhqv2",
        "imagenet",
        "webdataset",
        "parquet",
        "labels",
    ]
    address: str | None = None  # of the archive or folder; None: it needs none, or everyone has to get their own
    sha256: Sha256 | None = None
    transform: Literal["none", "lanczos", "center-crop", "center-crop-dhariwal", "center-crop-upright"] = "none"
    latents: Latents | None = None
    licence: str
    resolution: Size
    channels: Channels
    classes: Classes = 0
    images: Positive | None = None  # how many there must be; None: as many as there are
    modes: Literal["strict", "convert"] = "strict"  # convert: palette, CMYK, bilevel and alpha as in EDM2's tool
    unreadable: Literal["fail", "skip"] = "fail"
    duplicates: Literal["fail", "skip", "keep"] = "fail"  # of pixels; keep where the published set has them

    @property
    def picture(self) -> tuple[int, int]:
        """Channels and resolution of the pictures that scores are of; those of latents once they are decoded."""
        return (3, self.latents.image_resolution) if self.latents else (self.channels, self.resolution)

    @model_validator(mode="after")
    def _latents_fit(self) -> Dataset:
        if self.latents is None:
            return self
        if len(self.latents.raw_mean) != self.channels or len(self.latents.raw_std) != self.channels:
            raise ValueError(f"latents.raw_mean and raw_std need one number for each of {self.channels} channels")
        if self.latents.image_resolution % self.resolution:
            raise ValueError(
                f"latents.image_resolution {self.latents.image_resolution} is no multiple of resolution {self.resolution}"
            )
        return self
