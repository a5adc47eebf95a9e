"""EDM's augmentation pipe with its conditioning labels (arXiv 2206.00364, appendix F.2; ADA, arXiv 2006.06676, appendix B).

Flips act on pixels. Scaling, rotation, anisotropic scaling and translation are one affine map, applied to an image doubled with
the orthogonal wavelet sym6, sampled bilinearly and halved again; beyond its edges the image continues by reflection. The nine
labels are 0 where nothing happened. All draws are arguments, so a run can be repeated and golden draws can be handed in.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, conv_transpose2d, grid_sample, pad

from sida.numerics.constants import constant
from sida.numerics.draws import DrawSource

TRANSFORMS = ("xflip", "yflip", "scale", "rotate", "aniso", "translate")
LABELS = {"xflip": 1, "yflip": 1, "scale": 1, "rotate": 2, "aniso": 2, "translate": 2}
AUGMENT_DIM = sum(LABELS.values())

SCALE_STD = 0.2  # in octaves, of both scalings
TRANSLATE_STD = 0.125  # in image sizes
ANISO_ROTATE_PROBABILITY = 0.5

# Daubechies' least asymmetric wavelet with 6 vanishing moments (scaling filter; Daubechies 1992, table 6.3), sum sqrt(2).
_SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_REACH = len(_SYM6) // 2 - 1  # taps on either side of a pair of fine pixels
# The published pipe turns and scales about a point half a fine pixel up and left of the image's center: its doubled images
# are offset by that much. Networks are conditioned on such images, so we keep it.
_CENTER_OFFSET = -0.25


@dataclass(frozen=True)
class AugmentDraws:
    """Draws that the pipe needs per image, float [N] unless said. A ``_gate`` in [0, 1) lets its transform act if it is below p."""

    xflip: Tensor  # bool: flip if the gate agrees
    xflip_gate: Tensor
    yflip: Tensor  # bool
    yflip_gate: Tensor
    scale_normal: Tensor
    scale_gate: Tensor
    rotate_uniform: Tensor  # [0, 1)
    rotate_gate: Tensor
    aniso_normal: Tensor
    aniso_angle_uniform: Tensor  # [0, 1)
    aniso_gate: Tensor
    aniso_rotate_gate: Tensor  # below 0.5: the stretch has an angle
    translate_normal: Tensor  # [N, 2]: x, y
    translate_gate: Tensor


def draw_augment(draws: DrawSource, purpose: str, indices: Tensor) -> AugmentDraws:
    """Return the draws of the images ``indices`` (int64 [N]); ``purpose`` separates generated from real images."""
    uniform = draws.uniform(f"{purpose}/uniform", indices, (10,)).unbind(dim=1)
    normal = draws.normal(f"{purpose}/normal", indices, (4,))
    return AugmentDraws(
        xflip=uniform[0] < 0.5,
        xflip_gate=uniform[1],
        yflip=uniform[2] < 0.5,
        yflip_gate=uniform[3],
        scale_normal=normal[:, 0],
        scale_gate=uniform[4],
        rotate_uniform=uniform[5],
        rotate_gate=uniform[6],
        aniso_normal=normal[:, 1],
        aniso_angle_uniform=draws.uniform(f"{purpose}/angle", indices, ()),
        aniso_gate=uniform[7],
        aniso_rotate_gate=uniform[8],
        translate_normal=normal[:, 2:],
        translate_gate=uniform[9],
    )


def augment(
    images: Tensor, draws: AugmentDraws, p: float, transforms: Collection[str] = TRANSFORMS
) -> tuple[Tensor, Tensor]:
    """Augment images float [N, C, H, W]; return the same shape and labels [N, 9] (fewer if ``transforms`` leaves some out).

    ``p`` is the probability of each transform but xflip, which is always eligible. Raises ValueError for an unknown transform.
    """
    if unknown := set(transforms) - set(TRANSFORMS):
        raise ValueError(f"no augmentation called {sorted(unknown)}: known are {', '.join(TRANSFORMS)}")
    labels: list[Tensor] = []
    for name, flip, gate, probability, dim in (
        ("xflip", draws.xflip, draws.xflip_gate, 1.0, 3),
        ("yflip", draws.yflip, draws.yflip_gate, p, 2),
    ):
        if name in transforms:
            act = flip.bool() & (gate < probability)
            images = torch.where(act[:, None, None, None], images.flip(dim), images)
            labels.append(act.to(images.dtype))
    if geometric := [name for name in TRANSFORMS[2:] if name in transforms]:
        inverse, more = _inverse_map(draws, p, geometric, images)
        images = _resample(images, inverse)
        labels += more
    return images, torch.stack(labels, dim=1)


def _inverse_map(draws: AugmentDraws, p: float, names: list[str], images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the map from output to input coordinates (pixels from the image's center), [N, 3, 3]; and the transforms' labels."""
    height, width = images.shape[2:]
    inverse = torch.eye(3, dtype=images.dtype, device=images.device).expand(len(images), 3, 3)
    labels: list[Tensor] = []

    def gated(value: Tensor, gate: Tensor) -> Tensor:
        return torch.where(gate < p, value, 0)

    if "scale" in names:
        octaves = gated(draws.scale_normal, draws.scale_gate)
        shrink = 2 ** (-SCALE_STD * octaves)
        inverse = inverse @ _stretch(shrink, shrink)
        labels.append(octaves)
    if "rotate" in names:
        angle = gated((draws.rotate_uniform * 2 - 1) * math.pi, draws.rotate_gate)
        inverse = inverse @ _rotation(angle)
        labels += [angle.cos() - 1, angle.sin()]
    if "aniso" in names:
        octaves = gated(draws.aniso_normal, draws.aniso_gate)
        angle = (draws.aniso_angle_uniform * 2 - 1) * math.pi
        angle = torch.where(draws.aniso_rotate_gate < ANISO_ROTATE_PROBABILITY, angle, 0)
        shrink = 2 ** (-SCALE_STD * octaves)
        inverse = inverse @ _rotation(-angle) @ _stretch(shrink, 1 / shrink) @ _rotation(angle)
        labels += [octaves * angle.cos(), octaves * angle.sin()]
    if "translate" in names:
        shift = gated(draws.translate_normal, draws.translate_gate[:, None])
        size = constant((width, height), images)
        inverse = inverse @ _translation(-shift * size * TRANSLATE_STD)
        labels += list(shift.unbind(dim=1))
    return inverse, labels


