"""The gates: a run whose teacher or reference was swapped stops with a diagnosis; a generator is better, within or worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sida.data.prepare import prepare_data
from sida.errors import UserError
from sida.manifests import Score
from sida.recipe import Recipe
from sida.scoring.gates import Standing, versus, versus_published
from sida.scoring.interval import difference_half_width, half_width, t_quantile
from sida.scoring.reference import reference_statistics
from sida.scoring.score import score_teacher
from sida.scoring.words import against_teacher, target_gate
from sida.teachers.fetch import fetch_teacher
from tests.scoring.conftest import ASSET, tiny
from tests.scoring.files import runner

# The digits' teacher with 6 steps scores about 4 on 400 images.
PUBLISHED = {"metric": "fd_digits", "source": "a paper", "teacher": 2.0, "best": 1.0}
EVALUATION = {"images": 400, "ranges": 1, "teacher_ranges": 1}


def recipe(at_most: float, **sections: dict) -> Recipe:
    teacher = {"sampler": {"steps": 8}} | sections.pop("teacher", {})
    evaluation = EVALUATION | sections.pop("evaluation", {})
    return tiny(gate={"teacher_at_most": at_most}, evaluation=evaluation, teacher=teacher, **sections)


def gated(folder: Path, made: Recipe, judged: Recipe | None = None) -> Score:
    """The teacher's score; the gate is that of ``judged`` where the recipe was changed behind the back of the data."""
    run = runner(folder, made)
    dataset, teacher = run(prepare_data), run(fetch_teacher)
    reference = run(reference_statistics, dataset=dataset)
    published = score_teacher(recipe=judged or made, teacher=teacher, reference=reference)
    return published.manifest.rows[0]


def test_the_right_teacher_passes_and_a_limit_below_its_score_stops_the_run(here: Path) -> None:
    score = gated(here, recipe(50.0))
    assert 0 < score.mean < 50
    with pytest.raises(UserError, match=r"teacher gate: .* is above .*detector and reference are right.*preprocessing"):
        gated(here, recipe(score.mean / 2))
    warned = recipe(score.mean / 2).model_dump(mode="json")
    assert gated(
        here, tiny(**{k: warned[k] for k in ("teacher", "evaluation")}, gate=warned["gate"] | {"on_failure": "warn"})
    )


