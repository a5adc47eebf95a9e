"""The step distill: from a teacher to a one-step generator."""

from __future__ import annotations

from typing import Any

from sida.launch.job import run_job
from sida.manifests import GeneratorResult, digest_of, read_manifest
from sida.recipe import Recipe
from sida.steps import Context, Published, carried, step
from sida.stores.base import ObjectRef


@step("distill", version=2, sources=("sida/training", "sida/numerics", "sida/scoring", "sida/data"))
def distill(
    context_of: Any,
    *,
    recipe: Recipe,
    teacher_scores: str,
    start: str = "",
    attempt: str = "",
) -> Published:
    """Distil the teacher into a one-step generator with SiD, SiDA or SiD2A.

    The teacher's scores say which teacher, data and reference; without ``start`` the generator starts from the teacher.
    """
    scored = read_manifest(teacher_scores, "scores")
    teacher = carried(scored, "model")
    inputs = {
        "teacher": teacher,
        "start": read_manifest(start, "teacher") if start else teacher,
        "dataset": carried(scored, "dataset"),
        "reference": carried(scored, "reference"),
    }
    evaluation = recipe.evaluation
    parameters = {
        "method": recipe.method.model_dump(mode="json"),
        "selection_images": evaluation.selection_images,
        "selection_every": evaluation.selection_every,
        "stop_after": evaluation.stop_after,
    }
    parameters |= _revisions(recipe)

    def produce(context: Context) -> GeneratorResult:
        spec = {
            "recipe": recipe.model_dump(mode="json"),
            "inputs": {name: manifest.to_json().decode() for name, manifest in inputs.items()},
        }
        result = run_job(context, "distill", spec, recipe.execution)
        context.notes["dropped_samples"] = result["dropped"]
        context.notes |= {f"seconds_{name}": seconds for name, seconds in result["seconds"].items()}
        context.notes |= {f"milliseconds_{kind}": spent for kind, spent in result["profile"].items()}
        return GeneratorResult(
            network=recipe.teacher.network.of_generator().model_dump(mode="json"),
            weights=ObjectRef(*result["generator"]),
            sigma_init=recipe.method.sigma_init,
            method=recipe.method.title,
            images_seen=result["images_seen"],
            selection_score=result["score"],
            curve=ObjectRef(*result["curve"]),
            recipe_sha256=digest_of(parameters),
            licence=recipe.teacher.licence,
        )

    return context_of(parameters=parameters, inputs=inputs, produce=produce, attempt=attempt)


def _revisions(recipe: Recipe) -> dict[str, Any]:
    """What made equal methods give other numbers than an earlier code, where it does: part of the key, of these runs alone."""
    method = recipe.method
    found: dict[str, Any] = {}
    if method.loss_scale != 1:
        found["loss_scale"] = method.loss_scale  # 1 before
    if method.dropout and method.adversarial:
        found["masks_of_phase_a"] = 2  # the fake and the real pass shared one before
    return found
