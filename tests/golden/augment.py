"""augment.safetensors: EDM's augmentation pipe on recorded draws, each transform alone, and the labels' statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from sida.numerics.augment import AugmentDraws, augment, draw_augment
from sida.numerics.draws import Draws
from tests.golden.compare import Case, Checks, Folder, Golden

PATTERNS = ["augment.safetensors"]
TOLERANCE = 1e-4
STATISTICS_SAMPLES = 20_000
# The draws of each transform in the authors' order.
_ORDER = {
    "xflip": ("xflip", "xflip_gate"),
    "yflip": ("yflip", "yflip_gate"),
    "scale": ("scale_normal", "scale_gate"),
    "rotate": ("rotate_uniform", "rotate_gate"),
    "aniso": ("aniso_normal", "aniso_angle_uniform", "aniso_gate", "aniso_rotate_gate"),
    "translate": ("translate_normal", "translate_gate"),
}


def cases(folder: Folder) -> Iterator[Case]:
    if not folder.has(PATTERNS[0]):
        return
    golden = folder.tensors(PATTERNS[0])
    for group in golden.groups():
        if group.startswith("only_"):
            yield Case(f"augment/{group}", lambda checks, g=group: _alone(checks, golden, g))
        elif group.startswith("stats_p"):
            yield Case(f"augment/{group}", lambda checks, g=group: _statistics(checks, golden, g))
        elif group.startswith("p"):
            yield Case(f"augment/{group}", lambda checks, g=group: _pipe(checks, golden, g))


def _probability(digits: str) -> float:
    """ "1" -> 1, "012" -> 0.12: how the names write p."""
    return float(f"{digits[0]}.{digits[1:] or 0}")


def _draws(recorded: dict[str, Tensor], images: int) -> AugmentDraws:
    """Recorded draws in our layout; zeros where a transform is not in use."""
    fields = {field.name: torch.zeros(images) for field in dataclasses.fields(AugmentDraws)}
    fields["translate_normal"] = torch.zeros(images, 2)
    for name, draw in recorded.items():
        fields[name] = draw.T if name == "translate_normal" else draw.flatten()
    return AugmentDraws(**fields)


def _pipe(checks: Checks, golden: Golden, group: str) -> None:
    p = _probability(group.removeprefix("p").partition("_")[0])
    recorded = {name.replace("_int", ""): draw for name, draw in golden.under(f"{group}/draw/").items()}
    x = golden[f"{group}/x"]
    y, labels = augment(x, _draws(recorded, len(x)), p)
    checks.close("y", y, golden[f"{group}/y"], TOLERANCE)
    checks.close("labels", labels, golden[f"{group}/labels"], TOLERANCE)


def _alone(checks: Checks, golden: Golden, group: str) -> None:
    transform = group.removeprefix("only_")
    recorded = [golden[key] for key in golden.names(f"{group}/draw")]
    x = golden[f"{group}/x"]
    draws = _draws(dict(zip(_ORDER[transform], recorded, strict=True)), len(x))
    y, labels = augment(x, draws, 1.0, [transform])
    checks.close("y", y, golden[f"{group}/y"], TOLERANCE)
    checks.close("labels", labels, golden[f"{group}/labels"], TOLERANCE)


def _statistics(checks: Checks, golden: Golden, group: str) -> None:
    """Both sides are random samples: five standard errors of each statistic's difference (of the std: 15 %)."""
    p = _probability(group.removeprefix("stats_p"))
    draws = draw_augment(Draws(0), "statistics", torch.arange(STATISTICS_SAMPLES))
    _, labels = augment(torch.zeros(STATISTICS_SAMPLES, 1, 2, 2), draws, p)
    mean, std, share = (golden[f"{group}/{name}"] for name in ("mean", "std", "share_nonzero"))
    error = (2 / STATISTICS_SAMPLES) ** 0.5
    labels = labels.double()
    checks.close("mean / std", (labels.mean(0) - mean) / std, torch.zeros_like(mean), 5 * error)
    checks.close("std", labels.std(0), std, 0.0, 0.15)
    spread = (share * (1 - share)).sqrt()
    checks.close("share / spread", ((labels != 0).double().mean(0) - share) / spread, torch.zeros_like(mean), 5 * error)
