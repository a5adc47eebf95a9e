"""What pages tell people to type is there: commands with their options, targets of make, files that are linked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipeline.__main__ import VERBS, parser
from scripts import reference
from scripts.lock import wanted
from sida import layout, recipe
from tests.conftest import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TYPED = [page for page in PAGES if page.name != "errors.md"]  # there stand messages
BLOCKS = re.compile(r"^ *```.*?$(.*?)^ *```$|^ {4}((?:python|make) [^\n]+)$", re.DOTALL | re.MULTILINE)
PIPELINE = re.compile(r"(?<!-n )(?<!cd )(?<![\w-])sida (?=[a-z.-]|VERB)")  # not a namespace, not a folder


def blocks(page: Path) -> list[str]:
    """Lines of code that stands by itself, fenced or indented."""
    found = BLOCKS.findall(page.read_text(encoding="utf-8"))
    return [line.strip() for parts in found for part in parts for line in part.splitlines() if line.strip()]


def inline(page: Path) -> list[str]:
    """Code in sentences."""
    return re.findall(r"`([^`\n]+)`", BLOCKS.sub("", page.read_text(encoding="utf-8")))


def commands(lines: list[str]) -> list[str]:
    """Of the pipeline: up to a pipe, a redirection, or the comment after two blanks; what is in brackets may be left out."""
    found = [line[match.end() :] for line in lines if (match := PIPELINE.search(line))]
    return [re.split(r"\s[|>&#]|\s{2}|[;)]", re.sub(r"\[.*?\]", "", line))[0].strip() for line in found]


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_there_is(page: Path) -> None:
    for line in commands(blocks(page)):
        words = shlex.split(line)
        if words[1:] and words[0] not in ("VERB", "step") and "..." not in words:
            parser(*VERBS).parse_args(words)  # leaves where an option is unknown, an argument missing or one too many
    verbs = reference.verbs()
    for line in commands(inline(page)):
        verb, *rest = shlex.split(line)
        assert verb.rstrip(",") in (*verbs, "VERB", "...", "--help", "--version"), f"{page.name}: {line}"
        options = {word for word in rest if word.startswith("--")} if verb in verbs and verb != "step" else set()
        assert options <= set(verbs[verb]._option_string_actions if verb in verbs else ()), f"{page.name}: {line}"


def named_recipes(lines: list[str]) -> set[str]:
    """Recipes that commands name by their names, not by paths or in capitals."""
    found: set[str] = set()
    for line in commands(lines):
        words = shlex.split(line)
        if words[1:] and words[0] in VERBS and words[0] not in ("new", "step") and "..." not in words:
            given = vars(parser(*VERBS).parse_args(words))
            values = [given.get(name) or () for name in ("recipe", "recipes", "cronjobs")]
            found |= {name for value in values for name in ([value] if isinstance(value, str) else value)}
    return {name for name in found if name == name.lower() and not name.endswith(".yaml")}


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_every_recipe_that_a_command_of_a_page_names_is_there(page: Path) -> None:
    assert named_recipes(blocks(page)) <= set(recipe.names())


def test_every_recipe_that_an_example_of_a_verb_names_is_there() -> None:
    examples = [line for verb in reference.verbs().values() for line in (verb.epilog or "").splitlines()]
    named = named_recipes(examples)
    assert len(named) > 5
    assert named <= set(recipe.names())


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_every_target_of_make_is_one_that_there_is(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    said = {name for line in (*blocks(page), *inline(page)) for name in re.findall(r"(?:^|\s)make ([a-z-]+)", line)}
    assert said <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_or_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = [page.parent / name for name in re.findall(r"\]\((?!https?:)([^)#\s]+)", text)]
    named = [
        ROOT / name
        for name in re.findall(r"\b(?:docs|tests|sida|scripts|images)/[\w/.-]+\.(?:md|py|yaml|lock)\b", text)
    ]
    missing = [str(path) for path in (*linked, *named) if not path.exists()]
    assert not missing


def test_every_heading_that_a_page_links_is_there() -> None:
    for page in PAGES:
        for name, anchor in re.findall(r"\]\(([\w/.-]*\.md)#([\w-]+)\)", page.read_text(encoding="utf-8")):
            heads = re.findall(r"^#+ (.+)$", (page.parent / name).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w]+", "-", head.lower()).strip("-") for head in heads}, (
                f"{page.name}: {name}#{anchor}"
            )


def test_the_layout_of_the_store_is_that_of_the_code() -> None:
    tree = (layout.__doc__ or "").split("\n\n")[1].replace("``", "")
    assert tree in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_what_is_to_be_installed_is_said_in_the_project_s_own_ranges() -> None:
    told = [
        (path.name, package)
        for path in (*PAGES, *(ROOT / "sida").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py"))
        for package in re.findall(r"pip install '([^'\[]+)'", path.read_text(encoding="utf-8"))
    ]
    asked = set(wanted("pipeline", "laptop", "latents", "parquet"))
    assert {package for _, package in told} >= {"diffusers>=0.30"}
    assert [each for each in told if each[1] not in asked] == []
