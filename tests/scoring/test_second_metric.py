"""A second metric: another detector on the same images in the same pass, against its own reference, under its own name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.pinning import pin
from sida.errors import RecipeError, UserError
from sida.manifests import ReferenceResult, ScoresResult, SecondScored
from sida.numerics.frechet import frechet_distance
from sida.recipe import Recipe, load, parse
from sida.scoring.also import also
from sida.scoring.detector import load_detector
from sida.scoring.detector_file import DINOV2_ADDRESS
from sida.scoring.file import score_file
from sida.scoring.labels import needs_images
from sida.scoring.result import check_reference
from sida.scoring.sums import Sums
from sida.scoring.table import lines
from sida.stores.objects import sha256_of
from sida.verify import verify
from tests.pipeline.command import Command
from tests.scoring.conftest import ASSET, TINY, tiny
from tests.scoring.dinov2_golden import weights
from tests.scoring.stand_in import FEATURES, write_stand_in
from tests.scoring.test_cleanfid import folder_of
from tests.tracking import runs

SMALL = {"images": 40, "ranges": 2, "selection_images": 20}


def dinov2(place: Path, width: int = 64) -> dict[str, Any]:
    path = place / "dinov2.pth"
    if not path.exists():
        torch.save(weights(5, width, blocks=1, hidden=32), path)
    return {"kind": "dinov2", "address": path.as_uri(), "features": width}


def with_second(place: Path, **evaluation: Any) -> Recipe:
    second = {"metric": "fd_dinov2_tiny", "detector": dinov2(place)}
    return on_images(place, **({"second": second} | evaluation))


def on_images(place: Path, **evaluation: Any) -> Recipe:
    """80 gray images of ten classes: the digits' own are many for a vision transformer."""
    top, generator = place / "training", np.random.default_rng(1)
    for number in range(0 if top.exists() else 80):
        folder = top / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number:02d}.png")
    dataset = {"source": "folder", "address": top.as_uri(), "images": None}
    return tiny(dataset=dataset, evaluation=SMALL | evaluation)


def distances(result: ScoresResult) -> dict[str, tuple[float, ...]]:
    return {row.metric: row.values for row in (*result.rows, *result.further) if row.model != "real"}


def test_it_is_what_it_is_alone_and_leaves_the_first_metric_as_it_was(here: Path) -> None:
    """Of a generator, over two ranges, with KID of the first detector's features beside it."""
    both = score_file(ASSET, with_second(here, extra_metrics=("kid",))).manifest
    main = on_images(here, metric="fd_dinov2_tiny", detector=dinov2(here))
    alone = distances(score_file(ASSET, main).manifest.result)
    found = distances(both.result)
    assert list(found) == ["fd_digits", "kid_digits", "fd_dinov2_tiny"]
    assert found["fd_dinov2_tiny"] == alone["fd_dinov2_tiny"] and len(alone["fd_dinov2_tiny"]) == 2
    without = score_file(ASSET, on_images(here)).manifest
    assert distances(without.result)["fd_digits"] == found["fd_digits"]
    assert without.about.key != both.about.key
    assert both.result.second is not None and both.result.second.metric == "fd_dinov2_tiny"
    assert both.result.second.detector_sha256 == sha256_of(here / "dinov2.pth")[0]
    assert verify(f"{both.about.store}/steps/score/{both.about.key}/1.json").problems == []


def edm2_like(place: Path, statistics: dict[str, tuple[Tensor, Tensor]]) -> Path:
    """A reference as EDM2 publishes it: one pickle for all metrics."""
    content: dict[str, Any] = {
        name: {"mu": mean.numpy(), "sigma": covariance.numpy()} for name, (mean, covariance) in statistics.items()
    }
    path = place / "img.pkl"
    path.write_bytes(pickle.dumps(content | {"num_images": 1000}))
    return path


