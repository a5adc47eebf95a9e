"""Content of MLflow for a run of the pipeline, computed from the store alone; no MLflow here.

    parent    the recipe (by digest) and ``repeat``: one however often it is run
    distill   a child for each generator: losses, health and selection scores over images seen
    score     a child for each score: the held-out ranges

Equal contents of the store give equal projections, times included: a lost database is filled again as it was.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from math import fsum
from typing import Any

from sida import records
from sida.ending import CANCELLED, FAILED, SUCCEEDED, TIMED_OUT, ending_of
from sida.errors import Corrupt, NotFound, UserError
from sida.layout import SYSTEM_METRICS, job_folder
from sida.manifests import Manifest, Score, ScoresResult, digest_of
from sida.recipe import Recipe
from sida.records import StepCall
from sida.report.comparison.entries import benchmark_of, flat, identity_of
from sida.scoring.words import series_name
from sida.steps.recipes import recipe_at, recipe_key
from sida.stores.base import ObjectStore

STATUS = {SUCCEEDED: "FINISHED", FAILED: "FAILED", CANCELLED: "KILLED", TIMED_OUT: "FAILED"}  # MLflow's words

FIRST = ("name", "method", "teacher", "dataset", "evaluation")  # of the recipe's parts, as a person looks for them


@dataclass
class Node:
    """Run in MLflow. ``metrics``: (name, value, step); ``artifacts``: path -> key in the store; times in ms since 1970.

    Its page lists parameters and tags in their order here.
    """

    identity: str
    name: str
    status: str
    started: int
    ended: int | None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)

    def time_of(self, step: int) -> int:
        """Return when a metric was measured: for ``distill`` in proportion to the images seen: MLflow's charts begin with time."""
        if self.ended is None:
            return self.started
        last = max((number for _, _, number in self.metrics), default=0)
        if self.tags.get("sida.part") != "distill" or not step:
            return self.ended
        return self.started + round((self.ended - self.started) * step / last)


@dataclass
class Model:
    """Generator as a model, registered by address, with the score that decides whether it is the champion."""

    name: (
        str  # of the registered model: benchmark, metric, n and (of several) steps, which only together are comparable
    )
    identity: str
    title: str
    address: str
    sha256: str
    licence: str
    protocol: str  # digest of detector, reference, metric and n
    score: Score
    params: dict[str, str]


@dataclass
class Projection:
    """Everything about one run of the pipeline."""

    run: str
    benchmark: str
    parent: Node
    children: list[Node]
    dataset: dict[str, str]  # name, digest, source, profile; empty when there is none yet
    model: Model | None

    @property
    def digest(self) -> str:
        """Digest that is equal when there is nothing new to say. It does not matter which of several equal runs said it."""
        content = asdict(self) | {
            "model": self.model and {**asdict(self.model), "score": self.model.score.model_dump()}
        }
        content.pop("run")
        content["parent"]["tags"] = {k: v for k, v in self.parent.tags.items() if k != "sida.runs"}
        for part in (content["parent"], *content["children"]):
            part.pop("started")
        content["parent"].pop("ended")
        return digest_of(json.loads(json.dumps(content, default=str)))


def projection(store: ObjectStore, run: str) -> Projection:
    """Return the projection of a recorded run. Raises UserError for one that the store does not know, or cannot read any more."""
    calls = records.calls(store, run)
    if not calls:
        raise UserError(f"no run {run!r} in {store.address}: check the id and the store")
    try:
        recipe = recipe_at(next(iter(calls.values())).recipe, store)
        return _projection(store, run, recipe, calls, records.manifests(store, calls))
    except (NotFound, Corrupt) as error:
        raise UserError(f"run {run}: {error}") from error


