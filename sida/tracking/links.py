"""Address of a run's page in MLflow, before or after it exists: for the pages of Kubeflow Pipelines. Does not import MLflow."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, urlencode

from sida.addresses import redact
from sida.deadline import within
from sida.layout import RUN_ID
from sida.report.comparison.entries import benchmark_of
from sida.settings import settings
from sida.steps.recipes import recipe_at
from sida.tracking.server import ANSWER_SECONDS, EXPERIMENT

TRAINING = {"workflowType": "machine_learning"}  # without it MLflow 3 shows its pages for language models
ANSWER_BYTES = 1 << 20  # of an experiment or a run


def mlflow_link(recipe: str, run: str) -> str:
    """Return the page that shows a run of a recipe (a name or an address); empty if no MLflow server is configured.

    It is known before the run is written there: the experiment is made now, and the page looks for the run by its tag. A server
    that does not answer, or wants a login, costs seconds at most; the link is to its first page then.
    """
    options = settings()
    if not options.mlflow.startswith(("http://", "https://")):
        return ""
    base = redact(options.mlflow_ui or options.mlflow).rstrip("/")
    try:
        if options.mlflow_run and (above := _ask(options.mlflow, "runs/get", run_id=options.mlflow_run)):
            info = above["run"]["info"]
            page = f"{base}/#/experiments/{quote(info['experiment_id'])}/runs/{quote(info['run_id'])}"
            return f"{page}?{urlencode(TRAINING)}"
        experiment = _experiment(options.mlflow, benchmark_of(recipe_at(recipe)))
    except (LookupError, TypeError):  # JSON, but not MLflow's
        experiment = ""
    if not experiment:
        return f"{base}/#/experiments"
    run = run or options.run
    search = {"searchFilter": f"tags.`sida.runs` LIKE '%{run}%'"} if re.fullmatch(RUN_ID, run) else {}
    return f"{base}/#/experiments/{quote(experiment)}/runs?{urlencode(search | TRAINING)}"


def _experiment(address: str, name: str) -> str:
    """Return the experiment's id; create one if there is none, as the reconciler would."""
    answer = _ask(address, "experiments/get-by-name", experiment_name=name)
    if answer is None:
        tags = [{"key": key, "value": value} for key, value in EXPERIMENT.items()]
        created = _ask(address, "experiments/create", {"name": name, "tags": tags})
        return str(created["experiment_id"]) if created else ""
    return str(answer["experiment"]["experiment_id"])


def _ask(address: str, method: str, body: dict[str, Any] | None = None, **fields: str) -> Any:
    """Return the answer of MLflow's REST API, or None."""
    import urllib3

    verb, url = "POST" if body else "GET", f"{address.rstrip('/')}/api/2.0/mlflow/{method}"

    def ask() -> Any:
        more: dict[str, Any] = {"timeout": ANSWER_SECONDS, "retries": False, "preload_content": False}
        answer = urllib3.request(verb, url, json=body, fields=fields, **more)
        content = answer.read(ANSWER_BYTES)  # no more, however much there is
        answer.close()
        return json.loads(content) if answer.status == 200 else None

    try:
        return within(2 * ANSWER_SECONDS, ask)
    except Exception:  # a link is not worth an error
        return None
