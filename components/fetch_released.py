"""Component: fetch the generator that the authors released."""

from kfp import dsl
from kfp.dsl import Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def fetch_released(recipe: str, generator: Output[Model], attempt: str = "", run_id: str = ""):
    """Fetch the one-step generator that the authors released for a recipe, and convert it without running anything in it.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        generator: The generator as safetensors, by address and digest.
        attempt: "new" fetches again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.scoring.adopt import fetch_released
    from sida.steps import execute

    execute(fetch_released, generator, recipe=recipe, attempt=attempt, run_id=run_id)
