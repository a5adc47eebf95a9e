"""The DAG that scores released generators: fetch, convert, score each, then one table. ``pipeline.dag.build`` hands over to it.

kfp reads the annotations of the pipeline's function: no ``from __future__ import annotations`` here.
"""

import importlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.dag import Cluster, Plan

NAME = "score_published"
TASKS: dict[str, dict[str, str]] = {
    "fetch_released": {},
    "score_data": {},
    "reference_statistics": {"dataset": "score_data.dataset"},
    "score": {
        "generator": "fetch_released.generator",
        "reference": "reference_statistics.reference",
    },
    "published_table": {"scores": "score.scores"},
}


def build_published(plan: "Plan", components: str = "components", cluster: "Cluster | None" = None) -> Any:
    """The kfp pipeline; ``plan.published`` are the recipes, by name or address. Its parameter ``repeat`` measures anew."""
    from kfp import dsl

    from pipeline.dag import placeholders, repeat_by_default

    steps = {step: getattr(importlib.import_module(f"{components}.{step}"), step) for step in TASKS}
    known, timed = placeholders(cluster)
    each: dict[str, Any] = known | {"one_of_many": True}  # a recipe that fails is named at the end; the others go on

    def placed(step: str, task: Any) -> Any:
        task.set_caching_options(False)  # our keys decide
        if cluster:
            cluster.configure(step, task)
        return task

    @dsl.pipeline(
        name=plan.pipeline or "sida-score-published", description="Score the generators that the authors released"
    )
    def score_published(recipe: str = plan.address, repeat: str = repeat_by_default(cluster)):  # type: ignore[no-untyped-def]
        """Score released generators against their published numbers.

        Args:
            recipe: Name or address of the recipe that the table is recorded under.
            repeat: "scheduled": the scores are measured anew, under the time of the run, so that each firing of a schedule
                measures. "reuse": scores that are there are taken. Any other text: once for each text.
        """
        with cluster.ending(recipe, plan.group) if cluster else nullcontext():
            with dsl.ParallelFor(items=list(plan.published), parallelism=1) as item:
                generator = placed("fetch_released", steps["fetch_released"](recipe=item, **each))
                data = placed("score_data", steps["score_data"](recipe=item, **each))
                reference = placed(
                    "reference_statistics",
                    steps["reference_statistics"](recipe=item, dataset=data.outputs["dataset"], **each),
                )
                scores = placed(
                    "score",
                    steps["score"](
                        recipe=item,
                        generator=generator.outputs["generator"],
                        reference=reference.outputs["reference"],
                        repeat=repeat,
                        **timed,
                        **each,
                    ),
                )
            collected = dsl.Collected(scores.outputs["scores"])
            placed("published_table", steps["published_table"](recipe=recipe, scores=collected, **known))

    return score_published
