"""The step prepare_data: from a source of images to verified shards."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sida import progress
from sida.data.convert import Conversion, ShardRecord, convert, finished, name_of
from sida.data.decoding import DIGEST_BYTES
from sida.data.duplicates import duplicates, without_dropped
from sida.data.latents import NpyDecoder, check_pinned
from sida.data.layout import SHARD_BYTES, record_dtype
from sida.errors import SidaError, UserError
from sida.launch.job import run_job
from sida.launch.spec import EncodeSpec
from sida.layout import data_folder
from sida.manifests import DatasetResult, Excluded, LatentsInfo, Shard, digest_of
from sida.printing import one_line
from sida.process.scratch import scratch_folder
from sida.progress import Progress
from sida.recipe import Dataset, Recipe
from sida.steps import Made, StepRun, step

if TYPE_CHECKING:
    from sida.data.sources import Source

LOSSY_FILES = "lossy_files"  # the note that says how many files were compressed with loss
NAMED = 3  # bad images named in a message; the listing names all


def _asks(recipe: Recipe) -> dict[str, Any]:
    return recipe.dataset.model_dump(mode="json", exclude={"address"})


def _repeats(made: Made[DatasetResult]) -> dict[str, Any]:
    dataset, result, identity = made.recipe.dataset, made.result, made.about.parameters["identity"]
    fields = _described(dataset)
    if "sha256" in identity:
        fields["source_sha256"] = identity["sha256"]
    if result.shards or result.histogram:
        fields["count"] = sum(shard.count for shard in result.shards) if result.shards else sum(result.histogram)
    if result.histogram and sum(result.histogram) != result.count:
        raise UserError(f"its classes hold {sum(result.histogram):,} images, and it {result.count:,}")
    return fields


def _described(dataset: Dataset) -> dict[str, Any]:
    """Return the fields of the result that are the recipe's."""
    return {name: getattr(dataset, name) for name in ("source", "licence", "channels", "resolution", "classes")}


@step(version=2, sources=("sida/data",), asks=_asks, repeats=_repeats)
def prepare_data(run: StepRun, recipe: Recipe) -> DatasetResult:
    """Turn the recipe's images into verified shards.

    Returns:
        The training set as shards, by address and digest.
    """
    from sida.data.identity import identify

    dataset = recipe.dataset
    identity = identify(dataset)
    run.claim({"identity": identity})
    with scratch_folder() as folder:
        result = _prepare(run, identity, folder)
    if identify(dataset) != identity:
        for key in run.store.list(_work(run, identity)):  # shards that hold something else than their key says
            run.store.delete(key)
        raise UserError(f"{dataset.address}: changed while being read: run again when nothing writes it")
    return result


def _prepare(run: StepRun, identity: dict[str, str], folder: Path) -> DatasetResult:
    dataset, work = run.recipe.dataset, _work(run, identity)
    started = time.monotonic()
    conversion = conversion_of(dataset, folder, work, SHARD_BYTES)
    total = len(conversion.source)
    if conversion.image_layout is not None:
        reused = run_job(run, EncodeSpec(work=work, shard_bytes=SHARD_BYTES)).reused
    else:
        bar = Progress(run.step.name, total, "images")
        reused = convert(conversion, run.store, run.put, folder, progress=bar.update)
    if reused:
        run.note(f"{reused} of {conversion.shards} shards were there already")
    records = []
    for number in range(conversion.shards):
        record = finished(run.store, conversion, number)
        if record is None:
            raise SidaError(f"{conversion.source.place}: shard {number} is not in the store: run again")
        records.append(record)
    run.notes["images_per_second"] = round(total / max(time.monotonic() - started, 1e-9), 1)
    return _assemble(run, dataset, identity, conversion, records, folder)


def _work(run: StepRun, identity: dict[str, str]) -> str:
    """Return the folder of what has been converted of the data of this identity."""
    parts = run.recipe.dataset.model_dump(
        mode="json", exclude={"address", "unreadable", "duplicates", "images", "licence"}
    )
    digest = digest_of([parts, identity, SHARD_BYTES, decoder_name(), run.step.code()])
    return data_folder(digest, run.attempt if run.anew else None)


