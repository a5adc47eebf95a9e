"""verify: an untouched chain is accepted, and a flipped byte in any object below a score is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sida.errors import Corrupt, UserError
from sida.manifests import Manifest
from sida.recipe import traveling
from sida.steps import StepOutcome
from sida.stores import open_store
from sida.stores.objects import put_object
from sida.verify import recompute, verify
from tests.scoring.conftest import METHOD, SMALL, small, tiny


@pytest.fixture
def address(here: Path, shelf: Path) -> str:
    """Of a score with every kind of object below it, in a store of this test's own."""
    if not (shelf / "key").exists():
        published = whole_chain(here)
        shutil.copytree(here / "store", shelf / "store")
        (shelf / "key").write_text(published.address.partition("/store/")[2])
    elif not (here / "store" / "steps").exists():
        shutil.copytree(shelf / "store", here / "store", dirs_exist_ok=True)
    return f"file://{here}/store/{(shelf / 'key').read_text()}"


def whole_chain(folder: Path) -> StepOutcome:
    """The score of a generator distilled here."""
    from sida.data.prepare import prepare_data
    from sida.scoring.reference import reference_statistics
    from sida.scoring.score import score, score_teacher
    from sida.teachers.fetch import fetch_teacher
    from sida.training.distill_step import distill
    from tests.scoring.files import runner

    plain = small()
    keeping = plain.execution.model_copy(update={"keep_selections": True})
    recipe = plain.model_copy(update={"execution": keeping})
    run = runner(folder, recipe)
    dataset, teacher = run(prepare_data), run(fetch_teacher)
    reference = run(reference_statistics, dataset=dataset)
    teacher_scores = run(score_teacher, teacher=teacher, reference=reference)
    generator = run(distill, teacher_scores=teacher_scores)
    return score(recipe=recipe, generator=generator, reference=reference)


def flip(path: Path, at: int) -> bytes:
    before = path.read_bytes()
    changed = bytearray(before)
    changed[at] ^= 0x01
    path.chmod(0o644)
    path.write_bytes(changed)
    return before


