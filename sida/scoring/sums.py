"""Sums of one pass over images for every metric: mergeable, so that a score can be cut, killed and put together again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sida.errors import UserError
from sida.numerics.frechet import Moments
from sida.numerics.inception_score import SplitSums
from sida.scoring.detector import Detector

MOMENTS = ("count", "sum", "outer")
SPLITS = ("is/counts", "is/entropy", "is/total")
SECOND = "second/"
KEEP_FEATURES = "features"  # no metric: keep the features whatever is asked for
NEED_FEATURES = {"kid", "precision_recall", KEEP_FEATURES}  # metrics that compare samples, not sums


class Sums:
    """Feature moments; for ``is`` the sums of each split; for KID, precision and recall the features themselves.

    ``count`` is the size of the whole range, of which this may be a part; ``second``: width of a second detector's features, whose
    moments are gathered too.
    """

    def __init__(self, features: int, count: int, metrics: tuple[str, ...] = (), second: int | None = None) -> None:
        self.moments = Moments(features)
        self.second = None if second is None else Sums(second, count)
        self.count, self.metrics = count, metrics
        self.splits: SplitSums | None = None
        self.features: list[Tensor] = []  # float32, on the CPU, in the order of the seeds

    def add(self, detector: Detector, images: Tensor, first_row: int, second: Detector | None = None) -> None:
        """Add uint8 images [B, C, H, W], the first of them number ``first_row`` of the range.

        Raises UserError when a detector's features have another width, or are not finite.
        """
        if self.second is not None:
            assert second is not None
            self.second.add(second, images, first_row)
        if "is" in self.metrics:
            features, probabilities = detector.with_probabilities(images)
            if self.splits is None:
                self.splits = self._new_splits(probabilities.shape[1], probabilities.device)
            self.splits.add(probabilities, first_row)
        else:
            features = detector(images)
        width = len(self.moments.sum)
        if features.ndim != 2 or features.shape[1] != width:
            raise UserError(
                f"the detector gives features of {list(features.shape[1:])}, the reference has {width}: correct "
                f"the detector's features in the recipe, or take the reference that belongs to this detector"
            )
        if not bool(features.isfinite().all()):
            raise UserError("the detector's features are not finite: check the images and the detector's file")
        if self.moments.sum.device != features.device:
            self.moments = Moments.from_state([t.to(features.device) for t in self.moments.state()])
        self.moments.add(features)
        if NEED_FEATURES & set(self.metrics):
            self.features.append(features.to("cpu", torch.float32))

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add a later part, as its ``state`` gave it."""
        self.moments.merge(Moments.from_state([state[name] for name in MOMENTS]))
        if self.second is not None:
            self.second.merge({name: state[SECOND + name] for name in MOMENTS})
        if SPLITS[0] in state:
            if self.splits is None:
                self.splits = self._new_splits(state["is/total"].shape[1], "cpu")
            self.splits.merge([state[name] for name in SPLITS])
        if "features" in state:
            self.features.append(state["features"])

    def state(self) -> dict[str, Tensor]:
        """Everything as named tensors on the CPU."""
        tensors = dict(zip(MOMENTS, self.moments.state(), strict=True))
        if self.splits is not None:
            tensors |= dict(zip(SPLITS, self.splits.state(), strict=True))
        if self.features:
            tensors["features"] = torch.cat(self.features)
        if self.second is not None:
            tensors |= {SECOND + name: tensor for name, tensor in self.second.state().items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def _new_splits(self, classes: int, device: torch.device | str) -> SplitSums:
        try:
            return SplitSums(classes, self.count, device=device)
        except ValueError as error:
            raise UserError(f"Inception Score: {error}: raise evaluation.images") from error


class StepSums(Sums):
    """Sums of a generator's images after its last step, and feature moments of those after each step before.

    ``earlier``: the moments, step by step. Images are [B, steps, C, H, W].
    """

    def __init__(
        self, steps: int, features: int, count: int, metrics: tuple[str, ...] = (), second: int | None = None
    ) -> None:
        super().__init__(features, count, metrics, second)
        self._earlier = [Sums(features, count) for _ in range(steps - 1)]

    @property
    def earlier(self) -> list[Moments]:
        """Moments of the first step's images, the second's, and so on, without the last's."""
        return [sums.moments for sums in self._earlier]

    def add(self, detector: Detector, images: Tensor, first_row: int, second: Detector | None = None) -> None:
        """Add uint8 images [B, steps, C, H, W]; the second detector sees the last step's."""
        *before, last = images.unbind(1)
        super().add(detector, last, first_row, second)
        for sums, made in zip(self._earlier, before, strict=True):
            sums.add(detector, made, first_row)

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add a later part, as its ``state`` gave it."""
        super().merge(state)
        for step, sums in enumerate(self._earlier, 1):
            sums.merge({name: state[f"step {step}/{name}"] for name in MOMENTS})

    def state(self) -> dict[str, Tensor]:
        """Everything as named tensors on the CPU."""
        tensors = super().state()
        for step, sums in enumerate(self._earlier, 1):
            tensors |= {f"step {step}/{name}": tensor for name, tensor in sums.state().items()}
        return tensors