def conversion_of(dataset: Dataset, folder: Path, work: str, shard_bytes: int) -> Conversion:
    """Return the conversion that the dataset section asks for. Raises UserError if source and recipe do not fit."""
    from sida.data.decode import Decoder
    from sida.data.sources import LATENT_ENDING, is_heic, open_source

    source = open_source(dataset, folder)
    if source.ignored:
        examples = f", such as {', '.join(source.ignored_examples)}" if source.ignored_examples else ""
        convert = "; HEIC is not read: convert it to JPEG first" if any(map(is_heic, source.ignored_examples)) else ""
        said = f"{source.place}: {source.ignored:,} files are no images, left out{examples}{convert}"
        progress.note("prepare_data", said)
    if not source.entries and source.images is None:
        return Conversion(source, "labels", record_dtype("labels", 0, 0), shard_bytes, work)
    if dataset.latents is not None:
        latents = Conversion(
            source, "latents", record_dtype("latents", dataset.channels, dataset.resolution), shard_bytes, work
        )
        if source.entries and source.entries[0].name.endswith(LATENT_ENDING):
            return replace(latents, decode=NpyDecoder(dataset.channels, dataset.resolution))
        check_pinned(dataset.latents)
        size = dataset.latents.image_resolution
        decoder = Decoder(dataset.transform, size, 3, dataset.modes)
        return replace(latents, decode=decoder, image_layout=record_dtype("pixels", 3, size))
    layout = record_dtype("pixels", dataset.channels, dataset.resolution)
    pixels = Conversion(source, "pixels", layout, shard_bytes, work)
    if source.images is not None:
        if source.images.shape[1:] != layout["data"].shape:
            raise UserError(
                f"{source.place}: holds images {list(source.images.shape[1:])}, the recipe says {dataset.channels} channels "
                f"at {dataset.resolution}x{dataset.resolution}: correct dataset.channels and dataset.resolution"
            )
        return pixels
    if dataset.channels not in (1, 3):
        raise UserError(f"dataset.channels {dataset.channels}: images have 1 or 3")
    return replace(pixels, decode=Decoder(dataset.transform, dataset.resolution, dataset.channels, dataset.modes))


def decoder_name() -> str:
    """Return the version of Pillow and of its JPEG library: another one may differ by a level."""
    from PIL import __version__, features

    return f"Pillow {__version__}, libjpeg {features.version('jpg')}"