def test_a_swapped_teacher_stops_the_run_and_the_model_s_side_is_blamed(here: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(ASSET)
    torch.manual_seed(0)
    other = here / "other.safetensors"
    save_file({name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in tensors.items()}, other)
    with pytest.raises(UserError, match="detector and reference are right"):
        gated(here, recipe(4.0, teacher={"address": other.as_uri(), "sha256": None}))


def test_a_swapped_reference_stops_the_run_and_is_named(here: Path) -> None:
    path = here / "other.npz"
    np.savez(path, mu=np.full(64, 3.0), sigma=2 * np.eye(64))
    wrong = recipe(4.0, evaluation={"reference": {"address": path.as_uri()}})
    with pytest.raises(UserError, match="the detector is right; the reference is not: real images themselves score"):
        gated(here, wrong)


def test_a_teacher_far_better_than_published_is_as_suspect_as_one_that_is_worse(here: Path) -> None:
    targets = {"metric": "fd_digits", "source": "a paper", "teacher": 500.0}
    made = tiny(gate={"teacher_at_most": 520.0}, evaluation=EVALUATION, teacher={"sampler": {"steps": 8}})
    fields = made.model_dump(mode="json") | {"targets": targets}
    from sida.recipe import parse

    with pytest.raises(UserError, match="is too good: below 480"):
        gated(here, parse(fields, "test"))


def test_a_cheaper_count_is_held_to_a_limit_that_allows_for_it(here: Path) -> None:
    full = gated(here, recipe(50.0, evaluation={"images": 2_000})).mean
    with pytest.raises(UserError, match=r"for n = 200\)"):
        gated(here, recipe(full / 3, evaluation={"images": 2_000}).model_copy(update={"gate": _cheap(full / 3)}))
    assert (
        gated(here, recipe(1.1 * full, evaluation={"images": 2_000}).model_copy(update={"gate": _cheap(1.1 * full)})).n
        == 200
    )


def _cheap(at_most: float):
    from sida.recipe import Gate

    return Gate(teacher_at_most=at_most, teacher_images=200)


def test_a_reference_of_another_detector_is_refused_by_its_digest(here: Path) -> None:
    pinned = recipe(50.0, evaluation={"detector": tiny().evaluation.detector.model_dump() | {"sha256": "0" * 64}})
    with pytest.raises(
        UserError, match="the reference was made with detector 0e74cae7a84b, the recipe's is 000000000000"
    ):
        gated(here, recipe(50.0), pinned)


# -- the generator


def row(values: tuple[float, ...], **fields: object) -> Score:
    mean = sum(values) / len(values)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    base = {
        "label": "x",
        "nfe": 1,
        "metric": "fd_digits",
        "first_seeds": tuple(range(len(values))),
        "n": 50_000,
        "mean": mean,
    }
    more = {"sd": sd, "sampler": "s", "checkpoint_sha256": None, "interval": half_width(values), "model": "generator"}
    return Score(values=values, **(base | more | fields))  # type: ignore[arg-type]


def test_the_published_number_is_compared_with_the_interval() -> None:
    values = (1.00, 1.02, 0.98)  # +- 0.05
    assert [versus_published(row(values), published) for published in (1.10, 1.04, 0.96, 0.90)] == [
        "better", "within", "within", "worse"
    ]  # fmt: skip
    assert versus_published(row((1.0,)), 1.01) == "within" and versus_published(row((1.0,)), 1.05) == "better"


def test_the_target_gate_says_how_and_labels_the_published_protocol() -> None:
    targets = tiny().model_dump(mode="json") | {"targets": PUBLISHED}
    from sida.recipe import parse

    made = parse(targets, "test")
    assert "is worse than the published 1 (a paper)" in str(target_gate(made, row((2.0, 2.1, 1.9))))
    best = str(target_gate(made, row((2.0, 1.0, 3.0), protocol="best")))
    assert "1.000 (the best of 3 ranges, as publications report it; not a mean) is within" in best
    fewer = str(target_gate(made, row((2.0, 2.1, 1.9), n=25_000)))
    assert fewer.endswith("; published for 50,000 images, this is of 25,000: fewer score higher")
    assert target_gate(tiny(), row((2.0,))) is None


def test_a_number_hangs_on_the_method_that_it_was_published_for() -> None:
    from sida.recipe import parse

    def said(method: str, **targets: float) -> str:
        fields = tiny().model_dump(mode="json")
        fields |= {"targets": {"metric": "fd_digits", "source": "a paper", **targets}}
        fields["method"] |= {"name": method} | ({"divergence": "js"} if method == "uni" else {})
        fields["generator"] = {"address": "x", "licence": "-"} if method == "sid2a" else None
        return str(target_gate(parse(fields, "test"), row((2.0, 2.1, 1.9))))

    numbers = {"sid": 2.5, "sida": 3.0, "best": 1.5}
    assert "better than the published 2.5 (a paper)" in said("sid", **numbers)
    assert said("sida", **numbers).endswith("better than the published 3 (a paper)")
    best = "worse than the published 1.5 (a paper), the best of SiDA and SiD2A; none is known for SiD2A alone"
    assert said("sid2a", **numbers).endswith(best)
    assert said("sid", best=1.5) == said("uni", **numbers) == "None"  # targets are of SiDA's paper


def test_a_verdict_says_where_the_precision_is_not_the_published_one() -> None:
    from sida.recipe import parse

    def said(distilled: str, scored: str | None, published: str | None) -> str:
        fields = tiny().model_dump(mode="json")
        fields |= {"targets": {"metric": "fd_digits", "source": "a paper", "sida": 3.0, "precision": published}}
        fields["method"] |= {"precision": distilled}
        fields["evaluation"] |= {"precision": scored}
        return str(target_gate(parse(fields, "test"), row((2.0, 2.1, 1.9))))

    same = "better than the published 3 (a paper)"
    assert said("float32", None, "float32").endswith(same) and said("tf32", None, None).endswith(same)
    assert said("tf32", None, "float32").endswith(
        f"{same}; published in float32, this was distilled and scored in tf32"
    )
    assert said("tf32", "float32", "float32").endswith("this was distilled in tf32 and scored in float32")
    assert said("float16", "float32", "float16").endswith(
        "in float16, this was distilled in float16 and scored in float32"
    )


def test_a_score_is_ahead_of_another_when_the_difference_is_larger_than_its_interval() -> None:
    half = difference_half_width((1.0, 1.1, 0.9), (2.0, 2.1, 1.9))
    assert versus(row((1.0, 1.1, 0.9)), row((2.0, 2.1, 1.9))) == Standing("ahead", pytest.approx(-1.0), half)
    assert versus(row((2.0, 2.1, 1.9)), row((1.0, 1.1, 0.9))).kind == "behind"
    assert versus(row((1.0,)), row((9.0,))) == Standing("level", -8.0, float("inf"))  # neither shows its spread


def test_the_comparison_with_the_teacher_names_sampler_evaluations_and_guidance() -> None:
    teacher = row((2.0, 2.1, 1.9), model="teacher", sampler="Heun, 3 steps", nfe=5)
    text = against_teacher(tiny(), row((1.0, 1.1, 0.9)), teacher)
    assert "surpasses its teacher (Heun, 3 steps, 5 evaluations, without guidance)" in text
    assert "is behind" in against_teacher(tiny(), row((3.0, 3.1, 2.9)), teacher)
    assert "is level with" in against_teacher(tiny(), row((2.0, 2.2, 1.9)), teacher)


# -- intervals


def test_the_interval_is_student_s() -> None:
    from scipy import stats

    for freedom in (1, 2, 3, 4, 5, 7, 10, 30, 1000):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)
    values = (1.0, 2.0, 4.0)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2, rel=1e-5)
    assert half_width((1.0,)) is None and difference_half_width((1.0,), (2.0,)) == float("inf")
    result = stats.ttest_ind(values, (2.0, 3.0), equal_var=True).confidence_interval()
    assert difference_half_width(values, (2.0, 3.0)) == pytest.approx((result.high - result.low) / 2, rel=1e-5)
