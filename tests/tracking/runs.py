"""Finished runs in a store without any training: the records, manifests and objects that the steps would have left."""

from __future__ import annotations

import json
from statistics import fmean, stdev
from typing import Any

from sida import layout
from sida import recipe as recipes
from sida.manifests import (
    About,
    DatasetResult,
    GeneratorResult,
    Manifest,
    Panel,
    ReferenceResult,
    ReportResult,
    RunResult,
    Score,
    ScoresResult,
    Shard,
    TeacherResult,
    digest_of,
)
from sida.recipe import Recipe
from sida.records import StepCall
from sida.steps.recipes import recipe_address
from sida.stores.base import ObjectRef, ObjectStore
from sida.stores.objects import put_object

CURVE = [
    {
        "images": 100 * (i + 1),
        "loss_psi": 1 / (i + 1),
        "D_real": 0.6,
        "D_fake": 0.4,
        "gradient_psi": 2.0,
        "dropped": 0.0,
    }
    | ({"score": 3.0 / (i + 1)} if i % 4 == 3 else {})
    for i in range(12)
]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def score(model: str, *values: float, n: int = 200, metric: str = "fd_digits") -> Score:
    return Score(
        model=model,  # type: ignore[arg-type]
        label=model,
        nfe={"teacher": 35, "generator": 1}.get(model),
        metric=metric,
        values=values,
        first_seeds=tuple(1000 + n * i for i in range(len(values))),
        n=n,
        mean=fmean(values),
        sd=stdev(values),
        sampler="Heun, 18 steps",
        checkpoint_sha256=None,
    )


def recipe(**changes: Any) -> Recipe:
    """The digits with fields changed: ``method={"alpha": 1.2}``."""
    data = recipes.load("digits").model_dump(mode="json")
    for name, change in changes.items():
        data[name] = data[name] | change if isinstance(change, dict) else change
    return recipes.parse(data, "test")


