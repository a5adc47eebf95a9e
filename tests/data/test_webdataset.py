"""WebDataset tars, out and in again."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from sida.data.decode import Decoder
from sida.data.export import export_webdataset
from sida.data.shards import Shards
from sida.data.sources import open_source
from sida.errors import UserError
from sida.manifests import DatasetResult
from sida.settings import settings
from sida.stores import open_store
from tests.conftest import ROOT
from tests.data.making import class_folders, png, prepare, result, section
from tests.data.test_bad_archives import write_tar

PUBLISHED = Path(__file__).parent / "published" / "webdataset"


def test_a_data_set_exported_and_read_back_is_the_same_data_set(place: Path, tmp_path: Path) -> None:
    published = prepare(class_folders(tmp_path / "images", 25), classes=2)
    command = [sys.executable, "-m", "pipeline", "export-webdataset", published.address]
    command += ["--output", str(tmp_path / "tars"), "--samples", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "25 samples in 3 tars" in done.stdout
    with tarfile.open(tmp_path / "tars" / "data-000002.tar") as tar:
        assert tar.getnames()[:2] == ["00000020.png", "00000020.cls"]
    again = result(tmp_path / "tars", "webdataset", classes=2, transform="none")
    assert isinstance(published.manifest.result, DatasetResult)
    assert again.shards == published.manifest.result.shards
    repeated = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert repeated.returncode == 2
    assert "exists already: give an empty folder" in repeated.stderr


def test_equal_data_sets_make_equal_tars(place: Path, tmp_path: Path) -> None:
    shards = Shards(open_store(settings().store), result(class_folders(tmp_path / "images", 5)))
    first, second = (export_webdataset(shards, tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second
    assert b".cls" not in first


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("0.png", png(0)), ("0.seg.cls", b"1"), ("0.cls", b"0")], r"has 2 labels, 0\.seg\.cls and 0\.cls"),
        ([("0.png", png(0))], "sample 0 has no .cls or .json label"),
        ([("0.png", png(0)), ("0.cls", b"cat")], "0.cls is no label"),
        ([("0.png", png(0)), ("0.json", b'{"label": "1"}')], "0.json holds '1': expected a whole number"),
        ([("0.png", png(0)), ("0.jpg", png(1)), ("0.cls", b"0")], "sample 0 has 2 images"),
        ([("0.png", png(0)), ("0.cls", b"7")], "has labels 7 to 7"),
    ],
)
def test_samples_without_one_image_and_one_label_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], said: str
) -> None:
    path = write_tar(tmp_path / "a.tar", *members)
    with pytest.raises(UserError, match=said):
        open_source(section(path, "webdataset", classes=2), tmp_path)


def test_what_webdataset_1_0_writes_is_read_in_its_order_with_its_labels(place: Path) -> None:
    with pytest.raises(
        UserError, match=r"tiny-train-000000\.tar and tiny-validation-.*/tiny-train-\{000000\.\.000001\}\.tar$"
    ):
        result(PUBLISHED, "webdataset", classes=5, transform="none")
    pattern = PUBLISHED / "tiny-train-{000000..000001}.tar"
    found = result(pattern, "webdataset", classes=5, transform="none", images=5)
    data, labels = Shards(open_store(settings().store), found).read(torch.arange(5))
    decode = Decoder("none", 8, 3)
    assert np.array_equal(data.numpy(), np.stack([decode(png(n, (8, 8))).data for n in range(5)]))
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert prepare(pattern, "webdataset", classes=5, transform="none", images=5).reused
    tars = [PUBLISHED / f"tiny-train-00000{number}.tar" for number in range(2)]
    contents = [hashlib.sha256(png(n, (8, 8))).digest() for n in range(5)]
    one = hashlib.sha256(b"".join(contents)).hexdigest()
    assert found.source_sha256 == hashlib.sha256(one.encode()).hexdigest()
    assert len(open_source(section(tars[0], "webdataset", classes=5), place)) == 3


def test_a_tar_of_a_pattern_that_changes_makes_another_data_set(place: Path, tmp_path: Path) -> None:
    for number in range(11):
        write_tar(tmp_path / f"part-{number:02d}.tar", (f"{number}.png", png(number)), (f"{number}.cls", b"0"))
    names = [
        entry.name for entry in open_source(section(tmp_path / "part-{08..10}.tar", "webdataset"), tmp_path).entries
    ]
    assert names == ["8.png", "9.png", "10.png"]
    names = [
        entry.name for entry in open_source(section(tmp_path / "part-{10,03}.tar", "webdataset"), tmp_path).entries
    ]
    assert names == ["10.png", "3.png"]
    pattern = tmp_path / "part-{00..10}.tar"
    assert [prepare(pattern, "webdataset").reused, prepare(pattern, "webdataset").reused] == [False, True]
    write_tar(tmp_path / "part-05.tar", ("5.png", png(77)))
    assert not prepare(pattern, "webdataset").reused
    for wrong, said in (
        ("part-{00..12}.tar", r"2 of its 13 files are not there, e\.g\. .*part-11\.tar"),
        ("part-{5..1}.tar", r"\{5\.\.1\} names no files: write the first number and the last"),
        ("part-{0..999999999}.tar", "names no files"),
        ("part-{x}.tar", "names no files"),
        ("part-{10,0{3,2}}.tar", "has braces in braces"),
        ("part-0{1,1}.tar", "names a file twice"),
        ("{0..99}{0..999}{0..9}.tar", "names more than 100,000 files"),
    ):
        with pytest.raises(UserError, match=said):
            prepare(tmp_path / wrong, "webdataset")
    named = write_tar(tmp_path / "a{1,2}.tar", ("5.png", png(77)))
    assert prepare(named, "webdataset").manifest.result.count == 1  # a file that is called so


@pytest.mark.parametrize(("processes", "sizes"), [(4, [300]), (2, [7, 260, 40])])
def test_any_number_of_processes_reads_the_same_from_tars_of_any_size(
    place: Path, monkeypatch: pytest.MonkeyPatch, processes: int, sizes: list[int]
) -> None:
    numbers = iter(range(sum(sizes)))
    (place / "tars").mkdir()
    for tar, size in enumerate(sizes):
        samples = [next(numbers) for _ in range(size)]
        members = [((f"{n:05d}.cls", str(n).encode()), (f"{n:05d}.png", png(n, (8, 8)))) for n in samples]
        write_tar(place / "tars" / f"{tar}.tar", *chain.from_iterable(members))
    monkeypatch.setattr("sida.data.prepare.SHARD_BYTES", 250 * 200)
    fields = {"classes": sum(sizes), "transform": "none"}
    monkeypatch.setattr("sida.data.decoding.cores", lambda: processes)
    many = result(place / "tars", "webdataset", **fields)
    _, labels = Shards(open_store(settings().store), many).read(torch.arange(many.count))
    assert labels.tolist() == list(range(sum(sizes)))
    monkeypatch.setattr("sida.data.decoding.cores", lambda: 1)
    monkeypatch.setenv("SIDA_STORE", f"file://{place / 'other'}")
    assert result(place / "tars", "webdataset", **fields).shards == many.shards


def test_endings_count_in_small_letters_and_the_library_s_own_members_do_not(tmp_path: Path) -> None:
    own = [("__meta__/a.png", png(3)), ("__index__", b"x")]
    write_tar(
        tmp_path / "a.tar",
        *own,
        ("./x/0.JPG", png(0)),
        ("./x/0.CLS", b"1\n"),
        ("x/1.png", png(1)),
        ("x/1.Json", b'{"cls": 0}'),
    )
    (tmp_path / "a.idx").write_bytes(b"v1.2 1\n")  # DALI's
    (tmp_path / "._a.tar").write_bytes(b"Mac OS X")
    index = tmp_path / "index.json"
    index.write_text('{"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": [{"url": "a.tar"}]}')
    with pytest.raises(UserError, match=r"index\.json: is JSON, perhaps an index of tars: name their folder"):
        open_source(section(index, "webdataset"), tmp_path)
    source = open_source(section(tmp_path, "webdataset", classes=2), tmp_path)
    assert [entry.name for entry in source.entries] == ["x/0.JPG", "x/1.png"]
    assert source.labels is not None and source.labels.tolist() == [1, 0]
    assert source.ignored == 2


def test_labels_may_be_in_json_and_other_members_are_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", ("x/1.png", png(1)), ("x/1.json", b'{"label": 1}'), ("x/1.txt", b"a cat"))
    write_tar(tmp_path / "a.tar", ("0.png", png(0)), ("0.cls", b"0"))
    source = open_source(section(tmp_path, "webdataset", classes=2), tmp_path)
    assert [entry.name for entry in source.entries] == ["0.png", "x/1.png"]
    assert source.labels is not None
    assert np.array_equal(source.labels, [0, 1])
    assert source.ignored == 1
