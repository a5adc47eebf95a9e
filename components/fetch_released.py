"""Component: fetch the generator that the authors released."""

from kfp import dsl
from kfp.dsl import Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def fetch_released(
    recipe: str, generator: Output[Model], attempt: str = "", run_id: str = "", one_of_many: bool = False
):
    """Fetch the one-step generator that the authors released for a recipe, and convert it without running anything in it.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        generator: The generator as safetensors, by address and digest.
        attempt: "new" fetches again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
        one_of_many: A failure is passed on in place of the result, so that the run goes on with other recipes.
    """
    from sida.scoring.adopt import fetch_released
    from sida.steps import execute_one_of_many

    execute_one_of_many(
        fetch_released, generator, recipe=recipe, attempt=attempt, run_id=run_id, one_of_many=one_of_many
    )
