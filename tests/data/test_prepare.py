"""The step prepare_data: what it publishes, what it does about bad images, and how it survives."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sida.data.prepare
from sida.data.decode import Decoder
from sida.data.layout import record_dtype
from sida.data.shards import Shards
from sida.errors import UserError
from sida.manifests import DatasetResult
from sida.settings import settings
from sida.stores import open_store
from tests.conftest import ROOT
from tests.data.making import GOLDEN, class_folders, png, prepare, result


def shards_of(found: object) -> Shards:
    return Shards(open_store(settings().store), found)  # type: ignore[arg-type]


def test_a_folder_of_classes_becomes_its_images_in_order_with_their_labels(place_on: Path, tmp_path: Path) -> None:
    top = class_folders(tmp_path / "images", 20)
    found = result(top, classes=2)
    assert (found.count, found.histogram, found.record) == (20, (10, 10), "pixels")
    assert found.decoder.startswith("Pillow ")
    shards = shards_of(found)
    images, labels = shards.read(torch.arange(20))
    decode = Decoder("lanczos", 8, 3)
    files = sorted(top.rglob("*.png"))
    assert np.array_equal(images.numpy(), np.stack([decode(path.read_bytes())[0] for path in files]))
    assert labels.tolist() == [0] * 10 + [1] * 10
    assert found.picture is not None
    store = open_store(settings().store)
    assert Image.open(io.BytesIO(store.read(found.picture.key))).size[0] > 500


def test_many_processes_make_the_shards_that_one_makes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = class_folders(tmp_path / "images", 300)
    monkeypatch.setattr("sida.data.prepare.SHARD_BYTES", 140 * 200)
    monkeypatch.setattr("sida.data.decoding.cores", lambda: 2)
    many = result(top, classes=2)
    monkeypatch.setattr("sida.data.decoding.cores", lambda: 1)
    monkeypatch.setenv("SIDA_STORE", f"file://{tmp_path / 'other'}")
    one = result(top, classes=2)
    assert many.shards == one.shards
    assert len(many.shards) == 3


def test_a_second_run_reuses_and_a_touched_source_is_read_again(place: Path, tmp_path: Path) -> None:
    top = class_folders(tmp_path / "images", 4)
    assert [prepare(top).reused, prepare(top).reused] == [False, True]
    (top / "a" / "00000.png").write_bytes(png(77))
    again = prepare(top)
    assert not again.reused
    assert not prepare(top, attempt="new").reused


def test_a_source_that_is_written_to_while_it_is_read_gives_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = class_folders(tmp_path / "images", 4)
    convert = sida.data.prepare.convert

    def convert_another(*given: Any, **named: Any) -> int:
        (top / "a" / "00000.png").write_bytes(png(77))
        return convert(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(sida.data.prepare, "convert", convert_another)
        with pytest.raises(UserError, match="changed while being read"):
            prepare(top)
    store = open_store(settings().store)
    assert not store.list("steps/") and not [key for key in store.list("data/") if "shard" in key]
    assert not prepare(top).reused


def test_the_cifar10_archive_is_its_training_images_in_published_order(place_on: Path) -> None:
    path = GOLDEN / "cifar10" / "cifar-10-python.tar.gz"
    found = result(path, "cifar10", classes=10, resolution=32, transform="none", images=100)
    known = json.loads((GOLDEN / "cifar10" / "expected.json").read_text())
    _, labels = shards_of(found).read(torch.arange(100))
    assert labels.tolist() == known["labels"]
    assert found.source_sha256 == known["archive_sha256"]


def test_cifar10_unpacked_or_in_torchvision_s_folder_is_what_the_archive_is(place: Path, tmp_path: Path) -> None:
    fields = {"source": "cifar10", "classes": 10, "resolution": 32, "transform": "none", "images": 100}
    archive = GOLDEN / "cifar10" / "cifar-10-python.tar.gz"
    packed = prepare(archive, **fields)
    root = tmp_path / "torchvision"
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    batches = root / "cifar-10-batches-py"
    (batches / "._data_batch_1").write_bytes(b"Mac OS X")
    found = result(batches, **fields)
    assert isinstance(packed.manifest.result, DatasetResult)
    expected = packed.manifest.result
    assert (found.shards, found.histogram, found.count) == (expected.shards, expected.histogram, 100)
    pixels = np.memmap(
        open_store(settings().store).local_path(found.shards[0].object.key), record_dtype("pixels", 3, 32)
    )
    each = b"".join(hashlib.sha256(np.ascontiguousarray(record["data"])).digest() for record in pixels)
    assert found.source_sha256 == hashlib.sha256(hashlib.sha256(each).hexdigest().encode()).hexdigest()
    assert result(root, **fields) == found
    shutil.copy(archive, root)
    assert prepare(root, **fields).reused  # the archive counts where both are: its digest is the published one
    (batches / "data_batch_3").unlink()
    with pytest.raises(UserError, match="no cifar-10-batches-py/data_batch_3 in it"):
        prepare(batches, **fields)


def test_an_archive_behind_an_address_is_fetched_once(place: Path, tmp_path: Path) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(GOLDEN / "cifar10"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/cifar-10-python.tar.gz"
        found = result(address, "cifar10", classes=10, resolution=32, transform="none")
        server.shutdown()
    assert found.count == 100
    assert prepare(address, "cifar10", classes=10, resolution=32, transform="none").reused  # the server is gone


def test_labels_alone_are_a_data_set_for_data_free_distillation(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": [["b", 1], ["a", 0], ["c", 1]]}))
    found = result(path, "labels", classes=2, resolution=64, channels=4, transform="none")
    x, c = shards_of(found).batch(torch.arange(3))
    assert x.shape == (3, 4, 64, 64)
    assert c.argmax(1).tolist() == [0, 1, 1]
    assert found.histogram == (1, 2)


# -- bad images


def spoilt(tmp_path: Path) -> Path:
    """Ten images: one is cut, one is text, two are copies of others."""
    top = class_folders(tmp_path / "images", 6)
    (top / "a" / "cut.png").write_bytes(png(50)[:-200])
    (top / "a" / "text.png").write_bytes(b"not an image")
    (top / "b" / "copy.png").write_bytes(png(0))
    (top / "b" / "other.png").write_bytes(png(1))
    return top


def test_bad_images_and_duplicates_fail_by_default_and_are_all_named(place_on: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 10 images are unreadable .*a/cut.png.*a/text.png.* and 2 of ") as caught:
        prepare(spoilt(tmp_path))
    text = str(caught.value)
    assert "dataset.unreadable to skip" in text and "dataset.duplicates to skip" in text
    store = open_store(settings().store)
    assert not [key for key in store.list("steps/prepare_data/") if key.endswith("1.json")]


def test_skipping_leaves_bad_images_out_counts_and_lists_them(
    place_on: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sida.data.prepare.SHARD_BYTES", 3 * 200)  # three records: some shards lose all, some one
    top = spoilt(tmp_path)
    with pytest.raises(UserError):
        prepare(top, classes=2)
    capsys.readouterr()
    found = result(top, classes=2, unreadable="skip", duplicates="skip")
    assert "4 of 4 shards were there already" in capsys.readouterr().err  # what failed is not decoded again
    assert (found.count, found.histogram) == (6, (3, 3))
    assert (found.excluded.unreadable, found.excluded.duplicates) == (2, 2)
    _, labels = shards_of(found).read(torch.arange(6))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.excluded.listing is not None
    listed = json.loads(open_store(settings().store).read(found.excluded.listing.key))
    assert [name for name, _ in listed["unreadable"]] == ["a/cut.png", "a/text.png"]
    assert listed["duplicates"] == [["b/copy.png", "a/00000.png"], ["b/other.png", "b/00001.png"]]


def test_duplicates_can_be_kept_as_published_and_are_still_counted(place: Path, tmp_path: Path) -> None:
    found = result(spoilt(tmp_path), unreadable="skip", duplicates="keep")
    assert (found.count, found.excluded.kept_duplicates, found.excluded.duplicates) == (8, 2, 0)


def test_a_source_without_a_single_readable_image_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"text")
    with pytest.raises(UserError, match="no readable image among 1"):
        prepare(tmp_path / "images", unreadable="skip")


def test_images_of_another_size_are_refused_where_nothing_resizes_them(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is 12x10, not 8x8"):
        prepare(class_folders(tmp_path / "images", 2), transform="none")


def test_rotation_by_exif_is_ignored_and_counted(place: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("exif6.jpg", "exif3.png", "rgb.bmp"):
        (tmp_path / "images" / name).write_bytes((GOLDEN / "modes" / "inputs" / name).read_bytes())
    assert result(tmp_path / "images").excluded.rotated == 2
    upright = result(tmp_path / "images", transform="center-crop-upright")
    assert upright.excluded.rotated == 0


def test_photographs_of_ones_own_are_turned_as_their_exif_says() -> None:
    content = (GOLDEN / "modes" / "inputs" / "exif6.jpg").read_bytes()
    lying, ignored, *_ = Decoder("center-crop", 8, 3)(content)
    upright, still_ignored, *_ = Decoder("center-crop-upright", 8, 3)(content)
    assert (ignored, still_ignored) == (True, False)
    assert (
        np.abs(np.rot90(lying, -1, axes=(1, 2)).astype(int) - upright).max() <= 2
    )  # 6: a quarter turn clockwise; rounding


def test_files_that_are_no_images_are_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDA_EVENTS", str(tmp_path / "events"))
    images = class_folders(tmp_path / "images", 2)
    for name in (".DS_Store", "._IMG_0001.jpg", "IMG_0001.AAE", "IMG_0001.HEIC"):
        (images / name).write_bytes(b"from a telephone")
    assert prepare(images)
    told = (tmp_path / "events").read_text()
    assert "4 files are no images, left out, such as IMG_0001.HEIC, IMG_0001.AAE, .DS_Store" in told
    assert "HEIC is not read: convert it to JPEG first" in told
    (tmp_path / "telephone").mkdir()
    (tmp_path / "telephone" / "IMG_0002.heif").write_bytes(b"from a telephone")
    with pytest.raises(UserError, match="telephone: no images in it: HEIC is not read: convert it to JPEG first"):
        prepare(tmp_path / "telephone")


# -- kills and full disks

CHILD = """
import sys, time
from pathlib import Path
import sida.data.prepare
from sida.data import convert
sida.data.prepare.SHARD_BYTES = 60 * 200
fill = convert._fill
def slowly(conversion, number, path, *rest):
    yield from fill(conversion, number, path, *rest)
    if number == 2:
        print("mid-shard", flush=True)  # its file is full, nothing of it is published
        time.sleep(60)