class Made:
    """The results of one run; its parts can be changed before they are written."""

    def __init__(self, store: ObjectStore, chosen: Recipe, generator: tuple[float, ...], minute: int = 0) -> None:
        self.store, self.recipe, self.minute = store, chosen, minute
        self.rows = (score("teacher", 1.0, 1.02, 0.98), score("generator", *generator), score("real", 0.5, 0.51, 0.49))
        self.licence = "Apache-2.0"
        self.seconds: dict[str, float] = {}  # that a step took; 1.5 where nothing is said
        self.evidence = {
            "samples": 200,
            "training_images": 10,
            "training_images_in_all": 10,
            "first_seed": 1000,
            "median_distance": 1.5,
            "median_distance_of_real": 1.6,
            "coverage": [1.0] * 10,
        }

    def put(self, content: bytes, name: str) -> ObjectRef:
        return put_object(self.store, content, name)

    def results(self) -> dict[str, Any]:
        network = {"resolution": 8, "channels": 1}
        weights = self.put(f"weights {self.recipe.name} {self.rows}".encode(), "generator.safetensors")
        teacher = self.put(b"teacher", "teacher.safetensors")
        moments, detector = self.put(b"moments", "moments.safetensors"), self.put(b"detector", "detector.safetensors")
        curve = self.put(json.dumps(CURVE).encode(), "curve.json")
        png = self.put(PNG, "samples.png")
        evidence = self.put(json.dumps(self.evidence).encode(), "evidence.json")
        data = DatasetResult(
            source="digits",
            transform="none",
            licence="CC BY 4.0",
            count=10,
            channels=1,
            resolution=8,
            classes=10,
            histogram=(1,) * 10,
            shards=(Shard(object=self.put(b"shard", "shard.bin"), count=10),),
        )
        reference = ReferenceResult(
            metric="fd_digits",
            detector_sha256=detector.sha256,
            detector=detector,
            features=64,
            count=10,
            moments=moments,
            dataset_digest=digest_of(data.model_dump(mode="json")),
        )
        about = {"detector_sha256": detector.sha256, "reference_digest": "a" * 64, "licence": self.licence}
        run = RunResult(
            recipe=self.recipe.name,
            recipe_sha256=digest_of(self.recipe.model_dump(mode="json")),
            title=f"{self.recipe.name} 8x8",
            rows=self.rows,
            verdict="The generator is level with its teacher.",
            generator=weights,
            grid=png,
            panels=tuple(
                Panel(model=m, title=m, image=png)  # type: ignore[arg-type]
                for m in ("real", "teacher", "generator")
            ),
            nearest=png,
            evidence=evidence,
            licence=self.licence,
        )
        method = {"sid": "SiD", "sida": "SiDA", "sid2a": "SiD2A"}[self.recipe.method.name]
        return {
            "prepare_data": data,
            "fetch_teacher": TeacherResult(
                network=network, weights=teacher, source_sha256=teacher.sha256, licence=self.licence
            ),
            "reference_statistics": reference,
            "score_teacher": ScoresResult(rows=(self.rows[0], self.rows[2]), **about),
            "distill": GeneratorResult(
                network=network,
                weights=weights,
                sigma_init=2.5,
                method=method,
                images_seen=1200,
                selection_score=0.25,
                curve=curve,
                recipe_sha256="b" * 64,
                licence=self.licence,
            ),
            "score": ScoresResult(rows=(self.rows[1],), **about),
            "compare": run,
            "report": ReportResult(run="c" * 64, page=self.put(b"<!doctype html><title>page</title>", "report.html")),
        }

    def manifests(self) -> dict[str, Manifest]:
        made = {}
        for second, (step, result) in enumerate(self.results().items()):
            about = About(
                step=step,
                key=digest_of([step, self.recipe.model_dump(mode="json"), str(self.rows)]),
                attempt=1,
                created=f"2026-11-25T10:{self.minute:02}:{10 + second:02}+00:00",
                seconds=self.seconds.get(step, 1.5),
                store=self.store.address,
                etags={},
                code="d" * 64,
                inputs={},
                parameters={},
                machine={"python": "3.11", "commit": "f" * 40},
                notes={"seconds_iterations": 1.0, "milliseconds_convolutions": 3.0} if step == "distill" else {},
            )
            made[step] = Manifest(result=result, about=about)
        return made

    def write(self, run: str, upto: str = "report", failed: str = "", repeat: str = "") -> str:
        """Publish the manifests and the calls of a run up to a step; ``failed`` is the error that this step ended with."""
        address = recipe_address(self.recipe)
        for second, (step, manifest) in enumerate(self.manifests().items()):
            key = f"steps/{step}/{manifest.about.key}/1.json"
            ended = step == upto and failed
            if not ended:
                self.store.put(key, manifest.to_json())
            call = StepCall(
                run=run,
                step=step,
                version=1,
                recipe=address,
                inputs={},
                parameters={"attempt": "", "repeat": repeat} if "score" in step else {"attempt": ""},
                image="",
                store=self.store.address,
                started=f"2026-11-25T10:{self.minute:02}:{second:02}+00:00",
                state="failed" if ended else "ran",
                manifest="" if ended else self.store.address_of(key),
                digest="" if ended else manifest.digest,
                error=failed if ended else "",
            )
            self.store.put(layout.call_key(run, step), (call.model_dump_json() + "\n").encode())
            if step == upto:
                break
        return run


class MadeInTwoSteps(Made):
    """The same of a generator of two steps, whose first step's images score ``first``."""

    first = (1.2, 1.21, 1.19)

    def results(self) -> dict[str, Any]:
        made = super().results()
        self.rows = (self.rows[0], self.rows[1].model_copy(update={"nfe": 2, "interval": 0.026}), self.rows[2])
        before = score("generator", *self.first).model_copy(update={"interval": 0.025})
        scores = {"rows": (self.rows[1],), "by_steps": (before,)}
        return made | {
            "score": made["score"].model_copy(update=scores),
            "distill": made["distill"].model_copy(update={"steps": 2}),
            "compare": made["compare"].model_copy(update={"rows": self.rows}),
        }
