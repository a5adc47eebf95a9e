"""Component: score the teacher, and stop if it is not what the recipe says."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def score_teacher(
    recipe: str,
    teacher: Input[Model],
    reference: Input[Artifact],
    scores: Output[Metrics],
    attempt: str = "",
    repeat: str = "",
    scheduled: str = "",
    run_id: str = "",
):
    """Score the teacher under its own sampler; a gate before anything is distilled.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        teacher: The teacher.
        reference: Feature moments of the training set; it names the data, whose labels are drawn from.
        scores: The teacher's score and the floor that real images reach.
        attempt: "new" scores again; empty reuses what is there.
        repeat: Any text; another text is another score. Empty or "reuse": what is there; "scheduled": the time below.
        scheduled: The time for which Kubeflow planned the run.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.scoring.score import score_teacher
    from sida.steps import execute

    published = execute(
        score_teacher,
        scores,
        recipe=recipe,
        teacher=teacher.path,
        reference=reference.path,
        attempt=attempt,
        run_id=run_id,
        repeat=repeat,
        scheduled=scheduled,
    )
    for row in published.manifest.measured:
        scores.log_metric(f"{row.model}_{row.metric}", row.mean)