convert._fill = slowly
from tests.data.making import prepare
prepare(Path(sys.argv[1]), classes=2)
"""


def test_a_kill_amid_a_shard_costs_that_shard_only(
    place_on: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sida.data.prepare.SHARD_BYTES", 60 * 200)
    top = class_folders(tmp_path / "images", 300)
    environment = dict(os.environ, SIDA_LEASE_SECONDS="5", TMPDIR=str(place_on))
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(top)], cwd=ROOT, stdout=subprocess.PIPE, env=environment)
    assert child.stdout is not None
    assert child.stdout.readline() == b"mid-shard\n"
    store = open_store(settings().store)
    end = time.monotonic() + 20
    while len(store.list("data/")) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    child.kill()
    child.wait()
    child.stdout.close()
    assert [key.rpartition("/")[2] for key in store.list("data/")] == ["shard-00000.json", "shard-00001.json"]
    assert not [key for key in store.list("steps/prepare_data/") if key.endswith("1.json")]
    assert len(list(place_on.glob("sida-scratch-*"))) == 2  # its temporary folder and the lock beside it
    monkeypatch.setattr("tempfile.tempdir", str(place_on))
    monkeypatch.setenv("SIDA_LEASE_WAIT", "30")
    found = result(top, classes=2)
    assert not list(place_on.glob("sida-scratch-*"))  # the next run has removed them
    assert "2 of 5 shards were there already" in capsys.readouterr().err
    monkeypatch.setenv("SIDA_STORE", f"file://{tmp_path / 'undisturbed'}")
    assert result(top, classes=2) == found


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("which", ["TMPDIR", "SIDA_STORE"])
def test_a_disk_that_fills_up_amid_a_shard_is_said_and_nothing_is_published(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        # A shard is larger than the disk for temporary files; the store's holds two of three.
        monkeypatch.setattr("sida.data.prepare.SHARD_BYTES", (300 if which == "TMPDIR" else 100) * 200)
        monkeypatch.setattr("tempfile.tempdir", str(small) if which == "TMPDIR" else None)
        if which == "SIDA_STORE":
            monkeypatch.setenv("SIDA_STORE", f"file://{small}")
        with pytest.raises(UserError, match="free space"):
            prepare(class_folders(tmp_path / "images", 300))
        store = open_store(settings().store)
        assert not [key for key in store.list("steps/prepare_data/") if key.endswith("1.json")]
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setenv("SIDA_STORE", f"file://{tmp_path / 'large'}")
        assert result(tmp_path / "images").count == 300
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_crop_says_how_many_pixels_it_left_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = class_folders(place / "images", 3, size=(12, 10))
    (top / "a" / "square.png").write_bytes(png(9, (10, 10)))
    prepared = prepare(top, transform="center-crop")
    assert (
        "3 of 4 images are not square: center-crop left out 60 of their 360 pixels (16.7%)" in capsys.readouterr().err
    )
    notes = prepared.manifest.about.notes
    assert (notes["pixels_left_out"], notes["share_left_out"]) == (60, 0.1667)
    prepare(top, transform="lanczos")
    assert "not square" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["/{victim}", "../{victim}", "a/b.bin"])
def test_a_name_in_a_shard_s_record_is_never_a_path(place: Path, tmp_path: Path, name: str) -> None:
    top = tmp_path / "images"
    top.mkdir()
    for number, picture in enumerate((1, 1, 2, 3)):
        (top / f"{number}.png").write_bytes(png(picture))
    with pytest.raises(UserError, match="duplicate"):
        prepare(top, duplicates="fail")
    victim = tmp_path / "victim.bin"
    victim.write_text("precious")
    store = open_store(settings().store)
    (key,) = store.list("data/")
    record = json.loads(store.read(key))
    record["shard"]["object"]["name"] = name.format(victim=str(victim).strip("/"))
    store.put(key, json.dumps(record).encode())
    assert result(top, duplicates="skip").count == 3  # the record is not believed
    assert victim.read_text() == "precious"


def test_a_shard_that_was_damaged_since_it_was_converted_is_made_again(place: Path, tmp_path: Path) -> None:
    top = class_folders(tmp_path / "images", 6)
    first = prepare(top, classes=2)
    store, (shard,) = open_store(settings().store), first.manifest.result.shards
    whole = store.read(shard.object.key)
    store.put(shard.object.key, whole[:-1] + bytes([whole[-1] ^ 1]))
    again = prepare(top, classes=2)
    assert not again.reused and again.manifest.digest == first.manifest.digest
    assert store.read(shard.object.key) == whole
    assert prepare(top, classes=2).reused
