"""Make MLflow agree with the store. Safe to repeat and to kill anywhere: existing parts are found by tag and completed.

One reconciler of a benchmark at a time, by a lease in the store. The tag ``sida.projection`` is written last: all is there.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida import records
from sida.ending import end_if_killed
from sida.errors import NotFound, SidaError
from sida.layout import tracking_lease
from sida.printing import one_line
from sida.settings import settings
from sida.stores import open_store
from sida.stores.base import ObjectStore
from sida.stores.lease import acquire
from sida.tracking.making import UNKNOWN, find_or_make
from sida.tracking.projection import Node, Projection, projection
from sida.tracking.server import (
    EXPERIMENT,
    PROJECTION,
    TrackingOff,
    artifact_location,
    artifacts_at,
    check,
    connected,
    up_to_date,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

BATCH = 100  # parameters, and tags, in a request; MLflow's own limits
METRICS = 1000
NAMES = 100  # of metrics in a request: older servers refuse more of them a second time (MLflow's pull request 20807)
LEASE_WAIT = 120.0  # seconds for another reconciler to finish
OTHERS = ("teach", "published_table")  # steps of runs that are not those of a recipe's DAG
OVER = ("FINISHED",)  # a run that has been finished once stays so, whatever fails later


def track(run: str, store: ObjectStore | None = None) -> str:
    """Write one run recorded in ``store`` (default: SIDA_STORE); return a line about it. Raises TrackingOff when MLflow is away."""
    options = settings()
    check(options.mlflow)
    store = store or open_store(options.store)
    if any(call.item or step in OTHERS for step, call in records.calls(store, run).items()):
        return f"run {run}: of `teach` or `score-published`, which MLflow is not told of"
    end_if_killed(store, run)
    content = projection(store, run)
    if up_to_date(options.mlflow, content.parent.identity, content.digest):
        return f"run {run}: already in MLflow"
    with (
        acquire(
            store, tracking_lease(content.benchmark), ttl=options.lease_seconds, wait=LEASE_WAIT, note=lambda _: None
        ),
        connected(options.mlflow) as client,
    ):
        return Reconciler(client, store, options.mlflow, options.mlflow_run).reconcile(content)


def track_quietly(run: str) -> str:
    """Track at the end of a run, which must not fail for it; return a line when there is something to say."""
    try:
        track(run)
    except TrackingOff as error:
        return "" if settings().mlflow == "none" else one_line(f"tracking: {error}")
    except Exception as error:  # whatever it is, the run ended as it ended
        reason = str(error) if isinstance(error, SidaError) else f"{type(error).__name__}: {error}"
        return one_line(f"tracking: {reason}: `sida track` completes it")
    return ""


class Reconciler:
    """Writer of projections through one client."""

    def __init__(self, client: MlflowClient, store: ObjectStore, address: str, above: str) -> None:
        """Take a client and ``above``: the MLflow run that ours are nested under, if any."""
        self.client, self.store, self.address, self.above = client, store, address, above

    def reconcile(self, content: Projection) -> str:
        """Bring one run up to date; return a line about it."""
        from sida.tracking.registry import register  # mlflow

        above = self._run_above()
        experiment = above.info.experiment_id if above else self._experiment(content.benchmark)
        parent = self._find(experiment, content.parent.identity)
        if parent is not None and parent.data.tags.get(PROJECTION) == content.digest:
            return f"run {content.run}: already in MLflow"
        if parent is not None and parent.info.status in OVER and content.parent.status not in OVER:
            return f"run {content.run}: {content.parent.status.lower()}; MLflow keeps the finished run of this recipe"
        parent = parent or self._run(experiment, content.parent, above.info.run_id if above else "")
        runs = {*parent.data.tags.get("sida.runs", "").split(), content.run}  # all that this one stands for
        content.parent.tags["sida.runs"] = " ".join(sorted(runs))
        run_id = parent.info.run_id
        self._write(run_id, content.parent)
        self._dataset(run_id, content.dataset)
        children = {}
        for node in content.children:
            child = self._run(experiment, node, run_id)
            children[node.tags["sida.part"]] = child.info.run_id
            self._write(child.info.run_id, node)
            self._dataset(child.info.run_id, content.dataset)
            self._end(child, node)
        if content.model and "score" in children:
            register(self.client, experiment, children["distill"], children["score"], content.model, content.dataset)
        self._end(parent, content.parent)
        self.client.set_tag(run_id, PROJECTION, content.digest)
        return f"run {content.run}: written to MLflow, experiment {content.benchmark}, run {content.parent.name}"

    def _run_above(self) -> Any:
        if not self.above:
            return None
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(self.above)
        except MlflowException as error:
            if error.error_code in UNKNOWN:
                raise
            return None  # of another server: ours stand alone

    def _experiment(self, name: str) -> str:
        def make() -> Any:
            made = self.client.create_experiment(name, artifact_location(self.address, name), EXPERIMENT)
            return self.client.get_experiment(made)

        experiment = find_or_make(lambda: self.client.get_experiment_by_name(name), make)
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find(self, experiment: str, identity: str) -> Any:
        """Return the run with this identity; the oldest, should two stores have created one each."""
        runs = self.client.search_runs([experiment], f"tags.`sida.identity` = '{identity}'", max_results=10)
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _run(self, experiment: str, node: Node, parent: str) -> Any:
        """Return the run of this node; a new one if there is none."""
        # Its page lists tags as they came in.
        tags = {name: value[:5000] for name, value in node.tags.items()} | {"sida.identity": node.identity}
        if parent:
            tags["mlflow.parentRunId"] = parent
        return find_or_make(
            lambda: self._find(experiment, node.identity),
            lambda: self.client.create_run(experiment, start_time=node.started, tags=tags, run_name=node.name),
        )

    def _write(self, run_id: str, node: Node) -> None:
        """Write the parameters, tags, metrics and artifacts that are missing."""
        from mlflow.entities import Metric, Param, RunTag

        there = self.client.get_run(run_id).data
        params = [Param(k, v[:6000]) for k, v in node.params.items() if k not in there.params]
        tags = [RunTag(k, v[:5000]) for k, v in node.tags.items() if there.tags.get(k) != v]
        if "sida.error" in there.tags and "sida.error" not in node.tags:
            self._forget_error(run_id)  # an earlier run's, which this one has got over
        logged = {
            name: {(point.step, _kept(point.value)) for point in self.client.get_metric_history(run_id, name)}
            for name in {name for name, _, _ in node.metrics} & set(there.metrics)
        }
        metrics = [
            Metric(name, value, node.time_of(step), step)
            for name, value, step in node.metrics
            if (step, _kept(value)) not in logged.get(name, set())
        ]
        for kind, items in (("params", params), ("tags", tags)):
            for first in range(0, len(items), BATCH):
                batch: dict[str, Any] = {kind: items[first : first + BATCH]}
                self.client.log_batch(run_id, **batch)
        for points in _batches(metrics):
            self.client.log_batch(run_id, metrics=points)
        self._artifacts(run_id, node.artifacts)

    def _forget_error(self, run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_tag(run_id, "sida.error")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # asked twice, where the first answer was lost
                raise

    def _artifacts(self, run_id: str, artifacts: dict[str, str]) -> None:
        """Write files again: the same path holds the same thing."""
        if not artifacts:
            return
        files = artifacts_at(self.address, self.client.get_run(run_id).info.artifact_uri)
        with tempfile.TemporaryDirectory() as temporary:
            for path, key in artifacts.items():
                folder, _, name = path.rpartition("/")
                try:
                    content = self.store.read(key) if key else None
                except NotFound:
                    continue  # an object that was deleted is nothing to stop for
                if content is not None:
                    local = Path(temporary) / name
                    local.write_bytes(content)
                    files.log_artifact(str(local), folder or None)

    def _dataset(self, run_id: str, dataset: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not dataset:
            return
        there = self.client.get_run(run_id).inputs
        if there and any(i.dataset.digest == dataset["digest"] for i in there.dataset_inputs):
            return
        data = Dataset(dataset["name"], dataset["digest"], "object store", dataset["source"], None, dataset["profile"])
        self.client.log_inputs(run_id, datasets=[DatasetInput(data, [InputTag("mlflow.data.context", "training")])])

    def _end(self, run: Any, node: Node) -> None:
        if node.status == "RUNNING":
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            self.client.set_terminated(run.info.run_id, node.status, node.ended)


def _batches(metrics: list[Metric]) -> Iterator[list[Metric]]:
    """Yield the points, name by name, in as many as fit into a request."""
    batch: list[Metric] = []
    names: set[str] = set()
    for point in sorted(metrics, key=lambda point: point.key):
        names.add(point.key)
        if len(batch) == METRICS or len(names) > NAMES:
            yield batch
            batch, names = [], {point.key}
        batch.append(point)
    if batch:
        yield batch


def _kept(value: float) -> float | str:
    """Return a metric as it compares equal to what MLflow keeps of it: NaN is unequal to itself, infinity the largest number."""
    return str(value) if math.isnan(value) else max(-sys.float_info.max, min(value, sys.float_info.max))
