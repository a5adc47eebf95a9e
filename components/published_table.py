"""Component: the table of released generators."""

from typing import List  # noqa: UP035 (kfp knows only this spelling)

from kfp import dsl
from kfp.dsl import Artifact, Input, Markdown, Metrics, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def published_table(
    recipe: str,
    scores: Input[List[Metrics]],  # noqa: UP006
    table: Output[Artifact],
    summary: Output[Markdown],
    attempt: str = "",
    run_id: str = "",
):
    """Compare the released generators' scores with the published ones: ours, interval, verdict, cost.

    A generator that could not be scored is named in the table, and ends this step with a status of its own.

    Args:
        recipe: Name of any of the recipes, or address of a resolved one in the store.
        scores: The generators' scores.
        table: The table's manifest.
        summary: The table to read.
        attempt: "new" compares again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.scoring.table import markdown, published_table, refuse_failures
    from sida.steps import execute

    paths = [score.path for score in scores]
    published = execute(published_table, table, recipe=recipe, scores=paths, attempt=attempt, run_id=run_id)
    with open(summary.path, "w", encoding="utf-8") as file:
        file.write(markdown(published.manifest))
    refuse_failures(published.manifest)
