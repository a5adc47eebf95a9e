"""A good small file of each kind that this project reads from others, and what reads it as a run would.

``python -m tests.fuzz.kinds FOLDER``, in limited memory: {name: [message or "read", seconds]} of files called ``...-KIND``.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sida.errors import UserError

NETWORK = {
    "architecture": "ddpmpp",
    "resolution": 8,
    "channels": 1,
    "label_dim": 3,
    "augment_dim": 0,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
FEATURES = 6
MEMORY_BYTES = 600 * 2**20


def _bytes(write: Callable[[Any], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _state() -> dict[str, Any]:
    import torch

    from sida.numerics.networks.build import build_network

    torch.manual_seed(0)
    return dict(build_network(NETWORK).state_dict())


def _pickle(folder: Path) -> bytes:
    from tests.teachers import nvidia

    arguments = {name: NETWORK[name] for name in ("model_channels", "channel_mult", "num_blocks", "attn_resolutions")}
    ema = nvidia.module("EDMPrecond", _state(), (8, 1, 3), model_type="SongUNet", **arguments)
    return nvidia.write(folder / "x", {"ema": ema}).read_bytes()


def _safetensors(folder: Path) -> bytes:
    from sida.teachers.files import save_network

    save_network(folder / "x", _state(), NETWORK)
    return (folder / "x").read_bytes()


def _torch(folder: Path) -> bytes:
    import torch

    return _bytes(lambda file: torch.save(_state(), file))


def _old_torch(folder: Path) -> bytes:
    import torch

    return _bytes(lambda file: torch.save(_state(), file, _use_new_zipfile_serialization=False))


def _training_state(folder: Path) -> bytes:
    import torch

    from tests.teachers.training_state import training_state

    return _bytes(lambda file: torch.save(training_state(NETWORK), file))


def _detector(folder: Path) -> bytes:
    import torch

    from tests.scoring.dinov2_golden import weights

    state = {name: tensor.half() for name, tensor in weights(2, width=64, blocks=1, hidden=16).items()}
    return _bytes(lambda file: torch.save(state, file))


def _statistics() -> dict[str, np.ndarray]:
    features = np.random.default_rng(0).normal(size=(50, FEATURES))
    return {"mu": features.mean(0), "sigma": np.cov(features.T)}


def _image(format: str) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    return _bytes(lambda file: Image.fromarray(pixels).save(file, format))


def _tar(members: dict[str, bytes]) -> bytes:
    def write(file: Any) -> None:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return _bytes(write)


def _cifar() -> bytes:
    data = np.random.default_rng(2).integers(0, 256, (2, 3072), np.uint8)
    batch = pickle.dumps({b"data": data, b"labels": [0, 9]}, 2)
    return _tar({f"cifar-10-batches-py/data_batch_{number}": batch for number in range(1, 6)})


def _zip() -> bytes:
    import zipfile

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(2):
                archive.writestr(f"00000/img{number}.png", _image("PNG"))
            archive.writestr("dataset.json", _labels())

    return _bytes(write)


def _parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    pictures = [{"bytes": _image(name), "path": f"{name}.x"} for name in ("PNG", "JPEG", "BMP")]
    table = pyarrow.table({"image": pictures, "label": [0, 9, 5]})
    return _bytes(lambda file: parquet.write_table(table, file, row_group_size=2))


def _labels() -> bytes:
    return json.dumps({"labels": [["00000/img0.png", 0], ["00000/img1.png", 1]]}).encode()


def _references(folder: Path) -> bytes:
    return pickle.dumps({"fid": _statistics(), "num_images": 50}, 4)


RECIPE = (
    b"extends: digits\nname: mine\nteacher:\n  network: {num_blocks: 2, channel_mult: [1, 2]}\nmethod: {alpha: 1.2}\n"
)

GOOD: dict[str, Callable[[Path], bytes]] = {
    "network.pkl": _pickle,
    "network.pt": _torch,
    "oldnetwork.pt": _old_torch,
    "state.pt": _training_state,
    "network.safetensors": _safetensors,
    "detector.pt": _detector,
    "reference.npz": lambda folder: _bytes(lambda file: np.savez(file, **_statistics())),
    "compressed.npz": lambda folder: _bytes(lambda file: np.savez_compressed(file, **_statistics())),
    "reference.pkl": _references,
    "images.npz": lambda folder: _bytes(lambda file: np.savez(file, arr_0=np.zeros((2, 4, 4, 3), np.uint8))),
    "scored.npz": lambda folder: _bytes(
        lambda file: np.savez(file, arr_0=np.zeros((3, 4, 4, 3), np.uint8), arr_1=np.arange(3))
    ),
    "cifar.tar": lambda folder: _cifar(),
    "edm.zip": lambda folder: _zip(),
    "samples.tar": lambda folder: _tar(
        {"a.png": _image("PNG"), "a.cls": b"0", "b.png": _image("JPEG"), "b.json": b"1"}
    ),
    "samples.parquet": lambda folder: _parquet(),
    "dataset.json": lambda folder: _labels(),
    "latent.npy": lambda folder: _bytes(lambda file: np.save(file, np.ones((8, 4, 4), np.float32))),
    "recipe.yaml": lambda folder: RECIPE,
    **{f"image.{name.lower()}": (lambda folder, name=name: _image(name)) for name in FORMATS},
}


def reader(kind: str) -> Callable[[Path], object]:
    """What reads a kind's file, and checks what it accepts; imports beforehand what it needs."""
    return {**_READERS, **{f"image.{name.lower()}": _read_image for name in FORMATS}}[kind]()


