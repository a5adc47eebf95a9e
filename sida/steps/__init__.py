"""Steps: keyed, immutable attempts, reuse, one writer at a time.

A step is a function under :func:`step`; its signature says all there is to say of its inputs and its result:

    @step(version=1, sources=("sida/training",))
    def distill(
        run: StepRun, recipe: Recipe, teacher_scores: Annotated[Manifest[ScoresResult], From("score_teacher")]
    ) -> GeneratorResult:
        run.claim(parameters, **inputs)  # ends here where the result is published already
        ...

Its key is the sha256 of its name, version, the parameters that matter to it, the digests of its inputs and, where it measures,
``repeat``. A result is an attempt of that key, created once and never changed (``sida.layout``), so that a second run, a KFP retry
and a kubectl rerun are all safe and cheap. ``attempt="new"`` makes a new attempt.
"""

from sida.steps.attempts import StepOutcome, carried
from sida.steps.step import From, Made, Step, StepInput, StepRun, step

__all__ = ["From", "Made", "Step", "StepInput", "StepOutcome", "StepRun", "carried", "step"]
