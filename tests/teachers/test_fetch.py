"""The steps that bring pretrained networks into the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sida import recipe as recipes
from sida.errors import UserError
from sida.foreign import Refused
from sida.foreign.fetch import recorded_sha256
from sida.manifests import TeacherResult
from sida.settings import settings
from sida.stores import fetch_object, open_store
from sida.stores.objects import sha256_of
from sida.teachers.fetch import fetch_generator, fetch_teacher
from sida.teachers.files import load_network
from sida.teachers.formats import read_network
from tests.foreign.web import serve
from tests.teachers.test_convert import GOLDEN, published


def write_recipe(folder: Path, address: str, **more: object) -> recipes.Recipe:
    """A user's own teacher, through a recipe alone; JSON is YAML."""
    network = read_network(published(folder, "ddpmpp_uncond"), "x").network
    data = {
        "extends": "digits",
        "name": "mine",
        "teacher": {"address": address, "sha256": None, "licence": "mine", "network": network},
        "dataset": {"resolution": 8, "channels": 3},
        "method": {"augment": 0.0},
        **more,
    }
    (folder / "mine.yaml").write_text(json.dumps(data))
    return recipes.load(str(folder / "mine.yaml"))


def test_a_user_s_own_pickle_becomes_a_teacher_through_a_recipe_alone(place: Path) -> None:
    path = published(place, "ddpmpp_uncond")
    with serve(path.read_bytes()) as web:
        recipe = write_recipe(place, web.address)
        made = fetch_teacher(recipe=recipe)
        again = fetch_teacher(recipe=recipe)
    result = made.manifest.result
    assert isinstance(result, TeacherResult)
    assert again.reused and not made.reused and len(web.asked) == 1
    assert result.source_sha256 == sha256_of(web.content)[0] and result.licence == "mine"
    weights = fetch_object(open_store(settings().store), result.weights)
    load_network(weights, result.network)
    assert weights.suffix == ".safetensors"


def test_sid2a_s_generator_is_fetched_and_checked_against_the_teacher_s_network(place: Path) -> None:
    path = published(place, "ddpmpp_uncond")
    start = {"address": path.as_uri(), "licence": "theirs"}
    recipe = write_recipe(place, path.as_uri(), generator=start, method={"name": "sid2a", "augment": 0.0})
    result = fetch_generator(recipe=recipe).manifest.result
    assert isinstance(result, TeacherResult) and result.licence == "theirs"
    other = published(place, "ddpmpp_cond")
    recipe = write_recipe(
        place, path.as_uri(), generator={**start, "address": other.as_uri()}, method={"name": "sid2a", "augment": 0.0}
    )
    with pytest.raises(
        Refused, match=r"generator ddpmpp_cond\.pkl: resolution of its network is 16, the recipe's is 8"
    ):
        fetch_generator(recipe=recipe)


def test_a_recipe_without_a_generator_has_none_to_fetch(place: Path) -> None:
    with pytest.raises(UserError, match="no generator section"):
        fetch_generator(recipe=recipes.load("digits"))


def test_a_hostile_teacher_is_refused_and_nothing_is_published(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    recipe = write_recipe(place, (GOLDEN / "pickles" / "hostile_nested_in_storage.pkl").as_uri())
    with pytest.raises(Refused, match=r"posix\.system"):
        fetch_teacher(recipe=recipe)
    assert not (place / "PWNED").exists()
    assert not open_store(settings().store).list("objects/") and not open_store(settings().store).list("steps/")


def test_a_sign_in_page_is_neither_recorded_nor_kept_and_the_real_file_is_taken_later(place: Path) -> None:
    path = published(place, "ddpmpp_uncond")
    page = b"<html>" + b"sign in " * 99 + b"</html>"
    with serve(page) as web:
        recipe = write_recipe(place, web.address)
        for content, said in (
            (page, "is a web page"),
            (b"\x80\x04X", "teacher http"),
            (path.read_bytes()[:-5], "http"),
        ):
            web.content = content
            with pytest.raises(UserError, match=said) as caught:
                fetch_teacher(recipe=recipe)
            line = str(caught.value)
            assert "its sha256 is not recorded, the download is thrown away" in line and len(line) <= 300
            assert str(settings().cache) not in line
            assert recorded_sha256(web.address) is None
            assert [kept for kept in (settings().cache / "fetched").glob("*/*") if kept.is_file()] == []
        web.content = path.read_bytes()
        fetch_teacher(recipe=recipe)
        assert recorded_sha256(web.address) == sha256_of(web.content)[0]
