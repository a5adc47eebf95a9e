"""Component: the page about a run."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Output


@dsl.component(base_image="sida:0.1.0", install_kfp_package=False)
def report(
    recipe: str,
    run: Input[Artifact],
    report: Output[Artifact],
    page: Output[HTML],
    attempt: str = "",
    run_id: str = "",
):
    """Write the page about a run: verdict, curves, samples, timing, provenance, how to reproduce it.

    Args:
        recipe: Name of a recipe, or address of a resolved one in the store.
        run: The run's manifest: table, verdict, pictures; it names everything that the page shows.
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
        attempt=attempt,
        run_id=run_id,
    )
    with open(page.path, "wb") as file:
        file.write(page_bytes(open_store(published.manifest.about.store), published.manifest))
