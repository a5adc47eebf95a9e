"""The pass over the images: the same bits on any number of processes and after any kill; bad images stop it in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from sida.data.prepare import prepare_data
from sida.errors import UserError
from sida.launch.spec import LeaseRef, ReferenceSpec, ScoreSpec, Spec
from sida.manifests import Manifest
from sida.numerics.frechet import frechet_distance
from sida.recipe import Recipe
from sida.scoring.adopt import fetch_released
from sida.scoring.measure import measure
from sida.scoring.partial import PART_IMAGES, Piece, discard, gather, merged, pieces
from sida.scoring.reference_job import reference
from sida.scoring.sums import Sums
from sida.settings import settings
from sida.stores import open_store
from sida.worker.job import Job
from sida.worker.ranks import Processes
from tests.jobs import job_file, stored
from tests.scoring.conftest import ASSET, tiny

CPU = torch.device("cpu")


class LooseJob(Job):
    """A job without a lease."""

    def check(self) -> None:
        """Nobody else is here."""


def job(recipe: Recipe, folder: str, spec: Spec[Any], processes: Processes) -> Job[Any]:
    store = open_store(settings().store)
    return LooseJob(job_file(store, recipe, spec, folder, LeaseRef(key=folder, number=1)), recipe, store, processes)


def score_spec(manifests: dict[str, Manifest], **fields: Any) -> ScoreSpec:
    store = open_store(settings().store)
    inputs = {name: stored(store, manifest) for name, manifest in manifests.items()}
    return ScoreSpec(**{"first_seeds": (1000, 1100), "count": 100, **inputs, **fields})


@pytest.fixture
def manifests(place: Path) -> dict[str, Manifest]:
    """Data, reference and a generator, all made in this process."""
    return make_manifests(tiny())


def make_manifests(recipe: Recipe, asset: Path = ASSET) -> dict[str, Manifest]:
    from sida.manifests import ReferenceResult
    from sida.stores.objects import put_object

    data = prepare_data(recipe=recipe).manifest
    generator = fetch_released(recipe=recipe, address=asset.as_uri()).manifest
    store = open_store(settings().store)
    path = Path(recipe.evaluation.detector.address.removeprefix("file://"))
    detector = put_object(store, path)
    spec = ReferenceSpec(dataset=stored(store, data), detector=detector, features=64, keep=True)
    made = reference(job(recipe, "jobs/reference", spec, Processes(0, 1, CPU)))
    assert made is not None
    result = ReferenceResult(
        metric="fd_digits",
        detector_sha256=detector.sha256,
        detector=detector,
        features=64,
        count=1797,
        moments=made.moments,
        dataset_digest=data.digest,
        real_features=made.real_features,
    )
    return {"model": generator, "dataset": data, "reference": Manifest(result=result, about=data.about)}


def scored(recipe: Recipe, manifests: dict[str, Manifest], folder: str = "jobs/score", **spec: Any) -> dict[str, Any]:
    outcome = measure(job(recipe, folder, score_spec(manifests, **spec), Processes(0, 1, CPU)))
    assert outcome is not None
    return outcome.model_dump()


def without_rate(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "images_per_second"}


# -- pieces


def test_pieces_cover_every_range_once_and_follow_from_the_count_alone() -> None:
    for count in (1, 7, 100, 50_000):
        work = pieces(2, count)
        for group in (0, 1):
            rows = [row for piece in work if piece.group == group for row in range(piece.start, piece.stop)]
            assert rows == list(range(count))
        assert all(piece.stop - piece.start <= PART_IMAGES for piece in work)
    assert len({piece.name for piece in pieces(3, 50_000)}) == 75


def fake_sums(piece: Piece) -> Sums:
    sums = Sums(3, 40)
    rows = torch.arange(piece.start, piece.stop)
    sums.moments.add(torch.randn(40, 3, generator=torch.Generator().manual_seed(piece.group))[rows])
    return sums


def gathered(place: Path, world: int, killed_after: int | None = None) -> list[dict[str, torch.Tensor]]:
    """Moments of two ranges by ``world`` processes, which are killed once, each after so many pieces."""
    work, folder = pieces(2, 40), f"jobs/{world}-{killed_after}"
    store = open_store(settings().store)

    def attempt(sums_of: Callable[[int], Callable[[Piece], Sums]]) -> None:
        listed = store.list(f"{folder}/parts/")  # every process looks before any writes, as they meet before
        for rank in range(world):
            processes = Processes(rank, world, CPU)
            object.__setattr__(processes, "meet", lambda: None)
            one = LooseJob.__new__(LooseJob)
            one.store, one.processes, one.folder = store, processes, folder
            one.store = _Listed(store, listed)  # type: ignore[assignment]
            try:
                gather(one, work, sums_of(rank))
            except KeyboardInterrupt:
                continue

    def dying(rank: int) -> Callable[[Piece], Sums]:
        made = 0

        def sums_of(piece: Piece) -> Sums:
            nonlocal made
            made += 1
            if made > (killed_after or 0):
                raise KeyboardInterrupt
            return fake_sums(piece)

        return sums_of

    if killed_after is not None:
        attempt(dying)
        assert 0 < len(store.list(f"{folder}/parts/")) < len(work)
    attempt(lambda rank: fake_sums)
    reader = LooseJob.__new__(LooseJob)
    reader.store, reader.folder = store, folder
    found = [sums.state() for sums in merged(reader, work, lambda: Sums(3, 40))]
    discard(reader, work)
    assert not store.list(f"{folder}/")
    return found


class _Listed:
    """A store whose listing is what it was before anybody wrote."""

    def __init__(self, store: Any, listed: Iterable[str]) -> None:
        self._store, self._listed = store, listed

    def list(self, prefix: str) -> Iterable[str]:
        return self._listed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize(("world", "killed_after"), [(1, 3), (2, None), (3, 2), (5, 1), (16, None)])
def test_the_sums_are_the_same_bits_on_any_number_of_processes_and_after_a_kill(
    place: Path, world: int, killed_after: int | None
) -> None:
    for ours, whole in zip(gathered(place, world, killed_after), gathered(place, 1), strict=True):
        assert all(torch.equal(ours[name], whole[name]) for name in whole)


# -- the worker


def test_one_pass_gives_every_metric_and_they_agree_with_the_plain_functions(manifests: dict[str, Manifest]) -> None:
    from sida.data.shards import one_hot
    from sida.numerics.kid import kernel_distance, kid_subsets
    from sida.numerics.precision_recall import precision_recall
    from sida.numerics.samplers import last_step
    from sida.scoring.detector import load_detector
    from sida.scoring.protocol import pixels_of, range_labels, sampling_noise
    from sida.scoring.reference import load_features, load_statistics
    from sida.stores.objects import fetch_object
    from sida.teachers.files import load_network
    from tests.golden.metrics import inception_score

    store = open_store(settings().store)
    made: Any = manifests["reference"].result
    found = scored(tiny(), manifests, extra_metrics=["is", "kid", "precision_recall"], floor=True)
    network = load_network(ASSET, manifests["model"].result.network)  # type: ignore[union-attr]
    histogram = manifests["dataset"].result.histogram  # type: ignore[union-attr]
    labels = one_hot(range_labels(histogram, 100, 1000), 10)
    with torch.no_grad():
        images = last_step(
            network.eval(), lambda step: sampling_noise(torch.arange(1000, 1100), (1, 8, 8)), labels, [2.5]
        )
        detector = load_detector(fetch_object(store, made.detector))
        features, probabilities = detector.with_probabilities(pixels_of(images, 1000))
    real = load_features(store, made)
    mean, covariance = features.double().mean(0), torch.cov(features.double().T, correction=0)
    value = frechet_distance(mean, covariance, *load_statistics(store, made))
    assert found["values"][0] == pytest.approx(value, rel=1e-4)  # other batches, other float32 kernels
    further = {name: values[0] for name, values in found["further"].items()}
    assert further["is"] == pytest.approx(inception_score(probabilities, 10)[0], rel=1e-4)
    assert further["kid"] == pytest.approx(kernel_distance(real, features, kid_subsets(1797, 100)), rel=1e-3)
    assert (further["precision"], further["recall"]) == pytest.approx(precision_recall(real, features), abs=0.02)
    assert len(found["floor"]) == 2 and 0 < found["floor"][0] < found["values"][0]


def test_a_score_killed_in_the_middle_goes_on_and_ends_with_the_same_bits(manifests: dict[str, Manifest]) -> None:
    whole = scored(tiny(), manifests, extra_metrics=["is", "kid"])
    store = open_store(settings().store)
    assert not store.list("jobs/score/")  # pieces are gone once they are merged

    class Killed(Exception):
        pass

    saved = 0

    class Dying(LooseJob):
        def check(self) -> None:
            nonlocal saved
            saved += 1
            if saved > 5:
                raise Killed

    spec = score_spec(manifests, extra_metrics=("is", "kid"))
    first = job(tiny(), "jobs/killed", spec, Processes(0, 1, CPU))
    with pytest.raises(Killed):
        measure(Dying(first.file, first.recipe, first.store, first.processes))
    left = store.list("jobs/killed/parts/")
    assert len(left) == 5
    assert "features" in load(store.read(left[0]))
    again = measure(first)
    assert again is not None
    assert without_rate(again.model_dump()) == without_rate(whole)


def test_another_batch_size_changes_a_score_by_rounding_alone(manifests: dict[str, Manifest]) -> None:
    one = scored(tiny(), manifests)["values"]
    other = scored(tiny(execution={"sampling_batch": 7}), manifests, "jobs/other")["values"]
    assert one == pytest.approx(other, rel=1e-5)


# -- bad input


def broken(place: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    tensors = {name: change(tensor) for name, tensor in load_file(ASSET).items()}
    path = place / "broken.safetensors"
    save_file(tensors, path)
    return path


def test_a_model_of_nans_is_refused_by_the_seed_of_its_first_bad_image(place: Path) -> None:
    manifests = make_manifests(tiny(), broken(place, lambda tensor: tensor * float("nan")))
    with pytest.raises(UserError, match="image of seed 1000 is not finite"):
        scored(tiny(), manifests)


def test_a_model_of_one_constant_image_is_refused(
    manifests: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sida.scoring import measure as measuring

    grey = lambda network, sigma: lambda seeds, labels: torch.zeros(len(seeds), 1, 8, 8)  # noqa: E731
    monkeypatch.setattr(measuring, "generator_images", grey)
    with pytest.raises(UserError, match="all 100 images look the same"):
        scored(tiny(), manifests)


def test_a_data_set_with_other_classes_than_the_model_is_refused(manifests: dict[str, Manifest]) -> None:
    result = manifests["dataset"].result.model_copy(update={"histogram": (1, 2, 3)})
    wrong = manifests | {"dataset": Manifest(result=result, about=manifests["dataset"].about)}
    with pytest.raises(UserError, match="labels out of range: the model knows 10 classes, the data set 3"):
        scored(tiny(), wrong)


def test_a_detector_of_another_width_than_the_reference_is_refused(manifests: dict[str, Manifest]) -> None:
    result = manifests["reference"].result.model_copy(update={"features": 32})
    wrong = manifests | {"reference": Manifest(result=result, about=manifests["reference"].about)}
    with pytest.raises(UserError, match=r"features of \[64\], the reference has 32"):
        scored(tiny(), wrong)


def test_a_metric_that_compares_images_needs_features_of_real_ones(manifests: dict[str, Manifest]) -> None:
    result = manifests["reference"].result.model_copy(update={"real_features": None})
    wrong = manifests | {"reference": Manifest(result=result, about=manifests["reference"].about)}
    with pytest.raises(UserError, match="holds statistics only"):
        scored(tiny(), wrong, extra_metrics=["kid"])
    assert json.dumps(scored(tiny(), wrong, "jobs/plain")["values"])
