"""The newest one-step results published for the paper's benchmarks, beside which ours are shown. FID, 50,000 images."""

from __future__ import annotations

NEWEST: dict[str, tuple[str, float]] = {
    "CIFAR-10 32x32 unconditional": ("Uni-Instruct", 1.46),
    "CIFAR-10 32x32 conditional": ("Uni-Instruct", 1.38),
    "ImageNet 64x64 conditional": ("Uni-Instruct", 1.02),
    "FFHQ 64x64": ("GDD", 0.85),
    "AFHQv2 64x64": ("GDD", 1.23),
}
