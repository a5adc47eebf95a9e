"""Speed and memory of the data part, against bounds measured in the same run.

    conversion of PNGs and JPEGs   against decoding and resizing alone, on as many processes; at most 1.2 times
    random reads from shards       against a reader of a zip of PNGs (the way of NVIDIA's ImageFolderDataset); at least 10 times
    peak memory                    of a conversion of a fifth of the images, and of all; equal but for the list of names
    CIFAR-10                       prepare_data of a recipe on an archive of published form and size (60,000 images)

``--share 0.1`` makes everything a tenth as large. Exits with 1 when a bound is not held.
"""

from __future__ import annotations

import argparse
import functools
import io
import math
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.making_data import cifar10_archive, edm_zip, jpeg_folder
from sida.recipe import Dataset

CONVERSION_LIMIT, READ_FACTOR = 1.2, 10.0
CHUNK = 64


def section(source: str, path: Path, **fields: Any) -> Dataset:
    return Dataset.model_validate({"source": source, "address": str(path), "licence": "-", "channels": 3, **fields})


# -- the bound: decode and resize, nothing else


@functools.cache
def opened(path: str) -> zipfile.ZipFile:
    """An archive, whose list of members each process reads once."""
    return zipfile.ZipFile(path)


def decode_some(path: str, names: Sequence[str], resolution: int) -> int:
    """Decode images of a folder or zip to arrays and forget them."""
    archive = opened(path) if path.endswith(".zip") else None
    for name in names:
        content = archive.read(name) if archive else Path(path, name).read_bytes()
        image = Image.open(io.BytesIO(content))
        image.load()
        if image.size != (resolution, resolution):
            image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
        np.asarray(image)
    return len(names)


def bound(path: Path, names: Sequence[str], resolution: int, processes: int) -> float:
    """Seconds to decode all on so many processes, their start not counted."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(decode_some, [str(path)] * processes, [names[:1]] * processes, [resolution] * processes))
        parts = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
        started = time.perf_counter()
        futures = [pool.submit(decode_some, str(path), part, resolution) for part in parts]
        assert sum(future.result() for future in futures) == len(names)
        return time.perf_counter() - started


# -- ours


def conversion(dataset: Dataset, folder: Path, processes: int) -> float:
    """Seconds from opened source to published shards (processes started, as for the bound)."""
    from sida.data import convert as converting
    from sida.data.decoding import CHUNK as OURS
    from sida.data.decoding import Decoders
    from sida.data.layout import SHARD_BYTES
    from sida.data.prepare import conversion_of
    from sida.stores import open_store, put_object

    store = open_store(f"file://{folder / 'store'}")
    made = conversion_of(dataset, folder, f"data/{dataset.source}", SHARD_BYTES)
    assert made.decode is not None
    with Decoders(made.decode, processes) as warm:
        converting.reserve(folder / "warm.bin", 3 * OURS * made.layout.itemsize)
        for _ in range(2):  # the second time all have started
            list(
                warm.run(
                    folder / "warm.bin", made.layout, made.source.entries[: 3 * OURS], np.zeros(3 * OURS, np.int32)
                )
            )
        original, converting.Decoders = converting.Decoders, lambda *_: warm  # type: ignore[misc, assignment]
        try:
            started = time.perf_counter()
            converting.convert(made, store, lambda path, name: put_object(store, path, name), folder)
            return time.perf_counter() - started
        finally:
            converting.Decoders = original  # type: ignore[misc]


def processor_ratio(dataset: Dataset, names: Sequence[str], folder: Path) -> float:
    """Processor time of our decoding against the bound's, in this process: what else the machine does hardly disturbs it."""
    from sida.data import convert as converting
    from sida.data.decoding import decode_into
    from sida.data.layout import SHARD_BYTES
    from sida.data.prepare import conversion_of

    made = conversion_of(dataset, folder, "data/processor", SHARD_BYTES)
    assert made.decode is not None
    path = folder / "processor.bin"
    converting.reserve(path, 4 * CHUNK * made.layout.itemsize)
    parts = [slice(start, min(start + CHUNK, len(names))) for start in range(0, min(len(names), 4 * CHUNK), CHUNK)]
    works: list[Callable[[], object]] = [
        lambda: [decode_some(str(dataset.address), names[part], dataset.resolution) for part in parts],
        lambda: [
            decode_into(path, made.layout, part.start, made.source.entries[part], np.zeros(1, np.int32), made.decode)  # type: ignore[arg-type]
            for part in parts
        ],
    ]
    best = [math.inf, math.inf]
    for _ in range(5):
        for place, work in enumerate(works):
            started = time.process_time()
            work()
            best[place] = min(best[place], time.process_time() - started)
    return best[1] / best[0]


def compare_conversion(what: str, dataset: Dataset, names: Sequence[str], work: Path) -> bool:
    """Bound, ours, bound again: the machine may not be ours alone."""
    from sida.data.decoding import cores

    processes, path = cores(), Path(str(dataset.address))
    first = bound(path, names, dataset.resolution, processes)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        ours = conversion(dataset, Path(folder), processes)
        decoding = processor_ratio(dataset, names, Path(folder))
    second = bound(path, names, dataset.resolution, processes)
    ratio = ours / ((first + second) / 2)
    print(
        f"{what}: {len(names) / ours:,.0f} images/s converted; decode and resize alone {len(names) / first:,.0f} and "
        f"{len(names) / second:,.0f}; {ratio:.2f} times the bound (limit {CONVERSION_LIMIT}); "
        f"processor time of decoding {decoding:.2f} times the bound's",
        flush=True,
    )
    return ratio <= CONVERSION_LIMIT


