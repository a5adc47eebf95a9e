"""Component: feature statistics of the training set."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def reference_statistics(
    recipe: str,
    dataset: Input[Dataset],
    reference: Output[Artifact],
    attempt: str = "",
    run_id: str = "",
    one_of_many: bool = False,
):
    """Compute what the training set looks like to the detector; scores are distances to it.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        dataset: The training set as shards.
        reference: Feature moments of the whole set, in float64.
        attempt: "new" computes again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
        one_of_many: A failure is passed on in place of the result, so that the run goes on with other recipes.
    """
    from sida.scoring.reference import reference_statistics
    from sida.steps import execute_one_of_many

    execute_one_of_many(
        reference_statistics,
        reference,
        recipe=recipe,
        dataset=dataset.path,
        attempt=attempt,
        run_id=run_id,
        one_of_many=one_of_many,
    )
