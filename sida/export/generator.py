"""Find a finished generator: in a file, or behind a manifest's address; with all that is needed to sample from it."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from sida.addresses import checked, redact
from sida.errors import NotFound, UserError
from sida.foreign.boundary import no_file
from sida.foreign.limits import FILE_BYTES
from sida.manifests import GeneratorResult, RunResult, first_fault, parse_manifest
from sida.origin import store_of
from sida.printing import one_line
from sida.recipe import Network
from sida.scoring.adopt import as_safetensors, called_as, generator_network, said_in
from sida.stores import open_folder, read_address
from sida.stores.objects import fetch_object, sha256_of
from sida.teachers.files import load_network
from sida.teachers.formats import read_network

if TYPE_CHECKING:
    from sida.manifests import Manifest
    from sida.numerics.networks.precondition import Denoiser
    from sida.recipe import Recipe

JSON = (b"{", b"[")  # how a manifest begins
HOW = "give a .safetensors file of `run`, or the address of a generator's or run's manifest"


@dataclass(frozen=True)
class Generator:
    """Finished generator: network in eval mode, how it is called (``sida.numerics.samplers.each_step``), and its origin."""

    denoiser: Denoiser
    network: dict[str, Any]
    sigma_init: float
    steps: int
    licence: str
    about: dict[str, str]  # for people: method, images seen, digests

    @property
    def classes(self) -> int:
        return self.denoiser.label_dim

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.denoiser.img_channels, self.denoiser.img_resolution, self.denoiser.img_resolution


def open_generator(name: str, recipe: Recipe | None = None) -> Generator:
    """Open the generator in a file, or behind an address (file://, s3://).

    ``recipe`` says network and sigma_init of files that do not: published pickles, bare safetensors, which take one step. Nothing
    of a foreign file is executed. Raises UserError when it is neither, or is a teacher, or says otherwise than the recipe.
    """
    name = checked(name, "GENERATOR", ("file", "s3"))
    address = urlsplit(name) if "://" in name else None
    if address is not None and address.scheme != "file":
        return _from_store(name, recipe)
    path = Path(name if address is None else unquote(address.path))
    if problem := no_file(path):
        raise UserError(f"{name}: {problem}: {HOW}")
    with path.open("rb") as file:
        head = file.read(1)
    if head in JSON:
        place = f"file://{path.absolute()}"
        return _from_manifest(read_address(place), name, place)
    return _from_file(path, name, recipe)


def _from_store(address: str, recipe: Recipe | None) -> Generator:
    store, key = open_folder(address)
    try:
        size = store.stat(key).size
        if store.read(key, 0, 1) in JSON:
            return _from_manifest(store.read(key), redact(address), address)
    except NotFound as error:
        raise UserError(f"{redact(address)}: nothing is there: {HOW}") from error
    if size > FILE_BYTES:
        raise UserError(f"{redact(address)}: has {size:,} bytes, which no generator has: {HOW}")
    with tempfile.TemporaryDirectory() as folder:
        if size > (free := shutil.disk_usage(folder).free):
            raise UserError(
                f"{redact(address)}: has {size:,} bytes, and {free:,} are free in {tempfile.gettempdir()}: free space or set TMPDIR"
            )
        path = Path(folder) / ("generator" + Path(urlsplit(address).path).suffix)
        with path.open("wb") as file:
            file.writelines(store.blocks(key, 0, size))
        return _from_file(path, redact(address), recipe)


def _from_manifest(content: bytes, where: str, place: str) -> Generator:
    manifest: Manifest = parse_manifest(content, where)
    store, result = store_of(manifest, place), manifest.result
    if isinstance(result, RunResult):
        return replace(_from_file(fetch_object(store, result.generator), where, None), licence=result.licence)
    if not isinstance(result, GeneratorResult):
        raise UserError(f"{where}: is a {result.kind} manifest, this takes a generator's or a run's")
    about = {"method": result.method, "images seen": f"{result.images_seen:,}", "weights sha256": result.weights.sha256}
    weights, called = fetch_object(store, result.weights), (result.sigma_init, result.steps)
    return _built(weights, result.network, called, result.licence, about)


def _from_file(path: Path, where: str, recipe: Recipe | None) -> Generator:
    """Open a safetensors file with our header; with a recipe, any file that holds the recipe's network."""
    network_file = read_network(path, where)
    about = {"weights sha256": sha256_of(path)[0]}
    if recipe is not None:
        network, called = generator_network(recipe), called_as(recipe, network_file.about, where)
        with tempfile.TemporaryDirectory() as folder:
            weights = as_safetensors(path, network, Path(folder))
            return _built(weights, network, called, recipe.teacher.licence, about)
    said = said_in(network_file.about, where)
    if network_file.network is None or said is None:
        problem = "is a teacher, or made elsewhere" if network_file.network else "does not say which network it holds"
        raise UserError(f"{where}: {problem}: add --recipe, whose teacher.network and method.sigma_init are its own")
    licence = one_line(str(network_file.about.get("licence", "unknown")), 200)
    return _built(path, network_file.network, said, licence, about)


def _built(
    path: Path, network: dict[str, Any], called: tuple[float, int], licence: str, about: dict[str, str]
) -> Generator:
    try:
        checked = Network.model_validate_json(json.dumps(network), strict=True).model_dump(mode="json")
    except ValidationError as error:
        raise UserError(f"{path}: network.{first_fault(error)}: fetch it again") from error
    denoiser = load_network(path, checked).eval().requires_grad_(False)
    return Generator(denoiser, checked, *called, licence, about)
