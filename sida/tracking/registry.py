"""Generators as registered models, by address. ``champion`` moves only to one that is better by more than the interval.

A registered model stands for one benchmark, metric and n. Each version is judged once, when it comes in: against the champion of
that moment it becomes ``champion`` or ``challenger``. So a refill in the order of the runs ends where the first filling ended.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient, get_tracking_uri
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from sida.manifests import Score
from sida.scoring.gates import versus
from sida.scoring.words import series_name
from sida.tracking.making import find_or_make
from sida.tracking.projection import Model
from sida.tracking.server import artifacts_at

JUDGED, ADDRESS = "sida.judged", "sida.address"
ABOUT = "generator.json"


def register(
    client: MlflowClient, experiment: str, distilled: str, scored: str, model: Model, dataset: dict[str, str]
) -> None:
    """Register a LoggedModel with its metrics, a version of the registered model, and the alias that it has earned."""
    logged = _logged_model(client, experiment, distilled, model)
    _metrics(client, scored, logged, model, dataset)
    version = _version(client, logged, distilled, model)
    if JUDGED not in version.tags:
        _promote(client, version, model)


def _tags(model: Model) -> dict[str, str]:
    return {
        "licence": model.licence,
        ADDRESS: model.address,
        "sida.sha256": model.sha256,
        "sida.score": model.score.model_dump_json(),
        "sida.protocol": model.protocol,
        "sida.identity": model.identity,
    }


def _logged_model(client: MlflowClient, experiment: str, run_id: str, model: Model) -> Any:
    tagged = f"tags.`sida.identity` = '{model.identity}'"
    kind = "one-step generator" if model.score.nfe == 1 else "few-step generator"
    logged = find_or_make(
        lambda: next(iter(client.search_logged_models([experiment], tagged)), None),
        lambda: client.create_logged_model(experiment, model.title, run_id, _tags(model), model.params, kind),
    )
    files = artifacts_at(get_tracking_uri(), logged.artifact_location)
    moved = logged.tags.get(ADDRESS) != model.address  # with its store
    if moved or ABOUT not in {file.path for file in files.list_artifacts()}:
        _artifact(files, model)
    if moved:
        client.set_logged_model_tags(logged.model_id, {ADDRESS: model.address})
    if str(logged.status) != "READY":
        logged = client.finalize_logged_model(logged.model_id, "READY")
    return logged


def _artifact(files: ArtifactRepository, model: Model) -> None:
    """Log a page in place of the weights, which stay in the store: what ``models:/NAME@champion`` downloads."""
    about = {
        "weights": model.address,
        "sha256": model.sha256,
        "licence": model.licence,
        "score": model.score.model_dump(mode="json"),
        "sample": f"sida sample {shlex.quote(model.address)} --seeds 0-63 --output samples",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ABOUT
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        files.log_artifact(str(path))


def _metrics(client: MlflowClient, run_id: str, logged: Any, model: Model, dataset: dict[str, str]) -> None:
    row = model.score
    named = series_name(row.metric, row.n)
    logged_already = {metric.key for metric in logged.metrics or []}
    about = {
        "model_id": logged.model_id,
        "dataset_name": dataset.get("name"),
        "dataset_digest": dataset.get("digest"),
        "run_id": run_id,
    }
    metrics = [
        Metric(name, value, int(logged.creation_timestamp), 0, **about)
        for name, value in ((named, row.mean), (f"{named}_sd", row.sd))
        if name not in logged_already
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def _version(client: MlflowClient, logged: Any, run_id: str, model: Model) -> Any:
    try:
        client.create_registered_model(
            model.name, {"sida.metric": model.score.metric}, "Generators of one benchmark, under one protocol."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

    def find() -> Any:
        versions = client.search_model_versions(f"name = '{model.name}'")
        return next((one for one in versions if one.tags.get("sida.identity") == model.identity), None)

    version = find_or_make(
        find,
        lambda: client.create_model_version(
            model.name,
            f"models:/{logged.model_id}",
            run_id,
            _tags(model),
            description=_description(model),
            model_id=logged.model_id,
        ),
    )
    if version.tags.get(ADDRESS) != model.address:
        client.update_model_version(model.name, version.version, _description(model))
        client.set_model_version_tag(model.name, version.version, ADDRESS, model.address)
    return version


def _description(model: Model) -> str:
    score = model.score
    return f"{model.title}: {score.metric} {score.mean:.4g}, n = {score.n:,} ({model.address})"


def _promote(client: MlflowClient, version: Any, model: Model) -> None:
    champion = _champion(client, model.name)
    if champion is None or str(champion.version) == str(version.version):
        alias, why = "champion", "the first of its kind"
    else:
        better, why = beats(model, champion.tags)
        alias = "champion" if better else "challenger"
    client.set_registered_model_alias(model.name, alias, version.version)
    client.set_model_version_tag(model.name, version.version, "sida.verdict", why)
    client.set_model_version_tag(model.name, version.version, JUDGED, alias)


def beats(model: Model, champion: dict[str, str]) -> tuple[bool, str]:
    """Return whether a generator is better than the champion (its tags) by more than the difference's 95% interval, and why."""
    if champion.get("sida.protocol") != model.protocol:
        return False, "measured with another detector or reference than the champion"
    theirs = Score.model_validate_json(champion["sida.score"])
    standing = versus(model.score, theirs)
    return (
        standing.kind == "ahead",
        f"difference to the champion {standing.difference:+.4g} +- {standing.half:.4g} (95%)",
    )


def _champion(client: MlflowClient, name: str) -> Any:
    try:
        return client.get_model_version_by_alias(name, "champion")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
