"""The step prepare_data: from a source of images to verified shards."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida import progress
from sida.data.decoding import DIGEST_BYTES
from sida.data.latents import NpyDecoder, check_pinned
from sida.data.layout import SHARD_BYTES, record_dtype
from sida.errors import SidaError, UserError
from sida.launch.job import run_job
from sida.launch.spec import EncodeSpec
from sida.layout import data_folder
from sida.manifests import DatasetResult, Excluded, LatentsInfo, Shard, digest_of
from sida.process.scratch import scratch_folder
from sida.progress import Progress
from sida.recipe import Dataset, Recipe
from sida.steps import StepRun, step

if TYPE_CHECKING:
    from sida.data.convert import Conversion, Made

NAMED = 3  # bad images named in a message; the listing names all


@step(version=2, sources=("sida/data",))
def prepare_data(run: StepRun, recipe: Recipe) -> DatasetResult:
    """Turn the recipe's images into verified shards.

    Returns:
        The training set as shards, by address and digest.
    """
    from sida.data.identity import identify

    dataset = recipe.dataset
    identity = identify(dataset)
    run.claim(dataset.model_dump(mode="json", exclude={"address"}) | {"identity": identity})
    with scratch_folder() as folder:
        return _prepare(run, identity, folder)


def _prepare(run: StepRun, identity: dict[str, str], folder: Path) -> DatasetResult:
    from sida.data.convert import convert, finished

    dataset = run.recipe.dataset
    parts = dataset.model_dump(mode="json", exclude={"address", "unreadable", "duplicates", "images", "licence"})
    digest = digest_of([parts, identity, SHARD_BYTES, decoder_name(), run.step.code()])
    work = data_folder(digest, run.attempt if run.anew else None)
    started = time.monotonic()
    conversion = conversion_of(dataset, folder, work, SHARD_BYTES)
    total = len(conversion.source)
    if conversion.image_layout is not None:
        reused = run_job(run, EncodeSpec(work=work, shard_bytes=SHARD_BYTES)).reused
    else:
        shown, done = Progress(run.step.name, total, "images"), 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            shown.update(done)

        reused = convert(conversion, run.store, run.put, folder, progress=advance)
    if reused:
        run.note(f"{reused} of {conversion.shards} shards were there already")
    shards = [finished(run.store, conversion, number) for number in range(conversion.shards)]
    if None in shards:
        raise SidaError(f"{conversion.source.where}: shard {shards.index(None)} is not in the store: run again")
    run.notes["images_per_second"] = round(total / max(time.monotonic() - started, 1e-9), 1)
    return _assemble(run, dataset, identity, conversion, [one for one in shards if one is not None], folder)


def conversion_of(dataset: Dataset, folder: Path, work: str, shard_bytes: int) -> Conversion:
    """Return the conversion that the dataset section asks for. Raises UserError if source and recipe do not fit."""
    from sida.data.convert import Conversion
    from sida.data.decode import Decoder
    from sida.data.sources import LATENT_ENDING, open_source

    source = open_source(dataset, folder)
    if source.ignored:
        examples = f", such as {', '.join(source.ignored_examples)}" if source.ignored_examples else ""
        progress.note("prepare_data", f"{source.where}: {source.ignored:,} files are no images, left out{examples}")
    if not source.entries and source.images is None:
        return Conversion(source, record_dtype("labels", 0, 0), shard_bytes, work)
    if dataset.latents is not None:
        layout = record_dtype("latents", dataset.channels, dataset.resolution)
        if source.entries and source.entries[0].name.endswith(LATENT_ENDING):
            return Conversion(source, layout, shard_bytes, work, NpyDecoder(dataset.channels, dataset.resolution))
        check_pinned(dataset.latents)
        size = dataset.latents.image_resolution
        decoder = Decoder(dataset.transform, size, 3, dataset.modes)
        return Conversion(source, layout, shard_bytes, work, decoder, record_dtype("pixels", 3, size))
    layout = record_dtype("pixels", dataset.channels, dataset.resolution)
    if source.images is not None:
        if source.images.shape[1:] != layout["data"].shape:
            raise UserError(
                f"{source.where}: holds images {list(source.images.shape[1:])}, the recipe says {dataset.channels} channels "
                f"at {dataset.resolution}x{dataset.resolution}: correct dataset.channels and dataset.resolution"
            )
        return Conversion(source, layout, shard_bytes, work)
    if dataset.channels not in (1, 3):
        raise UserError(f"dataset.channels {dataset.channels}: images have 1 or 3")
    decoder = Decoder(dataset.transform, dataset.resolution, dataset.channels, dataset.modes)
    return Conversion(source, layout, shard_bytes, work, decoder)


def decoder_name() -> str:
    """Return the version of Pillow and of its JPEG library: another one may differ by a level."""
    from PIL import __version__, features

    return f"Pillow {__version__}, libjpeg {features.version('jpg')}"


def _assemble(
    run: StepRun, dataset: Dataset, identity: dict[str, str], conversion: Conversion, made: list[Made], folder: Path
) -> DatasetResult:
    """Apply the policies for bad images, and describe the whole."""
    import numpy as np

    from sida.data.convert import duplicates, name_of
    from sida.data.duplicates import without
    from sida.data.picture import draw_picture
    from sida.data.shards import Shards

    source, store = conversion.source, run.store
    digests = np.concatenate(
        [np.frombuffer(store.read(one.digests.key), np.uint8).reshape(-1, DIGEST_BYTES) for one in made]
    )
    readable = np.ones(len(digests), bool)
    if source.entries:
        readable &= digests.any(axis=1)
    unreadable = [pair for one in made for pair in one.unreadable]
    doubles = duplicates(digests)
    listing = None
    if unreadable or doubles:
        same = [[name_of(source, index), name_of(source, first)] for index, first in doubles]
        listing = run.put(
            json.dumps({"unreadable": unreadable, "duplicates": same}, indent=1).encode(), "bad-images.json"
        )
        _judge(run, dataset, source.where, len(source), unreadable, same, store.address_of(listing.key))
    shards: Sequence[Shard] = [one.shard for one in made if one.shard.count]
    if doubles and dataset.duplicates == "skip":
        dropped = np.zeros(len(digests), bool)
        dropped[[index for index, _ in doubles]] = True
        shards = without(conversion, made, readable, dropped, store, run.put, folder)
        readable &= ~dropped
    count = int(readable.sum())
    if count == 0:
        raise UserError(f"{source.where}: no readable image among {len(source):,}, e.g. {': '.join(unreadable[0])}")
    labels = None if source.labels is None or not dataset.classes else source.labels[readable]
    histogram = () if labels is None else tuple(np.bincount(labels, minlength=dataset.classes).tolist())
    if 0 in histogram:
        run.note(f"{histogram.count(0)} of {dataset.classes} classes have no image, e.g. {histogram.index(0)}")
    content = identity.get("sha256") or hashlib.sha256("".join(one.content for one in made).encode()).hexdigest()
    if dataset.sha256 and "sha256" not in identity and "listing" in identity and dataset.sha256 != content:
        raise UserError(f"{source.where}: sha256 over its files is {content}, the recipe expects {dataset.sha256}")
    result = DatasetResult(
        record=_record(conversion),
        source=dataset.source,
        source_sha256=content if identity else "",
        decoder=decoder_name() if source.entries else "",
        latents=_latents_info(dataset, conversion, identity),
        transform=source.made_by or dataset.transform,
        licence=dataset.licence,
        count=count,
        channels=dataset.channels,
        resolution=dataset.resolution,
        classes=dataset.classes,
        histogram=histogram,
        excluded=Excluded(
            unreadable=len(unreadable),
            duplicates=len(doubles) if dataset.duplicates == "skip" else 0,
            kept_duplicates=len(doubles) if dataset.duplicates == "keep" else 0,
            ignored_files=source.ignored,
            rotated=sum(one.rotated for one in made),
            listing=listing,
        ),
        shards=tuple(shards),
    )
    if result.record == "labels":
        return result
    path = folder / "dataset.png"
    draw_picture(path, Shards(store, result), result)
    return result.model_copy(update={"picture": run.put(path, path.name)})


def _judge(
    run: StepRun, dataset: Dataset, where: str, total: int, unreadable: list[Any], same: list[Any], listed: str
) -> None:
    """Report what is wrong; raise UserError if the policy is to fail."""
    said, remedies = [], []
    if unreadable:
        examples = "; ".join(f"{name} {reason}" for name, reason in unreadable[:NAMED])
        said.append(f"{len(unreadable):,} of {total:,} images are unreadable ({examples})")
        if dataset.unreadable == "fail":
            remedies.append("set dataset.unreadable to skip")
    if same:
        examples = "; ".join(f"{name} = {first}" for name, first in same[:NAMED])
        said.append(f"{len(same):,} of {total:,} images are duplicates ({examples})")
        if dataset.duplicates == "fail":
            remedies.append("set dataset.duplicates to skip, or to keep as published")
    text = f"{where}: {' and '.join(said)}: listed in {listed}"
    if remedies:
        raise UserError(f"{text}; mend the source, or {' and '.join(remedies)} (finished shards are kept)")
    run.note(text)


def _record(conversion: Conversion) -> Any:
    if conversion.layout["data"].base == "float32":
        return "latents"
    return "pixels" if conversion.layout["data"].itemsize else "labels"


def _latents_info(dataset: Dataset, conversion: Conversion, identity: dict[str, str]) -> LatentsInfo | None:
    if dataset.latents is None or _record(conversion) != "latents":
        return None
    latents = dataset.latents
    return LatentsInfo(
        vae=latents.vae,
        revision=latents.revision,
        vae_sha256=identity.get("vae") if conversion.image_layout is not None else None,
        image_resolution=latents.image_resolution,
        raw_mean=latents.raw_mean,
        raw_std=latents.raw_std,
        licence=latents.licence,
    )
