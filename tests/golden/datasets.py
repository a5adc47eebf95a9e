"""Data sets: inputs, and what NVIDIA's dataset tools made of them, in the folder ``data``; exact.

Where Pillow 13 resizes in another order than its predecessors (``@pillow9.5``), the older result counts: the published sets are
older. Where the tools garbled images silently, the strict modes refuse them.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from sida.data.decode import Decoder
from sida.data.entries import Reader, Unreadable
from sida.data.latents import NpyDecoder, decode_images, encoder_of
from sida.data.sources import Source, open_source
from sida.numerics.latents import RAW_MEANS, RAW_STDS, draw_latent
from sida.numerics.quantize import unit_to_uint8
from sida.recipe import Dataset, Latents
from tests.golden.compare import Case, Checks, Folder

PATTERNS: list[str] = []

TRANSFORMS = {
    "edm_resize_64": ("lanczos", 64),
    "edm_center_crop_64": ("center-crop", 64),
    "edm_center_crop_32": ("center-crop", 32),
    "edm2_center_crop_64": ("center-crop", 64),
    "edm2_center_crop_dhariwal_64": ("center-crop-dhariwal", 64),
    "edm2_resize_64": ("lanczos", 64),
    "edm2_center_crop_dhariwal_512": ("center-crop-dhariwal", 512),
}


def cases(folder: Folder) -> Iterator[Case]:
    """One case for each kind of input."""
    top = folder.path / "data"
    if not top.is_dir():
        return
    yield from (Case(f"datasets/transforms/{run}", partial(_transforms, top / "transforms", run)) for run in TRANSFORMS)
    for name in ("modes", "order", "class_tree", "edm_zip", "cifar10", "latents"):
        yield Case(f"datasets/{name}", partial(globals()[f"_{name}"], top / name))


def section(path: Path, source: str, **fields: Any) -> Dataset:
    """A recipe's dataset section."""
    return Dataset(
        **{"source": source, "address": str(path), "licence": "-", "resolution": 32, "channels": 3, **fields}
    )  # type: ignore[arg-type]


def opened(dataset: Dataset) -> Source:
    with tempfile.TemporaryDirectory() as scratch:
        return open_source(dataset, Path(scratch))


def digest(pixels: np.ndarray) -> str:
    """sha256 of an image [C, H, W] in the order [H, W, C]."""
    return hashlib.sha256(np.ascontiguousarray(pixels.transpose(1, 2, 0)).tobytes()).hexdigest()


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _transforms(top: Path, run: str, checks: Checks) -> None:
    digests = _json(top / "transforms.json")["runs"][run]["digests"]
    decode = Decoder(*TRANSFORMS[run], 3)
    for name, expected in digests.items():
        if "@" not in name:
            pixels = decode((top / "inputs" / name).read_bytes()).data
            checks.true(name, digest(pixels) == digests.get(f"{name}@pillow9.5", expected))


def _modes(top: Path, checks: Checks) -> None:
    runs = {
        "edm_center_crop_32": Decoder("center-crop", 32, 3),
        "edm_resize_32": Decoder("lanczos", 32, 3),
        "edm2_dhariwal_32": Decoder("center-crop-dhariwal", 32, 3, "convert"),
    }
    for name, known in _json(top / "expected.json").items():
        content = (top / "inputs" / name).read_bytes()
        for run, decode in runs.items():
            try:
                pixels = decode(content).data
            except Unreadable:
                garbled = known["pil_mode"] == "P" and decode.modes == "strict"
                checks.true(f"{run}/{name} refused", "error" in known[run] or garbled or known["pil_mode"] == "I;16")
                continue
            if known[run]["mode"] == "L":  # three equal channels here
                checks.true(f"{run}/{name} grey", bool((pixels == pixels[:1]).all()))
                found = hashlib.sha256(np.ascontiguousarray(pixels[0]).tobytes()).hexdigest()
            else:
                found = digest(pixels)
            checks.true(f"{run}/{name}", found == known[run]["sha256"])


def _order(top: Path, checks: Checks) -> None:
    known = _json(top / "expected.json")["runs"]
    labels = dict(zip(known["edm2_folder"]["order"], known["edm2_folder"]["labels"], strict=True))
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(top / "tree.tar") as archive:
            archive.extractall(folder, filter="data")
        sources = {"folder": Path(folder), "zip": top / "tree.zip", "tar": top / "tree.tar"}
        for what, path in sources.items():
            source = opened(section(path, "folder"))
            checks.true(what, [entry.name for entry in source.entries] == known["edm2_folder"]["order"])
            checks.true(f"{what}, without labels", source.labels is None)
        # Images beside class folders are refused here; without them the classes are one less each.
        for name in ("Z.PNG", "root.png"):
            (Path(folder) / name).unlink()
        (Path(folder) / "a" / "notes.txt").unlink()
        source = opened(section(Path(folder), "folder", classes=9))
        assert source.labels is not None
        ours = dict(zip((entry.name for entry in source.entries), source.labels.tolist(), strict=True))
        checks.true("labels", all(label == labels[name] - 1 for name, label in ours.items()))