def test_every_object_below_a_score_is_listed_hashed_and_missed_when_one_bit_of_it_changes(address: str) -> None:
    chain = verify(address)
    assert not chain.problems and not chain.remarks
    kinds = {link.what.partition(":")[0] for link in chain.links}
    assert kinds == {"score", "model", "model/teacher", "model/dataset", "model/reference"}
    names = " ".join(link.what for link in chain.links)
    for part in (
        "recipe.json",
        "shard-00000.bin",
        "detector.safetensors",
        "teacher.safetensors",
        "reference.safetensors",
    ):
        assert part in names
    paths = [Path(link.address.removeprefix("file://")) for link in chain.links]
    assert len(set(paths)) == len(paths) >= 13
    for number, path in enumerate(paths):
        size = path.stat().st_size
        at = (0, size // 3, size - 1)[number % 3]
        before = flip(path, at)
        if path == paths[0]:
            with pytest.raises(Corrupt):
                verify(address)
        else:
            broken = [link.address for link in verify(address).problems]
            assert f"file://{path}" in broken, (path, at)
        path.write_bytes(before)
    assert not verify(address).problems


def test_every_object_that_is_cut_or_another_one_is_found(address: str) -> None:
    paths = [Path(link.address.removeprefix("file://")) for link in verify(address, hashing=False).links]
    for path, neighbour in zip(paths[1:], [*paths[2:], paths[1]], strict=True):
        before = path.read_bytes()
        path.chmod(0o644)
        for content in (before[:-1], b"", neighbour.read_bytes()):
            path.write_bytes(content)
            assert f"file://{path}" in [link.address for link in verify(address).problems], (path, len(content))
        path.write_bytes(before)
    assert not verify(address).problems


def test_a_whole_manifest_in_the_place_of_another_is_found(address: str) -> None:
    links = verify(address, hashing=False).links
    manifests = [Path(link.address.removeprefix("file://")) for link in links if link.what.endswith(": manifest")]
    assert len(manifests) == 5
    root, *below = manifests
    for path in below:
        before = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(next(other for other in below if other != path).read_bytes())
        assert f"file://{path}" in [link.address for link in verify(address).problems]
        path.write_bytes(before)
    root.chmod(0o644)
    root.write_bytes(root.read_bytes()[:-1])
    with pytest.raises(Corrupt):
        verify(address)


def test_an_object_that_is_gone_is_a_broken_link_and_the_rest_is_still_checked(address: str) -> None:
    shard = next(link for link in verify(address, hashing=False).links if link.what.endswith(".bin"))
    Path(shard.address.removeprefix("file://")).unlink()
    chain = verify(address)
    assert [link.address for link in chain.problems] == [shard.address]
    assert len(chain.links) >= 13


def test_a_score_computed_again_from_its_own_objects_is_the_same(address: str) -> None:
    chain = verify(address)
    rows = recompute(chain)
    assert [row.published.model for row in rows] == ["generator"]
    assert rows[0].agrees and rows[0].difference == 0
    assert verify(chain.links[0].address).root.about.attempt == 1  # the published one still counts


def test_what_is_no_manifest_s_address_is_refused_in_one_line(place: Path) -> None:
    with pytest.raises(UserError, match="not the address of a step's manifest"):
        verify("file:///tmp/somewhere/score.json")
    with pytest.raises(UserError, match="no such manifest"):
        verify(f"file://{place}/store/steps/score/{'0' * 64}/1.json")


def _reference_of_data(about: dict[str, Any], row: dict[str, Any]) -> None:
    about["inputs"]["reference"], about["input_keys"]["reference"] = (
        about[of]["dataset"] for of in ("inputs", "input_keys")
    )


LIES: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "mean": lambda about, row: row.update(mean=0.01),
    "sd": lambda about, row: row.update(sd=0.0),
    "interval": lambda about, row: row.update(interval=1e-9),
    "no values": lambda about, row: row.update(values=[]),
    "fewer seeds": lambda about, row: row.update(first_seeds=row["first_seeds"][:1]),
    "no images": lambda about, row: row.update(n=0),
    "another digest of what was met": lambda about, row: (
        about["inputs"].update(zzz="0" * 64),
        about["input_keys"].update(zzz=about["input_keys"]["dataset"]),
    ),
    "a key that is a path": lambda about, row: about["input_keys"].update(dataset="../../../etc/passwd"),
    "another number of images": lambda about, row: row.update(n=1),
    "another metric": lambda about, row: row.update(metric="fid"),
    "no inputs": lambda about, row: about.update(inputs={}, input_keys={}),
    "another attempt": lambda about, row: about.update(attempt=7),
    "another step": lambda about, row: about.update(step="../../x"),
    "data as reference": _reference_of_data,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_was_changed_and_sealed_again_contradicts_itself(address: str, lie: str) -> None:
    path = Path(address.removeprefix("file://"))
    before = path.read_bytes()
    _reseal(path, lambda fields: LIES[lie](fields["about"], fields["result"]["rows"][0]))
    try:
        assert verify(address, hashing=False).problems
    finally:
        path.write_bytes(before)


def _reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest's fields, and give it the checksum of what it says then."""
    fields = json.loads(path.read_bytes())
    change(fields)
    changed: Manifest = Manifest.model_validate_json(json.dumps(fields | {"checksum": ""}))
    path.chmod(0o644)
    path.write_bytes(changed.to_json())


def _stored(address: str, content: bytes) -> dict[str, Any]:
    store = open_store(address.partition("/steps/")[0])
    return asdict(put_object(store, content, "recipe.json"))


def _weights(address: str) -> dict[str, Any]:
    path = Path(address.removeprefix("file://"))
    about = json.loads(path.read_bytes())["about"]
    return json.loads(Path(path.parents[3], about["input_keys"]["model"]).read_bytes())["result"]["weights"]


FORGED: dict[str, Callable[[str], object]] = {
    "the weights": _weights,
    "a list": lambda address: _stored(address, b"[1, 2]"),
    "no fields of a recipe": lambda address: _stored(address, b'{"name": "tiny"}'),
    "bytes beyond a recipe's": lambda address: _stored(address, b" " * (2 << 20)),
    "the recipe of another number of images": lambda address: _stored(
        address, traveling(tiny(method=METHOD, evaluation=SMALL | {"images": 90}, execution={"processes": 1}))
    ),
    "none": lambda address: None,
}


@pytest.mark.parametrize("recipe", FORGED)
def test_a_score_whose_recipe_is_another_object_or_none_is_refused(address: str, recipe: str) -> None:
    path = Path(address.removeprefix("file://"))
    before, ref = path.read_bytes(), FORGED[recipe](address)
    _reseal(path, lambda fields: fields["about"].update(recipe=ref))
    try:
        for hashing in (True, False):
            with pytest.raises(UserError, match="run its step again") as refused:
                verify(address, hashing=hashing)
            assert len(str(refused.value).splitlines()) == 1 and refused.value.exit_code == 2
    finally:
        path.write_bytes(before)


def test_a_step_below_a_score_has_the_recipe_that_its_parameters_are_of(address: str) -> None:
    path = Path(address.removeprefix("file://"))
    model = Path(path.parents[3], json.loads(path.read_bytes())["about"]["input_keys"]["model"])
    other = _stored(address, traveling(tiny(method=METHOD | {"alpha": 1.1}, evaluation=SMALL)))
    before = model.read_bytes()
    _reseal(model, lambda fields: fields["about"].update(recipe=other))
    try:
        with pytest.raises(UserError, match="asks for another method"):
            verify(address)
    finally:
        model.write_bytes(before)


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_a_manifest_that_is_made_from_itself_is_refused(address: str, kind: str) -> None:
    path = Path(address.removeprefix("file://"))
    about, before = json.loads(path.read_bytes())["about"], path.read_bytes()
    below = Path(path.parents[3], about["input_keys"][kind])
    kept = below.read_bytes()
    own = {"inputs": {kind: about["inputs"][kind]}, "input_keys": {kind: about["input_keys"][kind]}}
    try:
        _reseal(below, lambda fields: fields["about"].update(own))
        with pytest.raises(UserError, match="is made from itself"):
            verify(address, hashing=False)
        below.write_bytes(kept)
        digest = Manifest.model_validate_json(before).digest
        key = str(path.relative_to(path.parents[3]))
        _reseal(
            path,
            lambda fields: (
                fields["about"]["inputs"].update({kind: digest}),
                fields["about"]["input_keys"].update({kind: key}),
            ),
        )
        with pytest.raises(UserError, match="is made from itself"):
            verify(address, hashing=False)
    finally:
        below.write_bytes(kept)
        path.write_bytes(before)


def test_a_score_of_other_data_than_its_reference_is_found(address: str) -> None:
    path = Path(address.removeprefix("file://"))
    before = path.read_bytes()

    def teacher_as_data(fields: dict[str, Any]) -> None:
        for of in ("inputs", "input_keys"):
            fields["about"][of]["dataset"] = fields["about"][of]["model"]

    _reseal(path, teacher_as_data)
    try:
        assert "the data set is not that of its reference" in [link.problem for link in verify(address).problems]
    finally:
        path.write_bytes(before)


def test_the_generators_of_all_selections_are_named_with_their_scores_beside_the_result(address: str) -> None:
    manifest = verify(address, hashing=False).manifests["model"]
    (kept,) = manifest.about.selections
    assert kept.weights.sha256 == manifest.result.weights.sha256 and kept.weights.name == "generator-256.safetensors"
    assert (kept.images_seen, kept.score) == (manifest.result.images_seen, manifest.result.selection_score)
