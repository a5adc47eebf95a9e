"""Component: train the teacher."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def teach(recipe: str, dataset: Input[Dataset], teacher: Output[Model], attempt: str = "", run_id: str = ""):
    """Train the recipe's diffusion teacher, for recipes that have none to fetch.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        dataset: The training set as shards.
        teacher: The trained teacher (EMA weights) as safetensors.
        attempt: "new" trains again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.steps import execute
    from sida.training.teacher import teach

    execute(teach, teacher, recipe=recipe, dataset=dataset.path, attempt=attempt, run_id=run_id)
