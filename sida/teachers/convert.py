"""Convert a published file to what this project loads: safetensors with a header, and the same facts as JSON beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.foreign import Refused
from sida.foreign.boundary import reading, unreadable
from sida.printing import one_line
from sida.recipe import Network
from sida.stores.objects import sha256_of
from sida.teachers.files import NetworkFile, check_fits, load_network, save_network, wrapper_of
from sida.teachers.formats import read_network, tensors_of


@dataclass(frozen=True)
class Converted:
    """Files that were written, and the architecture they hold."""

    weights: Path
    facts: Path
    network: dict[str, Any]
    source_sha256: str
    tensors: int
    key: str = ""  # which of the file's networks, where that was chosen
    removed_prefix: str = ""  # of a wrapper, from every name
    left_out: tuple[str, ...] = ()  # optimizers' states of the file


def convert(
    path: Path,
    folder: Path,
    *,
    label: str = "",
    key: str | None = None,
    network: Mapping[str, Any] | None = None,
    origin: str = "",
    licence: str = "",
    remedy: str = "free space, or set TMPDIR to a folder with room",
) -> Converted:
    """Write ``<name>.safetensors`` and ``<name>.json`` into ``folder``; nothing appears there unless the network loads.

    ``network`` is a recipe's network section: what the file must hold, and needed where the file does not say itself. EDM2's
    uncertainty head is left out where it has none: NVIDIA's files always hold one, generators do not need it. What a wrapper put
    before every name is taken off. ``key`` chooses among several networks.
    Raises Refused and UserError in one line; where the folder cannot be written, ``remedy`` says what to do.
    """
    from safetensors import SafetensorError

    label = label or str(path)
    before = _state(path, label)
    source = read_network(path, label, key)
    network = agreed_network(source, network, label)
    prefix = wrapper_of(source.tensors, network["architecture"])
    described = {name.removeprefix(prefix): it for name, it in source.shapes().items()}
    left_out = _heads(described, network)
    check_fits(network, {name: shape for name, (_, shape) in described.items() if name not in left_out}, label)
    digest = sha256_of(path)[0]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{path.stem}-{key}" if key else path.stem).strip(".") or "network"
    weights, facts = folder / f"{name}.safetensors", folder / f"{name}.json"
    about = {"format": source.format, "origin": origin or path.name, "source_sha256": digest, "licence": licence}
    about |= {name: value for name, value in source.about.items() if name not in about}
    if prefix:
        about["removed_prefix"] = prefix
    try:
        with made(folder), tempfile.TemporaryDirectory(prefix=".converting-", dir=folder) as temporary:
            draft = Path(temporary) / weights.name
            ours = source.format == "safetensors" and source.network is not None
            if ours and not left_out and not prefix:
                shutil.copyfile(path, draft)
            else:
                with reading(label, path):
                    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors_of(source, path).items()}
                save_network(draft, {name: t for name, t in tensors.items() if name not in left_out}, network, **about)
            load_network(draft, network, label=label)
            told = {
                "network": dict(network),
                **about,
                "weights": weights.name,
                "weights_sha256": sha256_of(draft)[0],
                "tensors": {name: [kind, *shape] for name, (kind, shape) in sorted(described.items())},
            }
            aside = Path(temporary) / facts.name
            aside.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
            if _state(path, label) != before:  # it was opened more than once
                raise UserError(f"{label}: changed while being read: convert it again when nothing writes it")
            os.replace(draft, weights)
            os.replace(aside, facts)
    except (OSError, SafetensorError) as error:  # the latter in place of the former where tensors are written
        reason = error.strerror if isinstance(error, OSError) else one_line(str(error), 80)
        raise UserError(f"{label}: {folder} cannot be written ({reason}): {remedy}") from error
    chosen = str(source.about.get("key", ""))
    return Converted(weights, facts, dict(network), digest, len(source.tensors), chosen, prefix, source.optimizers)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Create a folder for the block; where the block fails, remove what was created and is still empty. Raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):  # something lies in it now
                each.rmdir()
        raise


def _state(path: Path, label: str) -> tuple[int, ...]:
    """Return what is another one once the file was written to or replaced."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(label, path, error) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_as_named(path: Path, network: Mapping[str, Any]) -> bool:
    """Return whether a file of any kind has neither a wrapper's names nor EDM2's uncertainty head where this network has none."""
    names = read_network(path, str(path)).tensors
    return not wrapper_of(names, network["architecture"]) and not _heads(names, network)


def _heads(names: Iterable[str], network: Mapping[str, Any]) -> set[str]:
    """Return the names of EDM2's uncertainty head, if this network has none."""
    if network["architecture"] != "edm2" or network.get("logvar_channels"):
        return set()
    return {name for name in names if name.startswith("logvar_")}


def agreed_network(source: NetworkFile, expected: Mapping[str, Any] | None, label: str) -> dict[str, Any]:
    """Return the architecture that file and recipe agree on. Raises Refused naming the first field in which they differ."""
    if source.problem:
        raise Refused(f"{label} holds a network that this project does not have: {source.problem}")
    if expected is None:
        if source.network is None:
            raise Refused(f"{label} does not say which architecture it holds: name a recipe that does (--recipe)")
        return _complete(source.network, label)
    complete = _complete(expected, label)
    if source.network is not None:
        held = _complete(source.network, label)
        if complete["logvar_channels"] is None:
            held["logvar_channels"] = None  # left out
        for name, value in held.items():
            if value != complete[name]:
                raise Refused(
                    f"{label}: {name} of its network is {value}, the recipe's is {complete[name]}: correct it"
                )
    return complete


def _complete(network: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the section with every field of a recipe's network section, checked as a recipe is."""
    from pydantic import ValidationError

    try:
        return Network.model_validate_json(json.dumps(dict(network)), strict=True).model_dump(mode="json")
    except (ValidationError, TypeError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        field = ".".join(one_line(str(part), 60) for part in first["loc"]) or "architecture"
        message = str(first["msg"]).removeprefix("Value error, ")
        raise Refused(f"{label}: {field} of its network is not one of this project ({message})") from error