def _projection(
    store: ObjectStore, run: str, recipe: Recipe, calls: dict[str, StepCall], results: dict[str, Manifest]
) -> Projection:
    repeat, identity = identity_of(recipe, calls)
    end = ending_of(store, run, calls)
    status, message = ("RUNNING", "") if end is None else (STATUS[end.state], end.message)
    fields = recipe.model_dump(mode="json")
    last = max((when(call.started) for call in calls.values()), default=0)
    parent = Node(
        identity=identity,
        name=recipe.title + (f" {repeat}" if repeat else ""),
        status=status,
        started=min(when(call.started) for call in calls.values()),
        ended=None if status == "RUNNING" else max([last, *(when(m.about.created) for m in results.values())]),
        params=flat({name: fields[name] for name in FIRST} | fields),
        tags=({"sida.error": message} if message else {}) | _tags(recipe, run, repeat, calls, results),
    )
    parent.artifacts["recipe.json"] = recipe_key(next(iter(calls.values())).recipe)
    parent.artifacts |= {
        f"manifests/{step}.json": records.made_key(call) for step, call in calls.items() if call.manifest
    }
    children = []
    if "distill" in results:
        children.append(_distilled(store, recipe, identity, results["distill"]))
    if "score" in results:
        children.append(_scored(recipe, identity, results["score"]))
    if "compare" in results:
        _compared(parent, results["compare"], results)
    if "report" in results:
        parent.artifacts["report.html"] = results["report"].result.page.key  # type: ignore[union-attr]
    return Projection(
        run, benchmark_of(recipe), parent, children, _dataset(store, results), _model(store, recipe, identity, results)
    )


def _distilled(store: ObjectStore, recipe: Recipe, identity: str, manifest: Manifest) -> Node:
    result: Any = manifest.result
    curve: list[dict[str, float]] = json.loads(store.read(result.curve.key))
    selected = series_name(recipe.evaluation.metric, recipe.evaluation.selection_images)
    names = {"score": f"selection_{selected}"}
    metrics = [
        (names.get(name, name), value, int(point["images"]))
        for point in curve
        for name, value in point.items()
        if name != "images"
    ]
    metrics += _system_metrics(store, manifest)
    node = _child(recipe, identity, "distill", manifest)
    node.params = flat({"method": recipe.method.model_dump(mode="json")})
    node.metrics = [*metrics, ("kimg_chosen", result.images_seen / 1000, 0)]
    node.artifacts = {"curve.json": result.curve.key}
    return node


def _system_metrics(store: ObjectStore, manifest: Manifest) -> list[tuple[str, float, int]]:
    """Return samples of the machine's load; none where nobody asked for them (SIDA_SYSTEM_METRICS)."""
    about = manifest.about
    try:
        points = json.loads(store.read(f"{job_folder(about.step, about.key, about.attempt)}/{SYSTEM_METRICS}"))
    except NotFound:
        return []
    return [
        (name, float(value), int(point["images"]))
        for point in points
        for name, value in point.items()
        if name != "images"
    ]


def _scored(recipe: Recipe, identity: str, manifest: Manifest) -> Node:
    node = _child(recipe, identity, "score", manifest)
    node.params = flat({"evaluation": recipe.evaluation.model_dump(mode="json")})
    for row in manifest.measured:
        name = series_name(row.metric, row.n)
        node.metrics += [(f"{name}_of_range", value, number) for number, value in enumerate(row.values)]
        node.metrics += [(name, row.mean, 0), (f"{name}_sd", row.sd, 0)]
        if row.protocol == "best":
            node.metrics.append((f"{name}_best_of_{len(row.values)}", row.reported, 0))
    by_steps = manifest.result.by_steps if isinstance(manifest.result, ScoresResult) else ()
    if by_steps:
        rows = [*by_steps, manifest.rows[0]]
        node.metrics += [
            (f"{series_name(row.metric, row.n)}_by_steps", row.mean, step) for step, row in enumerate(rows, 1)
        ]
    if (rate := manifest.about.notes.get("images_per_second")) is not None:
        node.metrics.append(("images_per_second", float(rate), 0))
    return node


