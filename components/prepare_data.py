"""Component: prepare the training set."""

from kfp import dsl
from kfp.dsl import Dataset, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def prepare_data(recipe: str, dataset: Output[Dataset], attempt: str = "", run_id: str = ""):
    """Turn the recipe's images into verified shards.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        dataset: The training set as shards, by address and digest.
        attempt: "new" prepares again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.data.prepare import prepare_data
    from sida.steps import execute

    execute(prepare_data, dataset, recipe=recipe, attempt=attempt, run_id=run_id)
