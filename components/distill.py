"""Component: distil the teacher."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def distill(
    recipe: str,
    teacher: Input[Model],
    start: Input[Model],
    dataset: Input[Dataset],
    reference: Input[Artifact],
    gate: Input[Metrics],
    generator: Output[Model],
    attempt: str = "",
    run_id: str = "",
):
    """Distil the teacher into a one-step generator (SiD, SiDA or SiD2A).

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        teacher: The teacher.
        start: What the generator starts from: a finished SiD generator for SiD2A, else the teacher.
        dataset: The training set.
        reference: Feature moments of the training set, for choosing the checkpoint on selection seeds.
        gate: The teacher's score; distillation starts only after it passed.
        generator: The one-step generator (EMA weights) as safetensors.
        attempt: "new" distils again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.steps import execute
    from sida.training.distill import distill

    execute(
        distill,
        generator,
        recipe=recipe,
        teacher=teacher.path,
        start=start.path,
        dataset=dataset.path,
        reference=reference.path,
        gate=gate.path,
        attempt=attempt,
        run_id=run_id,
    )