def _compared(parent: Node, manifest: Manifest, results: dict[str, Manifest]) -> None:
    result: Any = manifest.result
    means = {row.model: row.mean for row in result.rows}
    metric = result.rows[0].metric
    parent.metrics += [(f"{series_name(metric, row.n)}_{row.model}", row.mean, 0) for row in result.rows]
    parent.metrics.append((f"{metric}_ratio", means["generator"] / means["teacher"], 0))
    parent.metrics += [(f"{series_name(row.metric, row.n)}_{row.model}", row.mean, 0) for row in result.second]
    seconds = fsum(m.about.seconds for m in results.values())  # exact: in any order the same
    parent.metrics.append(("seconds", seconds, 0))
    verdict = {"sida.verdict": result.verdict, "sida.licence": result.licence, "mlflow.note.content": result.verdict}
    parent.tags = verdict | parent.tags
    parent.artifacts["samples.png"] = result.grid.key
    if result.nearest is not None:
        parent.artifacts["nearest.png"] = result.nearest.key
    parent.artifacts |= {f"samples/{panel.model}.png": panel.image.key for panel in result.panels}


def _child(recipe: Recipe, identity: str, part: str, manifest: Manifest) -> Node:
    """Return a finished child of the step's result, by a name that tells it from others in MLflow's charts."""
    about, ended = manifest.about, when(manifest.about.created)
    return Node(
        identity=f"{identity}/{part}/{manifest.digest}",
        name=f"{part}: {recipe.title}",
        status="FINISHED",
        started=ended - round(1000 * about.seconds),
        ended=ended,
        tags={"sida.part": part, "sida.digest": manifest.digest, "sida.code": about.code, "sida.key": about.key}
        | _commit(manifest),
    )


def _tags(
    recipe: Recipe, run: str, repeat: str, calls: dict[str, StepCall], results: dict[str, Manifest]
) -> dict[str, str]:
    tags = {"sida.recipe": recipe.name, "sida.repeat": repeat, "sida.runs": run, "sida.part": "run"}
    if images := sorted({call.image for call in calls.values() if call.image}):
        tags["sida.images"] = " ".join(images)
    tags["sida.recipe_sha256"] = digest_of(recipe.model_dump(mode="json"))
    tags |= {f"sida.digest.{step}": manifest.digest for step, manifest in results.items()}
    newest = max(results.values(), key=lambda m: m.about.created, default=None)
    return tags | ({} if newest is None else _commit(newest))


def _commit(manifest: Manifest) -> dict[str, str]:
    commit = manifest.about.machine.get("commit")
    return {"mlflow.source.git.commit": commit} if commit else {}


def _dataset(store: ObjectStore, results: dict[str, Manifest]) -> dict[str, str]:
    if "prepare_data" not in results:
        return {}
    manifest = results["prepare_data"]
    data: Any = manifest.result
    profile = {"num_rows": data.count, "resolution": data.resolution, "classes": data.classes, "licence": data.licence}
    source = {"store": store.address, "shards": [shard.object.key for shard in data.shards][:20]}
    return {
        "name": f"{data.source}-{data.resolution}x{data.resolution}",
        "digest": manifest.digest[:36],  # as long as MLflow allows
        "source": json.dumps(source),
        "profile": json.dumps(profile),
    }


def _model(store: ObjectStore, recipe: Recipe, identity: str, results: dict[str, Manifest]) -> Model | None:
    if "score" not in results or "distill" not in results:
        return None
    row = next(row for row in results["score"].rows if row.model == "generator")
    generator: Any = results["distill"].result
    scores: Any = results["score"].result
    return Model(
        name=re.sub(
            r"""^\.+|[/:'"`\\]""",
            "-",
            f"{benchmark_of(recipe)}-{row.metric}-n{row.n}" + (f"-{row.nfe}-steps" if (row.nfe or 1) > 1 else ""),
        ),  # fit for MLflow and its filters
        identity=f"{identity}/model/{generator.weights.sha256}/{results['score'].digest}",
        title=f"{recipe.name}-{generator.method}",
        address=store.address_of(generator.weights.key),
        sha256=generator.weights.sha256,
        licence=generator.licence,
        protocol=digest_of([row.metric, row.n, scores.detector_sha256, scores.reference_digest]),
        score=row,
        params=flat({"method": recipe.method.model_dump(mode="json")}),
    )


def when(text: str) -> int:
    """Return ISO 8601 as ms since 1970."""
    return round(1000 * datetime.fromisoformat(text).timestamp())