def reads_per_second(read: Callable[[int], Any], count: int, seconds: float = 3.0) -> float:
    """Random reads of single items."""
    rng, done, started = random.Random(0), 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(50):
            read(rng.randrange(count))
        done += 50
    return done / (time.perf_counter() - started)


def compare_reads(path: Path, names: Sequence[str], work: Path) -> bool:
    """Shards in batches of 64, as training reads them, against the zip reader's single items."""
    import torch

    from sida.data.shards import Shards
    from sida.settings import settings
    from sida.stores import open_store

    published = prepare(section("edm-zip", path, resolution=32, classes=10, duplicates="keep"))
    shards = Shards(open_store(settings().store), published.manifest.result)
    archive = zipfile.ZipFile(path)

    def from_zip(index: int) -> np.ndarray:
        with archive.open(names[index]) as file:
            return np.array(Image.open(file)).transpose(2, 0, 1)

    rng = random.Random(0)

    def batch(_: int) -> Any:
        return shards.read(torch.tensor([rng.randrange(len(names)) for _ in range(64)]))

    expected = from_zip(17)
    assert np.array_equal(shards.read(torch.tensor([17]))[0][0].numpy(), expected)
    before, ours, after = (
        reads_per_second(from_zip, len(names)),
        64 * reads_per_second(batch, 1),
        reads_per_second(from_zip, len(names)),
    )
    factor = ours / ((before + after) / 2)
    print(
        f"random reads: {ours:,.0f}/s from shards, {before:,.0f} and {after:,.0f}/s from the zip; {factor:.1f} times "
        f"(at least {READ_FACTOR:g})",
        flush=True,
    )
    return factor >= READ_FACTOR


def prepare(dataset: Dataset) -> Any:
    """The step on a recipe with this dataset section."""
    from sida import recipe
    from sida.data.prepare import prepare_data

    return prepare_data(recipe=recipe.load("digits").model_copy(update={"dataset": dataset}))


# -- memory, in processes of their own


def peak_mib(path: Path, count: int, work: Path) -> float:
    """Peak resident memory of preparing a zip, children included, in a fresh process."""
    code = (
        "import resource, sys; from pathlib import Path; from benchmarks.data import prepare, section\n"
        f"prepare(section('edm-zip', Path({str(path)!r}), resolution=32, classes=10, duplicates='keep'))\n"
        "print('peak', max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024)"
    )
    with tempfile.TemporaryDirectory(dir=work) as store:
        environment = {**os.environ, "SIDA_STORE": f"file://{store}"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"^peak ([\d.]+)", done.stdout, re.M)
    assert found is not None
    return float(found[1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the full sizes (default 1)")
    parser.add_argument("--only", choices=["png", "jpeg", "reads", "memory", "cifar10"], action="append")
    args = parser.parse_args()
    wanted = args.only or ["png", "jpeg", "reads", "memory", "cifar10"]
    good = True
    with tempfile.TemporaryDirectory(prefix="sida-benchmark-") as folder:
        work = Path(folder)
        os.environ["SIDA_STORE"] = f"file://{work / 'store'}"
        os.environ["SIDA_CACHE"] = str(work / "cache")
        count = max(1000, round(50_000 * args.share))
        if {"png", "reads", "memory"} & set(wanted):
            path = edm_zip(work / "a.zip", count)
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".png")]
        if "png" in wanted:
            dataset = section("edm-zip", path, resolution=32, classes=10)
            good &= compare_conversion(f"{count:,} 32x32 PNGs from a zip", dataset, names, work)
        if "jpeg" in wanted:
            number = max(200, round(5_000 * args.share))
            top = jpeg_folder(work / "jpegs", number)
            names_ = [str(p.relative_to(top)) for p in sorted(top.rglob("*.jpg"))]
            dataset = section("folder", top, resolution=64, transform="lanczos")
            good &= compare_conversion(f"{number:,} 500x375 JPEGs to 64x64", dataset, names_, work)
        if "reads" in wanted:
            good &= compare_reads(path, names, work)
        if "memory" in wanted:
            small = peak_mib(edm_zip(work / "b.zip", count // 5), count // 5, work)
            large = peak_mib(path, count, work)
            per_image = (large - small) * 2**20 / (count - count // 5)
            print(
                f"peak memory: {small:.0f} MiB for {count // 5:,} images, {large:.0f} MiB for {count:,}: "
                f"{per_image:,.0f} bytes an image",
                flush=True,
            )
            good &= per_image < 3072  # a record: nothing that grows holds pixels
        if "cifar10" in wanted:
            per_batch = max(200, round(10_000 * args.share))
            archive_path = cifar10_archive(work / "cifar-10-python.tar.gz", per_batch)
            started = time.perf_counter()
            from sida import recipe
            from sida.data.prepare import prepare_data

            published = recipe.load("cifar10-cond")
            fields = {"address": archive_path.as_uri(), "images": 5 * per_batch}
            dataset = published.dataset.model_copy(update=fields)
            result = prepare_data(recipe=published.model_copy(update={"dataset": dataset})).manifest.result
            seconds = time.perf_counter() - started
            print(
                f"CIFAR-10 archive of {6 * per_batch:,} images ({archive_path.stat().st_size / 2**20:.0f} MiB): recipe "
                f"cifar10-cond prepared in {seconds:.1f} s, {result.count:,} images, classes {result.histogram}",
                flush=True,
            )
            good &= result.count == 5 * per_batch
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
