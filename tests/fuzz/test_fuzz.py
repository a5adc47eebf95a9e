"""Whatever a file or a command line holds: it is read, or refused in one line. Never a traceback, never a hang.

300 cases of each kind in every run, 5,000 in `make test-all`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import profile
from pipeline.__main__ import VERBS, main, parser
from sida import recipe
from sida.errors import SidaError
from sida.manifests import parse_manifest
from tests.conftest import ROOT

DIGITS = recipe.load("digits").model_dump(mode="json")
CLUSTER = yaml.safe_load((ROOT / "tests/pipeline/cluster.yaml").read_text())

words = st.sampled_from(
    ["digits", "sida", "name", "extends", "address", "", "a\nb", "\x00", "../x", "~", "e" * 300, "é☃", "1e-4", "-"]
)
texts = words | st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | texts | st.integers(-(10**30), 10**30) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


MARKS = [
    "&a ",
    "*a",
    "? ",
    ": ",
    "- ",
    "\n",
    "  ",
    "{",
    "}",
    "[",
    "]",
    "<<",
    "!!set ",
    "|",
    "'",
    "%",
    "name",
    "1",
    "\t",
]
MARKS += [
    "!!python/object:os.system ",
    "---\n",
    "!!timestamp ",
    "!!binary ",
    "!!int ",
    "!!bool ",
    "!!float ",
    "2026-01-01",
]


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in inside for found in [(*path, key), *places(value, (*path, key))]]


@st.composite
def damaged(draw: st.DrawFn, data: Any) -> Any:
    """A copy with one to three places dropped, renamed, retyped, or added to."""
    made = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        known = places(made)
        if not known:
            break
        *path, last = draw(st.sampled_from(known))
        inside = made
        for key in path:
            inside = inside[key]
        match draw(st.sampled_from(["drop", "rename", "set", "add"])):
            case "drop":
                del inside[last]
            case "rename" if isinstance(inside, dict):
                inside[draw(texts)] = inside.pop(last)
            case "add" if isinstance(inside, dict):
                inside[draw(texts)] = draw(values)
            case _:
                inside[last] = draw(values)
    return made


def read_or_refused(read: Callable[[], Any], where: str) -> None:
    """Either it can be read, or one line names the file."""
    refused = None
    try:
        read()
    except SidaError as error:
        refused = error
    if refused is not None:
        line = str(refused)
        assert refused.exit_code == 2 or "damaged" in line
        assert len(line.splitlines()) == 1, line
        assert len(line) < 2_000
        assert where in line, line


def cases(count: int, **strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many, always the same ones, each as slow as this machine needs."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    setting = settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=checks)
    return lambda test: setting(given(**strategies)(test))


def check_recipe(folder: Path, data: Any) -> None:
    path = folder / "mine.yaml"
    path.write_text(json.dumps(data) if not isinstance(data, str) else data, encoding="utf-8", errors="surrogatepass")
    read_or_refused(lambda: recipe.load(str(path)), "mine.yaml")


def check_profile(folder: Path, data: Any) -> None:
    path = folder / "mine.yaml"
    path.write_text(json.dumps(data) if not isinstance(data, str) else data, encoding="utf-8", errors="surrogatepass")
    read_or_refused(lambda: profile.load(str(path)), "mine.yaml")


def check_manifest(data: Any) -> None:
    content = data if isinstance(data, bytes) else json.dumps(data).encode("utf-8", "surrogatepass")
    read_or_refused(lambda: parse_manifest(content, "1.json"), "1.json")


def check_command(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing every verb; running those that only read. Nothing but the parser's own exit leaves it."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if arguments and arguments[0] in READING:
                status = main()
            else:
                parser(*VERBS).parse_args(arguments)
                status = 0
        except SystemExit as error:
            status = int(error.code or 0)
    if status == 2:
        (line,) = err.getvalue().splitlines()
        assert line.startswith("error: ")
        assert out.getvalue() == ""
    assert status in (0, 1, 2)
    for left in folder.iterdir():  # what `new` has written is whole
        assert (arguments[0], status) == ("new", 0), left
        if left.suffix == ".yaml":
            recipe.load(str(left))
        left.unlink()


READING = (
    "show",
    "inspect",
    "verify",
    "new",
    "sample",
    "export",
    "compile",
    "submit",
    "status",
    "runtime",
    "schedule",
    "plan",
)
OPTIONS = [
    "--json",
    "--quiet",
    "-v",
    "--recipe",
    "--output",
    "--profile",
    "--seeds",
    "--force",
    "--grid",
    "--help",
    "--gpus",
    "--nodes",
    "--classes",
]
arguments = st.lists(st.sampled_from([*VERBS, *OPTIONS]) | texts, min_size=0, max_size=6)
commands = st.builds(lambda verb, rest: [verb, *rest], st.sampled_from(list(VERBS)), arguments) | arguments


MANIFEST = {
    "schema_version": 1,
    "result": {
        "kind": "reference",
        "metric": "fid",
        "detector_sha256": "0" * 64,
        "detector": {"name": "d.pt", "size": 1, "sha256": "0" * 64},
        "features": 4,
        "count": 3,
        "moments": {"name": "m", "size": 1, "sha256": "0" * 64},
        "dataset_digest": "0" * 64,
    },
    "about": {
        "step": "reference_statistics",
        "key": "0" * 64,
        "attempt": 1,
        "created": "2026-01-01T00:00:00Z",
        "seconds": 1.0,
        "store": "file:///x",
        "etags": {},
        "code": "0" * 64,
        "inputs": {},
        "parameters": {},
        "machine": {},
    },
}


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.slow)])
class TestAnythingIsReadOrRefusedInOneLine:
    def test_recipes(self, count: int, tmp_path: Path) -> None:
        cases(count, data=damaged(DIGITS) | values)(lambda data: check_recipe(tmp_path, data))()

    def test_profiles(self, count: int, tmp_path: Path) -> None:
        cases(count, data=damaged(CLUSTER) | values)(lambda data: check_profile(tmp_path, data))()

    def test_yaml_text(self, count: int, tmp_path: Path) -> None:
        marks = st.sampled_from(MARKS)

        def check(data: str) -> None:
            check_recipe(tmp_path, data)
            check_profile(tmp_path, data)

        cases(count, data=st.lists(marks | texts, max_size=20).map("".join))(check)()

    def test_manifests(self, count: int) -> None:
        cases(count, data=damaged(MANIFEST) | values | st.binary(max_size=40))(check_manifest)()

    def test_command_lines(self, count: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = place / "here"
        folder.mkdir()
        monkeypatch.setenv("KUBECONFIG", str(place / "none"))
        cases(count, arguments=commands)(lambda arguments: check_command(arguments, folder, monkeypatch))()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "name: &n digits\nextends: *n\n",
        "a: 1\na: 2\n",
        "[" * 5_000,
        "{a: " * 5_000,
        "? [a]\n: b\n",
        "x: 1" + "0" * 5_000,
    ],
)
@pytest.mark.parametrize("load", [recipe.load, profile.load])
def test_anchors_bombs_duplicates_and_depth_are_refused_at_once(
    tmp_path: Path, text: str, load: Callable[[str], Any]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SidaError, match=r"mine.yaml: ") as caught:
        load(str(path))
    assert (caught.value.exit_code, len(str(caught.value).splitlines())) == (2, 1)