def _read_network(key: str | None = None) -> Callable[[Path], object]:
    from sida.teachers.convert import convert
    from sida.teachers.files import load_network

    _state()

    def read(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = convert(path, Path(folder), label=path.name, key=key, network=NETWORK)
            load_network(made.weights, NETWORK)

    return read


def _read_detector() -> Callable[[Path], object]:
    import torch

    from sida.scoring.detector import load_detector
    from sida.scoring.detector_file import check_detector

    def read(path: Path) -> None:
        check_detector(path, "dinov2")
        assert load_detector(path)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape == (1, 64)

    return read


def _read_reference() -> Callable[[Path], object]:
    import torch

    from sida.scoring.reference_files import read_statistics

    torch.zeros(1).add_(1)

    def read(path: Path) -> None:
        statistics = read_statistics(path, "fid", FEATURES)
        assert statistics.mean.shape == (FEATURES,) and np.isfinite(statistics.covariance).all()
        assert statistics.count is None or statistics.count > 1

    return read


def _read_reference_images() -> Callable[[Path], object]:
    from sida.scoring.reference_files import read_reference_images

    def read(path: Path) -> None:
        images = read_reference_images(path, 4)
        assert images.dtype == np.uint8 and images.shape[1:] == (3, 4, 4)

    return read


def _read_scored_images() -> Callable[[Path], object]:
    from sida.scoring.npz_images import NpzImages

    def read(path: Path) -> None:
        images = NpzImages(path, 3, 3, 4)
        assert [part.shape for part in images.parts(2)] == [(2, 3, 4, 4), (1, 3, 4, 4)]
        assert isinstance(images.labels([1] * 10), str)

    return read


def _read_source(source: str, **fields: Any) -> Callable[[], Callable[[Path], object]]:
    def prepared() -> Callable[[Path], object]:
        from sida.data.decode import Decoder
        from sida.data.entries import Reader, Unreadable
        from sida.data.sources import open_source
        from tests.data.making import section

        dataset = section("x", source, classes=10, **fields)
        decode = Decoder("lanczos", 8, 3)

        def read(path: Path) -> None:
            with tempfile.TemporaryDirectory() as folder:
                found = open_source(dataset.model_copy(update={"address": str(path)}), Path(folder))
                assert found.labels is not None and 0 <= found.labels.min() <= found.labels.max() < 10
                for entry in found.entries:
                    try:
                        decode(Reader().read(entry))
                    except Unreadable as error:
                        raise UserError(f"{path.name}: {entry.name} {error}") from error

        return read

    return prepared


def _reader_of_content(decode: Callable[[bytes], tuple[Any, ...]], shape: tuple[int, ...]) -> Callable[[Path], object]:
    from sida.data.entries import Unreadable

    def read(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = decode(path.read_bytes())[0]
            except Unreadable as error:
                raise UserError(f"{path.name}: {error}") from error
        assert data.shape == shape

    return read


def _read_image() -> Callable[[Path], object]:
    from sida.data.decode import Decoder

    Image.init()
    return _reader_of_content(Decoder("lanczos", 8, 3, "convert"), (3, 8, 8))


def _read_latent() -> Callable[[Path], object]:
    from sida.data.latents import NpyDecoder

    return _reader_of_content(NpyDecoder(4, 4), (8, 4, 4))


def _read_recipe() -> Callable[[Path], object]:
    from sida import recipe

    return lambda path: recipe.load(str(path))


_READERS: dict[str, Callable[[], Callable[[Path], object]]] = {
    "network.pkl": _read_network,
    "network.pt": _read_network,
    "oldnetwork.pt": _read_network,
    "state.pt": lambda: _read_network("G_ema_state"),
    "network.safetensors": _read_network,
    "detector.pt": _read_detector,
    "reference.npz": _read_reference,
    "compressed.npz": _read_reference,
    "reference.pkl": _read_reference,
    "images.npz": _read_reference_images,
    "scored.npz": _read_scored_images,
    "cifar.tar": _read_source("cifar10", resolution=32),
    "edm.zip": _read_source("edm-zip"),
    "samples.tar": _read_source("webdataset"),
    "samples.parquet": _read_source("parquet"),
    "dataset.json": _read_source("labels"),
    "latent.npy": _read_latent,
    "recipe.yaml": _read_recipe,
}


def main(folder: Path) -> None:
    readers = {kind: reader(kind) for kind in GOOD}
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES,) * 2)
    found = {}
    for path in sorted(folder.iterdir()):
        started, said = time.thread_time(), "read"
        try:
            readers[path.name.partition("-")[2]](path)
        except UserError as error:
            said = str(error)
        except Exception as error:
            said = f"TRACEBACK {type(error).__name__}: {error}"
        found[path.name] = (said, round(time.thread_time() - started, 2))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
