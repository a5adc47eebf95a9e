"""docs/errors.md: every message that a user may see, from the code. ``python -m scripts.errors`` writes it.

Messages are read from the source: each construction of one of our error classes, and the reasons that validators and readers of
foreign files give. ``scripts/errors.yaml`` says to which family a file's messages belong, with an example and what to do; a test
fails for a file that it does not know, for an example that no message of its family looks like, and for a page that is not this.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.reference import table
from sida import errors

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
FAMILIES = Path(__file__).with_suffix(".yaml")
REASONS = (
    "sida/recipe/",
    "pipeline/profile.py",
    "sida/foreign/",
)  # here a ValueError's text becomes part of a message
OWN = {name: kind.exit_code for name, kind in vars(errors).items() if isinstance(kind, type)}
HOLE = "\x00"  # stands around what is filled in


@dataclass(frozen=True)
class Message:
    """One construction of an error: the file it stands in, its class, its text with holes, and the exit status."""

    file: str
    kind: str
    text: str
    status: int

    @property
    def shown(self) -> str:
        """With <names> in its holes."""
        return re.sub(f"{HOLE}(.*?){HOLE}", r"<\1>", self.text)

    def looks_like(self, example: str) -> bool:
        """Whether ``example`` may be this message, or holds it as its reason."""
        parts = re.split(f"{HOLE}.*?{HOLE}", " ".join(self.text.split()))
        return re.search(".*".join(map(re.escape, parts)), example) is not None


def messages() -> list[Message]:
    """All of them, by file and line."""
    trees = {}
    for part in ("components", "pipeline", "sida"):
        for path in sorted((ROOT / part).rglob("*.py")):
            trees[path.relative_to(ROOT).as_posix()] = ast.parse(path.read_text(encoding="utf-8"))
    kinds = dict(OWN)
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and (status := _status(node, kinds)) is not None:
                kinds.setdefault(node.name, status)
    return [message for file, tree in trees.items() for message in _messages(file, tree, kinds)]


def _status(node: ast.ClassDef, kinds: dict[str, int]) -> int | None:
    """The exit status of a class that is an error of ours outside of ``sida.errors``."""
    return next((kinds[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in kinds), None)


def _messages(file: str, tree: ast.Module, kinds: dict[str, int]) -> Iterator[Message]:
    known = kinds | {"ArgumentTypeError": 2}
    if file.startswith(REASONS):
        known |= {"ValueError": 2, "YAMLError": 2}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args and _called(node) in known]
    for call in sorted(calls, key=lambda node: node.lineno):
        for text in Reader(tree).texts(call.args[0]):
            if re.search("[A-Za-z]{2}", re.sub(f"{HOLE}.*?{HOLE}", "", text)):  # others pass on what they were told
                yield Message(file, _called(call), text, known[_called(call)])


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


class Reader:
    """What an expression of one module says: its text, with holes where something is filled in."""

    def __init__(self, tree: ast.Module) -> None:
        self._functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def texts(self, node: ast.expr) -> list[str]:
        """One, or several where a condition or a function of the module chooses between them."""
        if isinstance(node, ast.IfExp):
            return self.texts(node.body) + self.texts(node.orelse)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self._functions:
            inside = ast.walk(self._functions[node.func.id])
            return [self._text(each.value) for each in inside if isinstance(each, ast.Return) and each.value]
        return [self._text(node)]

    def _text(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.JoinedStr(values=parts):
                return "".join(map(self._text, parts))
            case ast.FormattedValue(value=inside):
                return self._text(inside)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._text(left) + self._text(right)
            case ast.Name(id=name) if name in self._constants:
                return self._text(self._constants[name])
        return f"{HOLE}{_name(node)}{HOLE}"


def _name(node: ast.expr) -> str:
    """A word for what is filled in."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(attr=name):
            return name
        case ast.Constant(value=value):
            return str(value)
        case ast.Subscript(value=inside) | ast.FormattedValue(value=inside) | ast.Starred(value=inside):
            return _name(inside)
        case ast.Call(func=ast.Attribute(value=ast.Constant()), args=[inside, *_]):  # ', '.join(names)
            return _name(inside)
        case ast.Call(func=ast.Attribute(value=inside), args=[]):  # error.strip()
            return _name(inside)
        case ast.Call(args=[inside, *_]):
            return _name(inside)
        case ast.BinOp(left=inside):
            return _name(inside)
    return "..."


def families() -> list[dict[str, Any]]:
    """Of ``errors.yaml``: title, of (beginnings of paths), example, remedy."""
    import yaml

    found: list[dict[str, Any]] = yaml.safe_load(FAMILIES.read_text(encoding="utf-8"))
    return found


def by_family(found: Iterable[Message]) -> dict[str, list[Message]]:
    """Title -> messages; the family that names most of a file's path has it. Raises KeyError for a file that none names."""
    ways = {beginning: family["title"] for family in families() for beginning in family["of"]}
    sorted_in: dict[str, list[Message]] = {family["title"]: [] for family in families()}
    for message in found:
        fitting = [beginning for beginning in ways if message.file.startswith(beginning)]
        if not fitting:
            raise KeyError(f"{message.file}: name it in scripts/errors.yaml")
        sorted_in[ways[max(fitting, key=len)]].append(message)
    return sorted_in


def page() -> str:
    """The whole file."""
    found = messages()
    lines = [
        "# All errors",
        "",
        "Written by `python -m scripts.errors` from the code; do not edit. Search this page for words of your message.",
        "",
        "A message is one line on stderr: what was found, where, and what to do. `<words>` stand for what is filled in. Status 2",
        "is for you to mend, 1 for what is not your fault; the [reference](reference.md) has both, and the classes.",
        "",
    ]
    sorted_in = by_family(found)
    for family in families():
        lines += [f"## {family['title']}", "", "For example:", "", "```", f"error: {family['example']}", "```", ""]
        lines += [" ".join(family["remedy"].split()), ""]
        rows = {message.shown: message for message in sorted_in[family["title"]]}
        cells = [(f"`` {shown} ``", message.kind, str(message.status)) for shown, message in rows.items()]
        lines += table(("message", "class", "status"), cells)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
