"""What others published for the paper's data sets, beside which runs are shown: numbers of theirs, none measured here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

CIFAR10, CIFAR10_CONDITIONAL = "CIFAR-10 32x32 unconditional", "CIFAR-10 32x32 conditional"
IMAGENET64, IMAGENET512 = "ImageNet 64x64 conditional", "ImageNet 512x512"
FFHQ, AFHQ = "FFHQ 64x64", "AFHQv2 64x64"
NOT_SAID = "not said"


@dataclass(frozen=True)
class ReportedScore:
    """A score that somebody published: FID, the lower the better, by its authors' own protocol."""

    data: str  # with which a benchmark's title begins
    method: str
    score: float
    evaluations: int  # of the network, for an image
    teacher: str
    protocol: str
    source: str
    date: str  # year and month


_DDO = ("NVlabs/DDO README, arXiv 2503.01103", "2025-03")
_UNI = ("EDM", "50,000 images, on SiDA's code", "a-little-hoof/Uni-Instruct README, arXiv 2505.20755", "2025-05")
_GDD = ("arXiv 2405.20750, Zyriix/GDD README", "2024-05")
_FASTGEN = ("EDM", "number of images and seeds not said", "NVlabs/FastGen README of its methods", "2026-02")
_CMT = ("EDM", NOT_SAID, "sony/cmt README, arXiv 2509.24526", "2025-09")
_ONE_RANGE = "50,000 images, seeds 0-49999"
_REBALANCED = f"{_ONE_RANGE}, classes rebalanced; steps inferred from EDM2"
_EDM_S = "EDM's references"

LITERATURE = tuple(
    ReportedScore(*row)
    for row in (
        (CIFAR10, "DDO (a teacher)", 1.38, 35, "EDM, fine-tuned", f"{_ONE_RANGE}; steps inferred from EDM", *_DDO),
        (CIFAR10, "Uni-Instruct", 1.46, 1, *_UNI),
        (CIFAR10, "GDD", 1.54, 1, "EDM", _EDM_S, *_GDD),
        (CIFAR10, "CMT", 1.97, 2, *_CMT),
        (CIFAR10, "CMT", 2.74, 1, *_CMT),
        (
            CIFAR10_CONDITIONAL,
            "DDO (a teacher)",
            1.30,
            35,
            "EDM, fine-tuned",
            f"{_ONE_RANGE}; steps inferred from EDM",
            *_DDO,
        ),
        (CIFAR10_CONDITIONAL, "Uni-Instruct", 1.38, 1, *_UNI),
        (CIFAR10_CONDITIONAL, "FastGen, f-distill", 1.85, 1, *_FASTGEN),
        (CIFAR10_CONDITIONAL, "FastGen, DMD2", 1.99, 1, *_FASTGEN),
        (AFHQ, "GDD", 1.23, 1, "EDM", f"{_EDM_S}; also given as 1.24", *_GDD),
        (AFHQ, "CMT", 2.34, 2, *_CMT),
        (AFHQ, "CMT", 3.28, 1, *_CMT),
        (FFHQ, "GDD", 0.85, 1, "EDM", f"{_EDM_S}; also given as 0.83", *_GDD),
        (FFHQ, "CMT", 2.75, 2, *_CMT),
        (FFHQ, "CMT", 3.89, 1, *_CMT),
        (IMAGENET64, "DDO (a teacher)", 0.97, 63, "EDM2-S, fine-tuned", f"{_REBALANCED}; EDM2's reference", *_DDO),
        (IMAGENET64, "Uni-Instruct", 1.02, 1, *_UNI),
        (IMAGENET64, "FastGen, f-distill", 1.11, 1, *_FASTGEN),
        (IMAGENET64, "FastGen, DMD2", 1.12, 1, *_FASTGEN),
        (IMAGENET64, "GDD", 1.16, 1, "EDM", f"{_EDM_S}; also given as 1.13", *_GDD),
        (IMAGENET512, "DDO (a teacher), guidance 1.1", 1.21, 126, "EDM2-L, fine-tuned", _REBALANCED, *_DDO),
        (IMAGENET512, "DDO (a teacher)", 1.26, 63, "EDM2-L, fine-tuned", _REBALANCED, *_DDO),
    )
)
HEADINGS = ("data", "method", "FID", "evaluations", "teacher", "protocol", "source", "date")


def newest(benchmark: str) -> tuple[str, float | None]:
    """Return method and score of the best one-step result for a benchmark's data; no name and None where there is none."""
    one_step = [found for found in LITERATURE if found.evaluations == 1 and benchmark.startswith(found.data)]
    best = min(one_step, key=lambda found: found.score, default=None)
    return (best.method, best.score) if best else ("", None)


def literature(benchmarks: Iterable[str]) -> list[ReportedScore]:
    """Return the rows for the data of these benchmarks, of each the best score first."""
    titles = tuple(benchmarks)
    return [found for found in LITERATURE if any(title.startswith(found.data) for title in titles)]


def cells(rows: Iterable[ReportedScore]) -> list[tuple[str, ...]]:
    """Return the rows as texts, without a heading."""
    return [
        (
            row.data,
            row.method,
            f"{row.score:.2f}",
            str(row.evaluations),
            row.teacher,
            row.protocol,
            row.source,
            row.date,
        )
        for row in rows
    ]


def records(rows: Iterable[ReportedScore]) -> list[dict[str, Any]]:
    """Return the rows for JSON."""
    return [asdict(row) for row in rows]
