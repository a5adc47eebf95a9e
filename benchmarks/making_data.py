"""Inputs of published form and size, made of seeded noise and gradients: no download, the same bytes every time."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def images_32(count: int, seed: int) -> np.ndarray:
    """uint8 [count, 3, 32, 32]: smooth colors with grain, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 4, 4)).astype(np.int16)
    smooth = coarse.repeat(8, axis=2).repeat(8, axis=3)
    return (smooth + rng.integers(-20, 21, (count, 3, 32, 32), np.int16)).clip(0, 255).astype(np.uint8)


def cifar10_archive(path: Path, per_batch: int = 10_000) -> Path:
    """cifar-10-python.tar.gz as published: six pickles by Python 2 and numpy 1 (protocol 2), the training batches out of order."""
    order = (
        "data_batch_4",
        "test_batch",
        "data_batch_3",
        "batches.meta",
        "data_batch_2",
        "data_batch_5",
        "data_batch_1",
    )
    with gzip.open(path, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        folder = tarfile.TarInfo("cifar-10-batches-py")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, name in enumerate(order):
            content = _meta(per_batch) if name == "batches.meta" else _batch(name, number, per_batch)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _batch(name: str, number: int, count: int) -> bytes:
    """The pickle of one batch, instruction by instruction as cPickle wrote it."""
    labels = np.random.default_rng(100 + number).integers(0, 10, count)
    data = images_32(count, number).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + _text(b"b") + b"\x87R(K\x01"
        + b"M" + struct.pack("<H", count) + b"M\0\x0c\x86cnumpy\ndtype\n" + _text(b"u1") + b"K\0K\x01\x87R(K\x03"
        + _text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T" + struct.pack("<I", len(data)) + data + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels.tolist()) + b"e"
    names = b"](" + b"".join(_text(f"{name}_{index:05d}.png".encode()) for index in range(count)) + b"e"
    fields = {b"data": array, b"labels": numbers, b"batch_label": _text(name.encode()), b"filenames": names}
    return b"\x80\x02}(" + b"".join(_text(key) + value for key, value in fields.items()) + b"u."


def _meta(per_batch: int) -> bytes:
    names = b"](" + b"".join(_text(name.encode()) for name in CLASSES) + b"e"
    count = b"M" + struct.pack("<H", per_batch)
    fields = {b"num_cases_per_batch": count, b"label_names": names, b"num_vis": b"M\0\x0c"}
    return b"\x80\x02}(" + b"".join(_text(key) + value for key, value in fields.items()) + b"u."


def _text(content: bytes) -> bytes:
    return b"U" + bytes([len(content)]) + content


def edm_zip(path: Path, count: int) -> Path:
    """A zip as EDM's tool writes it: stored entries, uncompressed 32x32 PNGs, dataset.json."""
    labels = np.random.default_rng(1).integers(0, 10, count).tolist()
    names = [f"{index // 1000:05d}/img{index:08d}.png" for index in range(count)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, image in zip(names, images_32(count, 7), strict=True):
            archive.writestr(name, _file(image.transpose(1, 2, 0), "PNG", compress_level=0))
        pairs = [list(pair) for pair in zip(names, labels, strict=True)]
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))
    return path


def latents_zip(path: Path, count: int) -> Path:
    """A zip as EDM2's encoder writes it, of latents [8, 2, 2] that take 256 bytes each."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 1000, count).tolist()
    names = [f"{index // 1000:05d}/img-mean-std-{index:08d}.npy" for index in range(count)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            file = io.BytesIO()
            np.save(file, np.abs(rng.standard_normal((8, 2, 2), np.float32)))
            archive.writestr(name, file.getvalue())
        pairs = [list(pair) for pair in zip(names, labels, strict=True)]
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))
    return path


def jpeg_folder(top: Path, count: int) -> Path:
    """500x375 JPEGs of quality 90 in ten class folders."""
    rng = np.random.default_rng(2)
    for number in range(count):
        folder = top / f"class{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (38, 50, 3), np.uint8))
        content = _file(np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)), "JPEG", quality=90)
        (folder / f"{number:06d}.jpg").write_bytes(content)
    return top


def _file(pixels: np.ndarray, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, form, **options)
    return file.getvalue()
