"""Component: fetch the generator that SiD2A starts from."""

from kfp import dsl
from kfp.dsl import Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def fetch_generator(recipe: str, generator: Output[Model], attempt: str = "", run_id: str = ""):
    """Fetch the finished SiD generator that SiD2A starts from, and verify it.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        generator: The generator as safetensors, by address and digest.
        attempt: "new" fetches again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.steps import execute
    from sida.teachers.fetch import fetch_generator

    execute(fetch_generator, generator, recipe=recipe, attempt=attempt, run_id=run_id)
