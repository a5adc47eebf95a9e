"""docs/reference.md from the code: commands, fields, settings, errors. ``python -m scripts.reference`` writes it.

MkDocs writes it anew when it builds the pages. A test fails for a command, field or setting that the file lacks, or that says
nothing of itself.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from pipeline import profile
from pipeline.__main__ import EXIT_STATUS, VERBS, parser
from pipeline.output import NO_JSON
from sida import errors, recipe
from sida.recipe.reading import section
from sida.settings import VARIABLES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
SAID = Path(__file__).with_name("fields.yaml")  # of fields whose name and section were thought enough in the code
TYPES: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "none"}

OUTPUT = """The result goes to stdout, everything else to stderr: progress (a bar on a terminal, elsewhere a line a minute), notes,
warnings, errors. With `--json` the result is one JSON object, whose names stay as they are; a command that is refused prints none.
`--quiet` leaves warnings and errors beside the result, `--verbose` adds the lines that steps and their workers log. Colors are for
terminals alone, and not where `NO_COLOR` is set."""


def comments(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment behind it in the source, also one that a formatter moved into brackets."""
    lines = textwrap.dedent(inspect.getsource(model)).splitlines()
    found = {}
    for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = " ".join(lines[node.lineno - 1 : node.end_lineno])
            _, _, said = text.partition("  # ")
            found[node.target.id] = said.removesuffix(")").rstrip() if said.count(")") > said.count("(") else said
    return found


def fields(model: type[BaseModel], given: dict[str, Any], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(path, type, default, what it says) of every field, those of sections inside too."""
    rows, said = [], comments(model)
    for name, field in model.model_fields.items():
        path, inner = f"{prefix}{name}", section(field.annotation)
        default = "required" if field.is_required() else f"`{field.default!r}`" if inner is None else "may be left out"
        text = said.get(name) or given.get(f"{model.__name__}.{name}") or (summary(inner) if inner else "")
        rows.append((path, "section" if inner else type_name(field.annotation), default, text))
        if inner is not None:
            rows += fields(inner, given, f"{path}.")
    return rows


def type_name(annotation: Any) -> str:
    """As people read it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(inside[0])
    if origin is Literal:
        return " or ".join(map(str, inside))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(type_name, inside)))
    if origin is tuple:
        return f"list of {type_name(inside[0])}"
    if origin is dict:
        return f"mapping to {type_name(inside[1])}"
    return TYPES.get(annotation, "section")


def summary(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Verb -> its parser."""
    return dict(next(iter(parser(*VERBS)._subparsers._group_actions)).choices)  # type: ignore[union-attr, arg-type]


def options(verb: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """(how it is written, its help) of every argument."""
    found = []
    for action in verb._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
        shown = " ".join(filter(None, [", ".join(action.option_strings), value if action.nargs != 0 else ""]))
        found.append((str(shown or action.dest), action.help or ""))
    return found


def error_tree() -> list[tuple[str, int, str]]:
    """(class, exit status, what it means)."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SidaError)]
    return [(kind.__name__, kind.exit_code, summary(kind)) for kind in kinds]


def text() -> str:
    """The whole file."""
    import yaml

    given = yaml.safe_load(SAID.read_text(encoding="utf-8"))
    lines = ["# Reference", "", "Written by `python -m scripts.reference` from the code; do not edit.", ""]
    lines += ["## Exit status", "", *table(("status", "meaning"), list(EXIT_STATUS.items()))]
    lines += ["## What goes where", "", OUTPUT, ""]
    lines += [*table(("without --json", "because it"), [(f"`{name}`", why) for name, why in NO_JSON.items()])]
    lines += ["## Commands", ""]
    for name, verb in verbs().items():
        lines += [f"### {name}", "", verb.description or "", "", "```", f"sida {name} ...", "```", ""]
        lines += table(("argument", "meaning"), [(f"`{shown}`", said) for shown, said in options(verb)])
    lines += [
        "## Recipe",
        "",
        "YAML; unknown keys are refused. `extends: NAME` takes everything else from another recipe.",
        "",
    ]
    lines += table(("field", "type", "default", "meaning"), fields(recipe.Recipe, given))
    lines += ["## Profile", ""]
    lines += table(("field", "type", "default", "meaning"), fields(profile.Profile, given))
    lines += ["## Settings", "", "Environment variables.", ""]
    lines += table(("variable", "meaning"), [(f"`{name}`", said) for name, said in VARIABLES.items()])
    lines += ["## Errors", "", "Each is one line that ends with what to do; the classes say how a command ends.", ""]
    lines += table(("class", "status", "meaning"), [(name, str(status), said) for name, status, said in error_tree()])
    return "\n".join(lines).rstrip() + "\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Markdown."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows), ""] if rows else []


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Give MkDocs, which calls this for each page, the reference of the code as it is."""
    return text() if page.file.src_uri == PAGE.name else markdown


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
