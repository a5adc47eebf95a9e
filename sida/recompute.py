"""Score again from the objects that a manifest names, and compare the numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sida.errors import UserError
from sida.manifests import Score
from sida.scoring.score import score, score_teacher
from sida.steps.recipes import recipe_of
from sida.verify import Chain

TOLERANCE = 1e-3  # of the value: float32 kernels of another machine; the same machine gives the same bits


@dataclass(frozen=True)
class Recomputed:
    """Row as it was published, and as it was computed now."""

    published: Score
    again: Score

    @property
    def difference(self) -> float:
        """Largest relative difference of a range's value."""
        pairs = zip(self.published.values, self.again.values, strict=True)
        return max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)

    @property
    def agrees(self) -> bool:
        """True if another machine's rounding explains the difference."""
        return self.difference <= TOLERANCE


def recompute(chain: Chain) -> list[Recomputed]:
    """Run the score's step anew, under a key of its own, on the objects below it. Raises UserError for other manifests."""
    steps = {"score": (score, "generator"), "score_teacher": (score_teacher, "teacher")}
    about = chain.root.about
    if about.step not in steps:
        raise UserError(f"{about.step}: only score and score_teacher can be computed again from the store")
    function, model = steps[about.step]
    recipe = recipe_of(chain.store, chain.root)
    inputs: dict[str, Any] = {model: chain.manifests["model"], "reference": chain.manifests["reference"]}
    again = function(recipe=recipe, repeat=f"verify {time.time():.6f}", **inputs)
    pairs = zip(chain.root.measured, again.manifest.measured, strict=True)
    return [Recomputed(published, anew) for published, anew in pairs]