def _affine(*entries: Tensor | Literal[0, 1]) -> Tensor:
    """[N, 3, 3] from the first two rows: tensors [N] and constants."""
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    constants = torch.zeros_like(like), torch.ones_like(like)
    every = [entry if isinstance(entry, Tensor) else constants[entry] for entry in (*entries, 0, 0, 1)]
    return torch.stack(every, dim=-1).reshape(-1, 3, 3)


def _stretch(x: Tensor, y: Tensor) -> Tensor:
    return _affine(x, 0, 0, 0, y, 0)


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return _affine(cos, -sin, 0, sin, cos, 0)


def _translation(shift: Tensor) -> Tensor:
    return _affine(1, 0, shift[:, 0], 0, 1, shift[:, 1])


def _resample(images: Tensor, inverse: Tensor) -> Tensor:
    """Apply an affine map given from output to input, [N, 3, 3] in pixels from the center.

    The reflected border is as wide as reflection allows, whatever the map: shapes do not depend on the draws, nor an image on
    its batch.
    """
    height, width = images.shape[2:]
    offset = torch.full((1, 2), _CENTER_OFFSET, dtype=images.dtype, device=images.device)
    inverse = _translation(offset) @ inverse @ _translation(-offset)
    images = pad(images, (width - 1, width - 1, height - 1, height - 1), mode="reflect")
    in_height, in_width = images.shape[2:]
    channels = images.shape[1]
    taps = constant(_SYM6, images)
    taps = taps / taps.sum()
    across, along = ((shape, taps.reshape(shape)) for shape in ((1, 1, 1, -1), (1, 1, -1, 1)))
    # Doubling: source pixel i becomes the fine pixels 2i and 2i + 1, the filter centered between them.
    for (_, kernel), stride, padding in ((across, (1, 2), (0, _REACH)), (along, (2, 1), (_REACH, 0))):
        kernel = (2 * kernel).expand(channels, 1, -1, -1)
        images = conv_transpose2d(images, kernel, stride=stride, padding=padding, groups=channels)
    # The fine output grid has the taps' reach beyond the image. Both grids share the center, 0 in [-1, 1].
    out_height, out_width = height + _REACH, width + _REACH
    to_pixels = constant((out_width / 2, out_height / 2, 1), images)
    from_pixels = constant((2 / in_width, 2 / in_height), images)
    theta = from_pixels[:, None] * inverse[:, :2] * to_pixels
    grid = affine_grid(theta, [len(images), channels, 2 * out_height, 2 * out_width], align_corners=False)
    images = grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    for (_, kernel), stride in ((across, (1, 2)), (along, (2, 1))):
        images = conv2d(images, kernel.expand(channels, 1, -1, -1), stride=stride, groups=channels)
    return images
