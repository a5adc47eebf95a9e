"""Scoring again what a manifest says was scored, from the objects that it names, and comparing the numbers."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sida.errors import UserError
from sida.manifests import Score
from sida.scoring.verify import Chain, recipe_of

TOLERANCE = 1e-3  # of the value: float32 kernels of another machine; the same machine gives the same bits


@dataclass(frozen=True)
class Recomputed:
    """A row as it was published and as it came out now."""

    published: Score
    again: Score

    @property
    def difference(self) -> float:
        """The largest relative difference of a range's value."""
        pairs = zip(self.published.values, self.again.values, strict=True)
        return max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)

    @property
    def agrees(self) -> bool:
        """Within what another machine's rounding explains."""
        return self.difference <= TOLERANCE


def recompute(chain: Chain) -> list[Recomputed]:
    """Run the score's step anew, under a key of its own, on the objects below it. Raises UserError for other manifests."""
    from sida.scoring.score import score, score_teacher

    steps = {"score": (score, "generator"), "score_teacher": (score_teacher, "teacher")}
    about = chain.root.about
    if about.step not in steps:
        raise UserError(f"{about.step}: only score and score_teacher can be computed again from the store")
    function, model = steps[about.step]
    recipe = recipe_of(chain.store, chain.root)
    with tempfile.TemporaryDirectory() as folder:
        inputs = {}
        for name in ("model", "reference"):
            path = Path(folder) / f"{name}.json"
            path.write_bytes(chain.manifests[name].to_json())
            inputs[model if name == "model" else name] = str(path)
        again = function(recipe=recipe, repeat=f"verify {time.time():.6f}", **inputs)
    rows = (*chain.root.rows, *chain.root.result.further)  # type: ignore[union-attr]
    new = (*again.manifest.rows, *again.manifest.result.further)
    return [Recomputed(one, other) for one, other in zip(rows, new, strict=True)]
