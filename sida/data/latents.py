"""EDM2's latents: Stable Diffusion's autoencoder through diffusers, means and deviations of each image; and back to pixels.

The VAE sees pixels / 255 (not -1 to 1) in float32, one image at a time, as in EDM2's tool (arXiv 2312.02696): so numbers do not
depend on how the work is cut. Encoding is a job of the launcher: every process takes every n-th shard.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sida.data.entries import Decoded, Unreadable
from sida.errors import UserError
from sida.foreign.arrays import read_npy
from sida.foreign.boundary import reason, what_it_is_instead
from sida.printing import one_line
from sida.recipe import Latents
from sida.stores.objects import sha256_of

if TYPE_CHECKING:
    from torch import Tensor

    from sida.manifests import LatentsInfo

INSTALL = "pip install 'diffusers>=0.30'"
NEEDED = f"latents need the package diffusers: {INSTALL}"


@dataclass(frozen=True)
class NpyDecoder:
    """Decoder of latents that EDM2's tool encoded: an .npy file of float32 [2 * channels, resolution, resolution]."""

    channels: int
    resolution: int

    def __call__(self, content: bytes) -> Decoded:
        """Return the record's data. Raises Unreadable with the reason."""
        try:
            data = read_npy(content)
        except Exception as error:  # numpy's reader raises whatever a hostile header makes it raise
            raise Unreadable(f"is no .npy file: {reason(error)}") from error
        if data.dtype != np.float32:
            raise Unreadable("does not hold float32")
        if data.shape != (2 * self.channels, self.resolution, self.resolution):
            raise Unreadable(f"holds {list(data.shape)}, not {[2 * self.channels, self.resolution, self.resolution]}")
        if not np.isfinite(data).all() or (data[self.channels :] < 0).any():
            raise Unreadable("holds numbers that are not finite, or negative deviations")
        return Decoded(data)


def local_vae(latents: Latents | LatentsInfo) -> Path | None:
    """Return the folder of a VAE on this machine, when the recipe names one rather than a repository."""
    text = latents.vae.removeprefix("file://")
    return Path(text) if text.startswith(("/", ".")) else None


def check_pinned(latents: Latents | LatentsInfo) -> None:
    """Raise UserError for a repository without a pinned revision (a commit's 40 hex digits)."""
    if local_vae(latents) is None and not re.fullmatch(r"[0-9a-f]{40}", latents.revision or ""):
        problem = f"{latents.revision!r} is no commit" if latents.revision else "is not set"
        raise UserError(
            f"dataset.latents.revision {problem}: the repository {latents.vae} may change, so pin a commit of it by its 40 hex "
            f"digits (`sida pin RECIPE` writes today's), or set dataset.latents.vae to a folder"
        )


def check_vae(latents: Latents) -> None:
    """Raise UserError, before hours of other work, where ``load_vae`` would: no pinned revision, no such folder, no diffusers."""
    check_pinned(latents)
    folder = local_vae(latents)
    if folder is not None and not folder.is_dir():
        raise UserError(f"dataset.latents.vae {folder}: no such folder: put it there, or correct the path")
    if importlib.util.find_spec("diffusers") is None:
        raise UserError(NEEDED)


def newest_revision(repository: str) -> str:
    """Return the commit that the main branch of a repository on the Hugging Face Hub is at: 40 hex digits.

    Raises UserError when there is no such repository or the hub cannot be asked.
    """
    by_hand = f"or write the commit's 40 hex digits by hand (https://huggingface.co/{repository}/commits/main)"
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError(f"asking for a revision needs diffusers: {INSTALL}, {by_hand}") from error
    try:
        commit = HfApi().model_info(repository, timeout=30).sha
    except (OSError, ValueError) as error:  # of the hub's client: answers, connections, names that cannot be
        reason = one_line(str(error), 200)
        raise UserError(f"{repository}: its revision cannot be found out ({reason}): try again, {by_hand}") from error
    if not re.fullmatch(r"[0-9a-f]{40}", commit or ""):
        raise UserError(f"{repository}: the hub names no commit ({commit!r}): try again, {by_hand}")
    return str(commit)


def load_vae(latents: Latents | LatentsInfo) -> Any:
    """Return diffusers' AutoencoderKL in evaluation mode, float32, from safetensors only.

    Raises UserError when diffusers or the files are missing.
    """
    check_pinned(latents)
    folder = local_vae(latents)
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise UserError(f"{NEEDED} ({error})") from error
    for path in sorted(folder.glob("*") if folder else ()):
        if instead := what_it_is_instead(path):
            raise UserError(f"dataset.latents.vae {path} is {instead}")
    source: dict[str, Any] = {"local_files_only": True} if folder else {"revision": latents.revision}
    try:
        vae = AutoencoderKL.from_pretrained(str(folder or latents.vae), use_safetensors=True, **source)
    except (OSError, ValueError) as error:
        reason = one_line(str(error), 200)
        raise UserError(f"dataset.latents.vae {latents.vae}: cannot be loaded: {reason}") from error
    return vae.requires_grad_(False).eval()


def vae_sha256(latents: Latents) -> str | None:
    """Return the digest of a local VAE's weights; None for a repository, whose revision identifies them."""
    folder = local_vae(latents)
    if folder is None:
        return None
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"dataset.latents.vae {folder}: no .safetensors in it: give a folder that diffusers saved")
    parts = "".join(sha256_of(path)[0] for path in (*files, folder / "config.json"))
    return hashlib.sha256(parts.encode()).hexdigest()


def encoder_of(vae: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function: image uint8 [3, H, W] -> float32 [8, h, w], four means, then four standard deviations."""
    import torch

    device = next((p.device for p in vae.parameters()), torch.device("cpu")) if hasattr(vae, "parameters") else None

    def encode(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.array(image))[None].to(device).to(torch.float32) / 255
            distribution = vae.encode(pixels).latent_dist
            return torch.cat([distribution.mean, distribution.std], dim=1)[0].cpu().numpy()

    return encode


def decode_images(vae: Any, latents: Tensor, raw_mean: tuple[float, ...], raw_std: tuple[float, ...]) -> Tensor:
    """Decode normalized latents [B, 4, h, w] to images uint8 [B, 3, H, W], truncated as EDM2 does; one image at a time."""
    import torch

    from sida.numerics.latents import decoder_input
    from sida.numerics.quantize import unit_to_uint8

    with torch.inference_mode():
        raw = decoder_input(latents, raw_mean, raw_std)
        return torch.cat([unit_to_uint8(vae.decode(one[None]).sample) for one in raw])


def decoder_of(latents: Latents, device: Any) -> Callable[[Tensor], Tensor]:
    """Return a function: normalized latents float [B, 4, h, w] -> images uint8 [B, 3, H, W]; the recipe's VAE on ``device``.

    Raises UserError when diffusers or the VAE's files are missing.
    """
    import torch

    vae = load_vae(latents).to(device)
    return lambda given: decode_images(vae, given.to(torch.float32), latents.raw_mean, latents.raw_std).clone()
