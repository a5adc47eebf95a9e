"""Component: distil the teacher."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Input, Metrics, Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def distill(
    recipe: str,
    teacher_scores: Input[Metrics],
    generator: Output[Model],
    start: Optional[Input[Model]] = None,  # noqa: UP045 (kfp knows only this spelling)
    attempt: str = "",
    run_id: str = "",
):
    """Distil the teacher into a one-step generator (SiD, SiDA or SiD2A).

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        teacher_scores: The teacher's score, which it must have passed; it names the teacher, the data and the reference.
        generator: The one-step generator (EMA weights) as safetensors.
        start: The finished SiD generator that SiD2A starts from; left out, the generator starts from the teacher.
        attempt: "new" distils again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.steps import execute
    from sida.training.distill import distill

    execute(
        distill,
        generator,
        recipe=recipe,
        teacher_scores=teacher_scores.path,
        start=start.path if start else "",
        attempt=attempt,
        run_id=run_id,
    )
