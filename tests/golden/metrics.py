"""metrics.safetensors, metrics.json: Frechet distance and its statistics, IS, KID, precision and recall, the EMA table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sida.numerics.ema import ema_beta
from sida.numerics.frechet import Moments, frechet_distance
from sida.numerics.inception_score import SplitSums
from sida.numerics.kid import kernel_distance
from sida.numerics.precision_recall import precision_recall
from tests.golden.compare import Case, Checks, Folder, Golden
from tests.golden.samplers import quantise

PATTERNS = ["metrics.json", "metrics.safetensors"]
REGULAR, SINGULAR, TOLERANCE = 1e-8, 1e-5, 1e-6


def cases(folder: Folder) -> Iterator[Case]:
    if not folder.has("metrics.safetensors"):
        return
    golden, scores = folder.tensors("metrics.safetensors"), folder.json("metrics.json")
    for case, value in scores["frechet"].items():
        yield Case(f"metrics/frechet/{case}", lambda checks, c=case, v=value: _frechet(checks, golden, c, v))
    for key in golden.names("stats/"):
        yield Case(f"metrics/{key}", lambda checks, k=key: _statistics(checks, golden, k))
    if "fd/features/x" in golden:
        yield Case("metrics/frechet/from_features", lambda checks: _features(checks, golden, scores["frechet"]))
    for splits, value in scores["inception_score"].items():
        yield Case(f"metrics/inception_score/{splits}", lambda checks, s=splits, v=value: _is(checks, golden, s, v))
    yield Case("metrics/kid", lambda checks: _kid(checks, golden, scores["kid"]))
    for key in scores:
        if key.startswith("precision_recall_k"):
            for which in sorted({name.split("/")[1] for name in golden.names("pr/")}):
                yield Case(
                    f"metrics/{key}/{which}",
                    lambda checks, k=key, w=which: _precision_recall(checks, golden, k, w, scores[k]),
                )
    if golden.names("quantise/"):
        yield Case("metrics/quantise", lambda checks: quantise(checks, golden))
    yield Case("metrics/ema_beta", lambda checks: _ema(checks, scores["ema_beta"]))


def _frechet(checks: Checks, golden: Golden, case: str, value: float) -> None:
    mu1, sigma1, mu2, sigma2 = (golden[f"fd/{case}/{name}"] for name in ("mu1", "sigma1", "mu2", "sigma2"))
    singular = any(_singular(sigma) for sigma in (sigma1, sigma2))
    tolerance = SINGULAR if singular else REGULAR
    checks.close("distance", frechet_distance(mu1, sigma1, mu2, sigma2), value, tolerance, tolerance)
    checks.close("swapped", frechet_distance(mu2, sigma2, mu1, sigma1), value, tolerance, tolerance)


def _singular(sigma: torch.Tensor) -> bool:
    values = torch.linalg.eigvalsh(sigma)
    return bool(values[0] < 1e-8 * values[-1])


def _features(checks: Checks, golden: Golden, scores: dict[str, float]) -> None:
    """The features are those of one of the cases: the nearest."""
    both = [Moments(golden[f"fd/features/{side}"].shape[1]) for side in "xy"]
    for moments, side in zip(both, "xy", strict=True):
        for part in golden[f"fd/features/{side}"].split(64):
            moments.add(part)
    (mu1, sigma1), (mu2, sigma2) = (moments.mean_cov(ddof=0) for moments in both)
    alike = [name for name in scores if golden[f"fd/{name}/sigma2"].shape == sigma2.shape]
    if not alike:
        checks.remark(f"no case has {len(sigma2)} features")
        return
    case = min(alike, key=lambda name: float((golden[f"fd/{name}/sigma2"] - sigma2).abs().max()))
    checks.close("mu1", mu1, golden[f"fd/{case}/mu1"], 1e-12, 1e-12)
    checks.close("sigma1", sigma1, golden[f"fd/{case}/sigma1"], 1e-12, 1e-12)
    checks.close("mu2", mu2, golden[f"fd/{case}/mu2"], 1e-12, 1e-12)
    checks.close("sigma2", sigma2, golden[f"fd/{case}/sigma2"], 1e-12, 1e-12)
    checks.close("distance", frechet_distance(mu1, sigma1, mu2, sigma2), scores[case], REGULAR, REGULAR)


def _statistics(checks: Checks, golden: Golden, key: str) -> None:
    what, rows, divisor = key.removeprefix("stats/").split("_")
    count = int(rows.removeprefix("first"))
    features = golden["fd/features/x"][:count]
    moments = Moments(features.shape[1])
    for part in features.split(64):
        moments.add(part)
    mean, covariance = moments.mean_cov(ddof=1 if divisor == "divNminus1" else 0)
    checks.close(what, mean if what == "mean" else covariance, golden[key], 1e-12, 1e-12)


def inception_score(probabilities: Tensor, splits: int) -> tuple[float, float]:
    """Mean and standard deviation over consecutive splits of exp(E KL(p(y|x) || p(y))).

    ``probabilities``: [N, classes] of any float dtype, rows sum to 1 (softmax of the detector's logits without the output bias).
    Raises ValueError if N < splits.
    """
    sums = SplitSums(probabilities.shape[1], len(probabilities), splits, probabilities.device)
    sums.add(probabilities, 0)
    return sums.score()


def _is(checks: Checks, golden: Golden, splits: str, value: list[float]) -> None:
    checks.close("mean, std", inception_score(golden["is/probs"], int(splits)), value, TOLERANCE, TOLERANCE)


def _kid(checks: Checks, golden: Golden, scores: dict[str, float]) -> None:
    real, generated, choices = golden["kid/real"], golden["kid/gen"], golden["kid/choices"]
    subsets = list(zip(choices[1::2], choices[0::2], strict=True))
    checks.close("subsets", kernel_distance(real, generated, subsets), scores["subsets"], TOLERANCE, TOLERANCE)
    if len(real) == len(generated):
        everything = torch.arange(len(real))
        value = kernel_distance(real, generated, [(everything, everything)])
        checks.close("all_once", value, scores["all_once"], TOLERANCE, TOLERANCE)
    elif "all_once" in scores:
        checks.remark("all_once: its draw was not kept")


def _precision_recall(checks: Checks, golden: Golden, key: str, which: str, scores: dict[str, Any]) -> None:
    k = int(key.removeprefix("precision_recall_k"))
    real, generated = golden[f"pr/{which}/real"], golden[f"pr/{which}/gen"]
    for name, dtype in ((which, torch.float16), (f"{which}_float32", torch.float32)):
        if name in scores:
            ours = precision_recall(real, generated, k, dtype, rows=37)
            checks.close(name, ours, scores[name], TOLERANCE)


def _ema(checks: Checks, table: list[dict[str, Any]]) -> None:
    ours = [ema_beta(row["images_seen"], row["batch"], row["halflife_images"], row["ramp"]) for row in table]
    checks.close("beta", ours, [row["beta"] for row in table], TOLERANCE * 1e-3, TOLERANCE)
