"""The task that Kubeflow Pipelines runs last, whatever happened: it records how the run ended.

No ``from __future__ import annotations`` and no annotation of the result: kfp pastes the function's source,
and nothing else of this file: what it needs is imported inside.
"""

from kfp import dsl
from kfp.dsl import PipelineTaskFinalStatus


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def record_end(recipe: str, run_id: str, status: PipelineTaskFinalStatus):  # type: ignore[no-untyped-def]
    """Record in the store how the run ended and whether its score regressed; tell the profile's webhook and MLflow.

    Args:
        recipe: The recipe of the run.
        run_id: The run.
        status: How the steps ended, from Kubeflow Pipelines.
    """
    from components.around import say_end

    say_end(run_id, recipe, status.state, status.error_code or 0, status.error_message or "")
