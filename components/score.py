"""Component: score the generator."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def score(
    recipe: str,
    generator: Input[Model],
    reference: Input[Artifact],
    scores: Output[Metrics],
    attempt: str = "",
    repeat: str = "",
    scheduled: str = "",
    run_id: str = "",
    one_of_many: bool = False,
):
    """Score the one-step generator on held-out seed ranges.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        generator: The one-step generator.
        reference: Feature moments of the training set; it names the data, whose labels are drawn from.
        scores: The generator's score: every range, mean and spread.
        attempt: "new" scores again; empty reuses what is there.
        repeat: Any text; another text is another score. Empty or "reuse": what is there; "scheduled": the time below.
        scheduled: The time for which Kubeflow planned the run.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
        one_of_many: A failure is passed on in place of the result, so that the run goes on with other recipes.
    """
    from sida.scoring.score import score
    from sida.steps import execute_one_of_many

    published = execute_one_of_many(
        score,
        scores,
        recipe=recipe,
        generator=generator.path,
        reference=reference.path,
        attempt=attempt,
        run_id=run_id,
        repeat=repeat,
        scheduled=scheduled,
        one_of_many=one_of_many,
    )
    if published:
        for row in published.manifest.measured:
            scores.log_metric(f"{row.model}_{row.metric}", row.mean)
