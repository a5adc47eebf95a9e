"""Component: the page about a run."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def report(
    recipe: str,
    run: Input[Artifact],
    teacher: Input[Model],
    generator: Input[Model],
    dataset: Input[Dataset],
    reference: Input[Artifact],
    teacher_scores: Input[Metrics],
    scores: Input[Metrics],
    report: Output[Artifact],
    page: Output[HTML],
    attempt: str = "",
    run_id: str = "",
):
    """Write the page about a run: verdict, curves, samples, timing, provenance, how to reproduce it.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        run: The run's manifest: table, verdict, pictures.
        teacher: The teacher.
        generator: The one-step generator and its curve.
        dataset: The training set.
        reference: What the training set looks like to the detector.
        teacher_scores: The teacher's score and the floor.
        scores: The generator's score.
        report: The page's manifest.
        page: The page, one HTML file that needs nothing else.
        attempt: "new" writes it again; empty reuses what is there.
        run_id: The run that this call is recorded under; empty: SIDA_RUN.
    """
    from sida.report.report import page_bytes
    from sida.report.report import report as write
    from sida.steps import execute
    from sida.stores import open_store

    published = execute(
        write,
        report,
        recipe=recipe,
        run=run.path,
        teacher=teacher.path,
        generator=generator.path,
        dataset=dataset.path,
        reference=reference.path,
        teacher_scores=teacher_scores.path,
        scores=scores.path,
        attempt=attempt,
        run_id=run_id,
    )
    with open(page.path, "wb") as file:
        file.write(page_bytes(open_store(published.manifest.about.store), published.manifest))
