"""Component: what scoring needs of the training set."""

from kfp import dsl
from kfp.dsl import Dataset, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def score_data(recipe: str, dataset: Output[Dataset], attempt: str = "", run_id: str = "", one_of_many: bool = False):
    """Find the label distribution, or the images where statistics have to be computed from them.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        dataset: Class frequencies, and shards where images are needed.
        attempt: "new" reads the source again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
        one_of_many: A failure is passed on in place of the result, so that the run goes on with other recipes.
    """
    from sida.scoring.table import data_step
    from sida.steps import execute_one_of_many, recipe_at

    execute_one_of_many(
        data_step(recipe_at(recipe)),
        dataset,
        component="score_data",
        recipe=recipe,
        attempt=attempt,
        run_id=run_id,
        one_of_many=one_of_many,
    )
