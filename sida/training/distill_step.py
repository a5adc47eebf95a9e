"""The step distill: from a teacher to a generator of one or a few steps."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from sida.errors import UserError
from sida.launch.job import run_job
from sida.launch.spec import DistillSpec, ManifestRef, is_best, parse_curve
from sida.manifests import (
    DatasetResult,
    GeneratorResult,
    Manifest,
    ReferenceResult,
    ScoresResult,
    TeacherResult,
    digest_of,
)
from sida.recipe import Recipe
from sida.recipe.copies import processes_of_copy
from sida.scoring.noise import NOISE
from sida.steps import From, Made, StepRun, carried, step

CHECKPOINT_NETWORKS = 8  # three networks, Adam's moments of two, the best so far: the size of a checkpoint


def _asks(recipe: Recipe) -> dict[str, Any]:
    evaluation = recipe.evaluation
    parameters = {
        "method": recipe.method.model_dump(mode="json"),
        "selection_images": evaluation.selection_images,
        "selection_every": evaluation.selection_every,
        "stop_after": evaluation.stop_after,
    }
    if evaluation.stop_at_noise:
        parameters["stop_at_noise"] = True
    return parameters | _revisions(recipe)


def _repeats(made: Made[GeneratorResult]) -> dict[str, Any]:
    result = made.result
    if result.curve is None or result.selection_score is None:
        raise UserError("it has no curve, or no score that it was selected by")
    if not is_best(parse_curve(made.store.read(result.curve.key)), result.images_seen, result.selection_score):
        raise UserError("its selection score is not the lowest one of its curve, at the images that it has seen")
    return _described(made.recipe) | {"source_sha256": None}


def _described(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of the result that are the recipe's."""
    return {
        "network": recipe.teacher.network.of_generator().model_dump(mode="json"),
        "sigma_init": recipe.method.sigma_init,
        "steps": recipe.method.steps,
        "method": recipe.method.title,
        "recipe_sha256": digest_of(_asks(recipe)),
        "licence": recipe.teacher.licence,
    }


@step(
    version=2,
    sources=("sida/training", "sida/numerics", "sida/scoring", "sida/data"),
    launches=True,
    asks=_asks,
    repeats=_repeats,
)
def distill(
    run: StepRun,
    recipe: Recipe,
    teacher_scores: Annotated[Manifest[ScoresResult], From("score_teacher")],
    start: Annotated[Manifest[TeacherResult] | None, From("fetch_generator")] = None,
) -> GeneratorResult:
    """Distill the teacher into a generator of one step, or of the recipe's few (SiD, SiDA or SiD2A).

    Args:
        teacher_scores: The teacher's score, which it must have passed; it names the teacher, the data and the reference.
        start: The finished SiD generator that SiD2A starts from; left out, the generator starts from the teacher.

    Returns:
        The generator (EMA weights) as safetensors.
    """
    teacher = carried(teacher_scores, "model", TeacherResult)
    dataset = carried(teacher_scores, "dataset", DatasetResult)
    reference = carried(teacher_scores, "reference", ReferenceResult)
    run.claim(teacher=teacher, start=start or teacher, dataset=dataset, reference=reference)
    spec = DistillSpec(
        teacher=ManifestRef.of(teacher),
        start=ManifestRef.of(start or teacher),
        dataset=ManifestRef.of(dataset),
        reference=ManifestRef.of(reference),
    )
    outcome = run_job(run, spec, partial(written_bytes, recipe, teacher.result.weights.size))
    run.selections = outcome.selections
    run.notes["dropped_samples"] = outcome.dropped
    if outcome.noise:
        run.notes[NOISE] = outcome.noise
    run.notes |= {f"seconds_{name}": seconds for name, seconds in outcome.seconds.items()}
    run.notes |= {f"milliseconds_{kind}": spent for kind, spent in outcome.profile.items()}
    return GeneratorResult(
        weights=outcome.generator,
        images_seen=outcome.images_seen,
        selection_score=outcome.score,
        curve=outcome.curve,
        **_described(recipe),
    )


def written_bytes(recipe: Recipe, network_bytes: int, world: int, of_a_machine: int) -> int:
    """Return what each process that writes a part of a checkpoint writes of it."""
    return CHECKPOINT_NETWORKS * network_bytes // processes_of_copy(recipe.execution, world, of_a_machine)


def _revisions(recipe: Recipe) -> dict[str, Any]:
    """What made equal methods give other numbers than an earlier code, where it does: part of the key, of these runs alone."""
    method = recipe.method
    revisions: dict[str, Any] = {}
    if method.loss_scale != 1:
        revisions["loss_scale"] = method.loss_scale  # 1 before
    if method.dropout and method.adversarial:
        revisions["masks_of_phase_a"] = 2  # the fake and the real pass shared one before
    return revisions