def _assemble(
    run: StepRun,
    dataset: Dataset,
    identity: dict[str, str],
    conversion: Conversion,
    records: list[ShardRecord],
    folder: Path,
) -> DatasetResult:
    """Apply the policies for bad images, and describe the whole."""
    from sida.data.picture import draw_picture
    from sida.data.shards import Shards

    source, store = conversion.source, run.store
    contents = b"".join(store.read(record.digests.key) for record in records)
    digests = np.frombuffer(contents, np.uint8).reshape(-1, DIGEST_BYTES)
    readable = np.ones(len(digests), bool)
    if source.entries:
        readable &= digests.any(axis=1)
    unreadable = [pair for record in records for pair in record.unreadable]
    doubles = duplicates(digests)
    listing = None
    if unreadable or doubles:
        same = [(name_of(source, index), name_of(source, first)) for index, first in doubles]
        listing = run.put(
            json.dumps({"unreadable": unreadable, "duplicates": same}, indent=1).encode(), "bad-images.json"
        )
        _report_bad_images(run, source, unreadable, same, store.address_of(listing.key))
    shards: Sequence[Shard] = [record.shard for record in records if record.shard.count]
    if doubles and dataset.duplicates == "skip":
        dropped = np.zeros(len(digests), bool)
        dropped[[index for index, _ in doubles]] = True
        shards = without_dropped(conversion, records, readable, dropped, store, run.put, folder)
        readable &= ~dropped
    count = int(readable.sum())
    if count == 0:
        raise UserError(f"{source.place}: no readable image among {len(source):,}, e.g. {': '.join(unreadable[0])}")
    labels = None if source.labels is None or not dataset.classes else source.labels[readable]
    histogram = () if labels is None else tuple(np.bincount(labels, minlength=dataset.classes).tolist())
    for note in source.notes:
        run.note(f"{source.place}: {note}")
    if cropped := sum(record.cropped for record in records):
        left_out, pixels = sum(record.left_out for record in records), sum(record.uncropped for record in records)
        run.note(
            f"{cropped:,} of {len(source):,} images are not square: {dataset.transform} left out {left_out:,} of their "
            f"{pixels:,} pixels ({left_out / pixels:.1%})"
        )
        run.notes |= {"pixels_left_out": left_out, "share_left_out": round(left_out / pixels, 4)}
    if conversion.record == "pixels" and all(record.lossy is not None for record in records):
        run.notes[LOSSY_FILES] = sum(record.lossy or 0 for record in records)
    if 0 in histogram:
        run.note(f"{histogram.count(0)} of {dataset.classes} classes have no image, e.g. {histogram.index(0)}")
    content = (
        identity.get("sha256") or hashlib.sha256("".join(record.content for record in records).encode()).hexdigest()
    )
    if dataset.sha256 and "sha256" not in identity and "listing" in identity and dataset.sha256 != content:
        raise UserError(f"{source.place}: sha256 over its files is {content}, the recipe expects {dataset.sha256}")
    result = DatasetResult(
        record=conversion.record,
        source_sha256=content if identity else "",
        decoder=decoder_name() if source.entries or source.decoded else "",
        latents=_latents_info(dataset, conversion, identity),
        transform=source.made_by or dataset.transform,
        count=count,
        **_described(dataset),
        histogram=histogram,
        class_names=source.class_names,
        excluded=Excluded(
            unreadable=len(unreadable),
            duplicates=len(doubles) if dataset.duplicates == "skip" else 0,
            kept_duplicates=len(doubles) if dataset.duplicates == "keep" else 0,
            ignored_files=source.ignored,
            rotated=sum(record.rotated for record in records),
            listing=listing,
        ),
        shards=tuple(shards),
    )
    if result.record == "labels":
        return result
    path = folder / "dataset.png"
    draw_picture(path, Shards(store, result), result)
    return result.model_copy(update={"picture": run.put(path, path.name)})


def _report_bad_images(
    run: StepRun, source: Source, unreadable: list[tuple[str, str]], same: list[tuple[str, str]], listing: str
) -> None:
    """Report what is wrong; raise UserError if the policy is to fail."""
    dataset = run.recipe.dataset
    problems, remedies = [], []
    for pairs, problem, joint, policy, remedy in (
        (unreadable, "unreadable", " ", dataset.unreadable, "set dataset.unreadable to skip"),
        (same, "duplicates", " = ", dataset.duplicates, "set dataset.duplicates to skip, or to keep as published"),
    ):
        if pairs:
            examples = "; ".join(joint.join(pair) for pair in pairs[:NAMED])
            problems.append(f"{len(pairs):,} of {len(source):,} images are {problem} ({examples})")
            if policy == "fail":
                remedies.append(remedy)
    text = f"{one_line(source.place, 40)}: {' and '.join(problems)}: listed in {listing}"
    if remedies:
        raise UserError(f"{text}; mend the source, or {' and '.join(remedies)} (finished shards are kept)")
    run.note(text)


def _latents_info(dataset: Dataset, conversion: Conversion, identity: dict[str, str]) -> LatentsInfo | None:
    if dataset.latents is None or conversion.record != "latents":
        return None
    vae_sha256 = identity.get("vae") if conversion.image_layout is not None else None
    return LatentsInfo(**dataset.latents.model_dump(), vae_sha256=vae_sha256)