def gaussian(features: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(features + 50, features, generator=generator, dtype=torch.float64)
    return samples.mean(0), torch.cov(samples.T)


def test_fd_dinov2_of_a_folder_is_the_distance_to_edm2_s_published_statistics(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1024 features, no image of the training set: both references are read from one published pickle."""
    script = write_stand_in(here / "script.pt")
    monkeypatch.setenv("SIDA_TRUST_DETECTOR", sha256_of(script)[0])
    published = {"fid": gaussian(FEATURES, 0), "fd_dinov2": gaussian(1024, 1)}
    reference = {"address": edm2_like(here, published).as_uri()}
    network = load(str(TINY)).teacher.network.model_dump(mode="json") | {"channels": 3, "label_dim": 0}
    recipe = tiny(
        teacher={"network": network},
        dataset={"source": "folder", "address": (here / "nowhere").as_uri(), "channels": 3, "classes": 0},
        evaluation={
            "metric": "fid",
            "detector": {"kind": "inception", "address": script.as_uri(), "features": FEATURES},
            "reference": reference,
            "second": {"metric": "fd_dinov2", "detector": dinov2(here, 1024), "reference": reference},
            "images": 30,
        },
        execution={"sampling_batch": 16},
    )
    assert not needs_images(recipe)
    folder = folder_of(here, 30)
    score = score_file(folder, recipe).manifest
    files = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    images = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2)
    for metric, path in (("fid", script), ("fd_dinov2", here / "dinov2.pth")):
        with torch.no_grad():
            features = load_detector(path)(images).double()
        expected = frechet_distance(features.mean(0), torch.cov(features.T, correction=0), *published[metric])
        assert distances(score.result)[metric] == pytest.approx((expected,), rel=1e-4), metric
    said = capsys.readouterr().err
    assert (
        "30 images are few for 16 features" in said and "30 images are few for the 1,024 features of fd_dinov2" in said
    )


def test_our_own_statistics_are_compared_with_published_ones_for_both_detectors(here: Path) -> None:
    from sida.data.prepare import prepare_data
    from sida.scoring.reference import load_statistics, reference_statistics
    from sida.settings import settings
    from sida.stores import open_store

    plain = with_second(here)
    dataset = prepare_data(recipe=plain).manifest
    own = reference_statistics(recipe=plain, dataset=dataset).manifest.result
    assert isinstance(own, ReferenceResult) and own.second is not None
    assert (own.origin, own.second.origin, own.second.count) == ("computed", "computed", 80)
    published = {"fd_dinov2_tiny": gaussian(64, 2)}
    reference = {"address": edm2_like(here, published).as_uri()}
    second = {"metric": "fd_dinov2_tiny", "detector": dinov2(here), "reference": reference}
    theirs = reference_statistics(recipe=with_second(here, second=second), dataset=dataset).manifest.result
    assert (theirs.origin, theirs.second.origin, theirs.second.count) == ("computed", "published", 1000)
    store = open_store(settings().store)
    statistics = load_statistics(store, own.second)
    expected = frechet_distance(*published["fd_dinov2_tiny"], *statistics)
    assert theirs.second.difference == pytest.approx(expected, rel=1e-9)
    assert all(map(torch.equal, load_statistics(store, theirs.second), published["fd_dinov2_tiny"]))


def test_sums_of_both_detectors_are_cut_and_merged_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 3, generator=generator)
    first, second = (lambda x: x[:, :2]), (lambda x: torch.cat([x, x**2], dim=1))
    whole, parts, total = (Sums(2, 12, (), 6) for _ in range(3))
    whole.add(first, images, 0, second)  # type: ignore[arg-type]
    for start in (0, 5):
        parts = Sums(2, 12, (), 6)
        parts.add(first, images[start : start + (5 if start == 0 else 7)], start, second)  # type: ignore[arg-type]
        total.merge(parts.state())
    assert set(total.state()) == {*Sums(2, 12).state(), "second/count", "second/sum", "second/outer"}
    for name, tensor in whole.state().items():
        torch.testing.assert_close(total.state()[name], tensor)
    with pytest.raises(UserError, match=r"features of \[6\], the reference has 2"):
        whole.add(second, images, 0, second)  # type: ignore[arg-type]


def test_a_reference_without_the_second_detector_s_statistics_is_refused(place: Path) -> None:
    recipe = with_second(place)
    made = ReferenceResult.model_construct(metric="fd_digits", detector_sha256="a" * 64, features=64, second=None)
    pinless = recipe.evaluation.model_copy(
        update={"detector": recipe.evaluation.detector.model_copy(update={"sha256": None})}
    )
    with pytest.raises(UserError, match=r"has nothing as its second metric.*the recipe fd_dinov2_tiny"):
        check_reference(recipe.model_copy(update={"evaluation": pinless}), made)


def test_a_recipe_without_a_second_metric_says_nothing_of_it(place: Path) -> None:
    assert "second" not in tiny().model_dump(mode="json")["evaluation"]
    assert "second" in json.loads(with_second(place).model_dump_json())["evaluation"]


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ({"metric": "fd_digits"}, "second.metric is 'fd_digits' too"),
        ({"metric": "kid"}, "evaluation.second.metric"),
        ({"metric": "fid"}, "call it fd_digits"),
    ],
)
def test_a_second_metric_that_is_none_is_refused(second: dict[str, Any], problem: str) -> None:
    detector = load(str(TINY)).evaluation.detector.model_dump(mode="json")
    with pytest.raises(RecipeError, match=problem):
        tiny(evaluation={"second": second | {"detector": detector}})


def test_pin_reads_the_second_section_s_files_as_what_they_should_be(place: Path) -> None:
    dinov2(place)
    reference = edm2_like(place, {"fd_dinov2_tiny": gaussian(64, 0)})
    path = place / "mine.yaml"
    path.write_text(
        f"extends: {TINY}\nname: mine\nevaluation:\n  second:\n    metric: fd_dinov2_tiny\n    detector:\n"
        f"      kind: dinov2\n      address: dinov2.pth\n      features: 64\n    reference:\n      address: img.pkl\n"
    )
    assert [(one.field, one.value) for one in pin(path)] == [
        ("evaluation.second.detector", sha256_of(place / "dinov2.pth")[0]),
        ("evaluation.second.reference", sha256_of(reference)[0]),
    ]
    path.write_text(
        path.read_text().replace("fd_dinov2_tiny", "fd_dinov2_other").replace("      sha256", "      # sha256")
    )
    with pytest.raises(UserError, match="holds fd_dinov2_tiny, num_images, nothing for fd_dinov2_other"):
        pin(path)


# -- where it is shown


def test_table_page_and_numbers_of_a_run_show_it_under_its_name(here: Path) -> None:
    from sida.registry import EVERY_STEP as STEPS
    from sida.report import compare as comparing
    from tests.scoring.conftest import manifest
    from tests.scoring.files import runner

    recipe = with_second(here)
    run = runner(here, recipe)
    teacher, dataset = run(STEPS["fetch_teacher"]), run(STEPS["prepare_data"])
    reference = run(STEPS["reference_statistics"], dataset=dataset)
    teacher_scores = run(STEPS["score_teacher"], teacher=teacher, reference=reference)
    generator = run(STEPS["fetch_released"], address=ASSET.as_uri())
    scores = run(STEPS["score"], generator=generator, reference=reference)
    described = run(STEPS["compare"], teacher_scores=teacher_scores, scores=scores)
    rows = {model: manifest(path).measured[-1] for model, path in (("teacher", teacher_scores), ("generator", scores))}
    assert [row.metric for row in rows.values()] == ["fd_dinov2_tiny"] * 2
    table = comparing.table(manifest(described))  # type: ignore[arg-type]
    assert [line[2] for line in table[-2:]] == [
        f"fd_dinov2_tiny {row.mean:.3f} +- {row.sd:.3f}" for row in rows.values()
    ]
    numbers = comparing.standing_of(manifest(described))  # type: ignore[arg-type]
    assert numbers["generator_fd_dinov2_tiny_n40"] == rows["generator"].mean and "generator_fd_digits_n40" in numbers
    page = manifest(run(STEPS["report"], run=described)).result.page  # type: ignore[union-attr]
    html = (here / "store" / page.key).read_text()
    assert f"fd_dinov2_tiny {rows['generator'].mean:.3f}" in html and "second detector, sha256" in html
    published = manifest(run(STEPS["published_table"], scores=[scores])).result
    line = next(line for line in lines(published) if line[2] == "fd_dinov2_tiny")  # type: ignore[arg-type]
    assert line[4:7] == (
        f"{rows['generator'].mean:.3f} (n = 40)",
        f"+- {rows['generator'].interval:.3f}",
        "nothing published",
    )
    for path in (teacher_scores, scores, described):
        about = manifest(path).about
        assert verify(f"{about.store}/steps/{about.step}/{about.key}/1.json").problems == []


def test_mlflow_gets_it_beside_the_first_metric(place: Path) -> None:
    from sida.settings import settings
    from sida.stores import open_store
    from sida.tracking.projection import projection

    class Both(runs.Made):
        def results(self) -> dict[str, Any]:
            made, row = super().results(), runs.score("generator", 7.0, 8.0, metric="fd_dinov2")
            second = SecondScored(metric="fd_dinov2", detector_sha256="e" * 64, sampling_bias=0.1)
            made["score"] = made["score"].model_copy(update={"further": (row,), "second": second})
            return made | {"compare": made["compare"].model_copy(update={"second": (row,)})}

    store = open_store(settings().store)
    Both(store, runs.recipe(), (1.0, 1.01, 0.99)).write("one")
    told = projection(store, "one")
    assert ("fd_dinov2_n200_generator", 7.5, 0) in told.parent.metrics
    scored = next(child for child in told.children if any(name == "fd_digits_n200" for name, _, _ in child.metrics))
    assert ("fd_dinov2_n200", 7.5, 0) in scored.metrics and ("fd_dinov2_n200_of_range", 8.0, 1) in scored.metrics


# -- asked for on the command line


def test_the_command_line_takes_meta_s_weights_and_edm2_s_statistics() -> None:
    edm2, cifar = (load(name).evaluation for name in ("imagenet-512-edm2-s", "cifar10-uncond"))
    found = also(edm2, ["fd_dinov2", "kid"])
    assert found["extra_metrics"] == ["kid"] and found["second"]["metric"] == "fd_dinov2"
    assert found["second"]["detector"]["address"] == DINOV2_ADDRESS
    assert found["second"]["reference"]["address"].endswith("dataset-refs/img512.pkl")
    assert also(cifar, ["fd_dinov2"])["second"]["reference"] is None  # an npz of FID alone: computed
    assert also(cifar, []) == cifar.model_dump(mode="json")


def test_a_recipe_that_measures_it_already_stays_and_one_with_another_is_refused(place: Path) -> None:
    recipe = load("imagenet-512-edm2-s")
    changed = recipe.model_dump(mode="json") | {"evaluation": also(recipe.evaluation, ["fd_dinov2"])}
    twice = parse(changed, "test")
    assert also(twice.evaluation, ["fd_dinov2"]) == changed["evaluation"]
    with pytest.raises(UserError, match="has a second metric, fd_dinov2_tiny"):
        also(with_second(place).evaluation, ["fd_dinov2"])


def test_score_published_runs_the_recipe_with_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sida.settings import settings
    from sida.steps.recipes import recipe_at
    from sida.stores import open_store

    plans: list[Any] = []

    def run_plan(args: Any, plan: Any) -> Any:
        plans.append(plan)
        raise UserError("that is enough")

    monkeypatch.setattr("pipeline.running.run_plan", run_plan)
    command = Command(place, monkeypatch, capsys)
    for asked in ((), ("--metric", "fd_dinov2")):
        assert "that is enough" in command("score-published", "imagenet-512-edm2-s", *asked).err
    plain, both = (recipe_at(plan.published[0], open_store(settings().store)).evaluation for plan in plans)
    assert plain.second is None and both.second is not None
    assert (both.second.metric, both.metric) == ("fd_dinov2", "fid")