def _class_tree(top: Path, checks: Checks) -> None:
    known = _json(top / "expected.json")["runs"]
    runs = {
        "edm_center_crop_32_rgb_and_grey": Decoder("center-crop", 32, 3),
        "edm2_dhariwal_64_whole_tree_pillow9": Decoder("center-crop-dhariwal", 64, 3, "convert"),
    }
    source = opened(section(top / "train.tar", "imagenet", classes=5))
    assert source.labels is not None
    whole = known["edm2_dhariwal_64_whole_tree"]
    checks.true("order", [entry.name for entry in source.entries] == whole["order"])
    checks.true("labels", source.labels.tolist() == whole["labels"])
    reader = Reader()
    for run, decode in runs.items():
        digests = dict(zip(known[run]["order"], known[run]["digests"], strict=True))
        for entry in source.entries:
            try:
                checks.true(f"{run}/{entry.name}", digest(decode(reader.read(entry))[0]) == digests[entry.name])
            except Unreadable:
                checks.true(f"{run}/{entry.name} refused", entry.name not in digests)
    nested = opened(section(top / "ILSVRC2012_img_train_mini.tar", "imagenet", classes=5))
    digests = dict(zip(whole["order"], whole["digests"], strict=True))
    decode = Decoder("center-crop-dhariwal", 64, 3)
    for entry in nested.entries:
        if entry.name in digests and not entry.name.endswith("n02085620_326.JPEG"):  # which Pillow 13 resizes otherwise
            checks.true(f"tar of tars/{entry.name}", digest(decode(reader.read(entry))[0]) == digests[entry.name])
    labels = dict(zip(whole["order"], whole["labels"], strict=True))
    assert nested.labels is not None
    names = [entry.name for entry in nested.entries]
    checks.true("tar of tars, order", names == [name for name in whole["order"] if name in names])
    checks.true("tar of tars, labels", nested.labels.tolist() == [labels[name] for name in names])
    reader.close()


def _edm_zip(top: Path, checks: Checks) -> None:
    decode, reader = Decoder("none", 32, 3), Reader()
    for name, classes in (("labelled", 10), ("unlabelled", 0)):
        known = _json(top / f"{name}.expected.json")
        source = opened(section(top / f"{name}.zip", "edm-zip", classes=classes))
        checks.true(f"{name}: order", [entry.name for entry in source.entries] == known["names"])
        found = [digest(decode(reader.read(entry))[0]) for entry in source.entries]
        checks.true(f"{name}: pixels", found == known["pixel_sha256_HWC"])
        if classes:
            assert source.labels is not None
            pairs = [[entry.name, label] for entry, label in zip(source.entries, source.labels.tolist(), strict=True)]
            checks.true(f"{name}: labels", pairs == known["labels"])
    item = _json(top / "reader.expected.json")["edm"]["edm_zip/labelled.zip use_labels=True"]
    source = opened(section(top / "labelled.zip", "edm-zip", classes=10))
    pixels = decode(reader.read(source.entries[1])).data
    checks.true("reader: item 1", hashlib.sha256(pixels.tobytes()).hexdigest() == item["item1_sha256_CHW"])
    reader.close()


def _cifar10(top: Path, checks: Checks) -> None:
    known = _json(top / "expected.json")
    source = opened(section(top / "cifar-10-python.tar.gz", "cifar10", classes=10))
    assert source.images is not None and source.labels is not None
    checks.true("labels", source.labels.tolist() == known["labels"])
    checks.true("pixels", [digest(image) for image in source.images] == known["pixel_sha256_HWC"])


class _StandInVae:
    """Gives the recorded moments, one image a call, and remembers what it saw."""

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        self._moments, self.seen = list(zip(mean, std, strict=True)), []

    def encode(self, pixels: torch.Tensor) -> Any:
        self.mean, self.std = (part[None] for part in self._moments[len(self.seen)])
        self.seen.append(pixels)
        return type("Encoded", (), {"latent_dist": self})

    def decode(self, latents: torch.Tensor) -> Any:
        self.seen.append(latents)
        return type("Decoded", (), {"sample": torch.zeros(1, 3, 2, 2)})


def _latents(top: Path, checks: Checks) -> None:
    golden, known = load_file(top / "arithmetic.safetensors"), _json(top / "expected.json")
    labels = [label for _, label in known["dataset_json"]["labels"]]
    reader = Reader()
    # Encoding
    source = opened(section(top / "pixels.zip", "edm-zip", resolution=64, classes=max(labels) + 1))
    vae = _StandInVae(golden["fake_vae_mean"], golden["fake_vae_std"])
    encode, decode = encoder_of(vae), Decoder("none", 64, 3)
    stored = np.stack([encode(decode(reader.read(entry))[0]) for entry in source.entries])
    checks.exact("what the VAE sees", torch.cat(vae.seen)[:2], golden["vae_input_NCHW"])
    checks.exact("stored", torch.from_numpy(stored), golden["stored"])
    # EDM2's own latents
    latents = Latents(vae="-", licence="-", image_resolution=64)
    fields = {"resolution": 8, "channels": 4, "classes": max(labels) + 1, "latents": latents}
    source = opened(section(top / "latents.zip", "edm-zip", **fields))
    found = np.stack([NpyDecoder(4, 8)(reader.read(entry))[0] for entry in source.entries])
    checks.exact("latents.zip", torch.from_numpy(found), golden["stored"])
    assert source.labels is not None
    checks.true("latents.zip, labels", source.labels.tolist() == labels)
    # And back
    final = draw_latent(golden["stored"], golden["eps"])
    checks.close("final", final, golden["final"], 1e-6, 1e-6)
    back = _StandInVae(golden["fake_vae_mean"], golden["fake_vae_std"])
    decode_images(back, golden["final"], RAW_MEANS, RAW_STDS)
    checks.close("decoder input", torch.cat(back.seen), golden["decoder_input"], 1e-6, 1e-6)
    checks.exact("decoded", unit_to_uint8(golden["decoder_output"]), golden["decoded_uint8"])
    table = torch.arange(256, dtype=torch.uint8).to(torch.float32) / 127.5 - 1
    checks.close("pixels to [-1, 1]", table, golden["rgb_table"], 1e-6, 1e-6)
    reader.close()
