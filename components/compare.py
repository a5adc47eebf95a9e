"""Component: table, verdict and pictures."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Markdown, Metrics, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def compare(
    recipe: str,
    teacher_scores: Input[Metrics],
    scores: Input[Metrics],
    run: Output[Artifact],
    summary: Output[Markdown],
    standing: Output[Metrics],
    attempt: str = "",
    run_id: str = "",
):
    """Compare the generator with its teacher and with real images: table, verdict, sample grids, nearest training images.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        teacher_scores: The teacher's score and the floor; it names the teacher.
        scores: The generator's score; it names the generator, the data and the reference.
        run: The run's manifest, which names everything.
        summary: The table and the verdict to read.
        standing: The score now, the last one of this recipe, and whether it regressed (1) or not (0).
        attempt: "new" compares again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.report.compare import compare, markdown, standing_of
    from sida.steps import execute
    from sida.tracking.links import mlflow_link

    published = execute(
        compare,
        run,
        recipe=recipe,
        teacher_scores=teacher_scores.path,
        scores=scores.path,
        attempt=attempt,
        run_id=run_id,
    )
    for name, number in standing_of(published.manifest).items():
        standing.log_metric(name, number)
    link = mlflow_link(recipe, run_id)
    if link:
        run.metadata["mlflow"] = link
    with open(summary.path, "w", encoding="utf-8") as file:
        file.write(markdown(published.manifest, link))
