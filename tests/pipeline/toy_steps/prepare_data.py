from kfp import dsl
from kfp.dsl import Dataset, Output


@dsl.component(base_image="python", install_kfp_package=False)
def prepare_data(recipe: str, dataset: Output[Dataset], attempt: str = ""):
    """Write a line."""
    from sida import progress

    progress.step_started("prepare_data")
    with open(dataset.path, "w", encoding="utf-8") as file:
        file.write("data")
    progress.step_finished("prepare_data", "ran" if attempt else "reused", 0.1, "file:///data.json")
