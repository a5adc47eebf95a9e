"""WebDataset tars, out and in again."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

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


def test_labels_may_be_in_json_and_other_members_are_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", ("x/1.png", png(1)), ("x/1.json", b'{"label": 1}'), ("x/1.txt", b"a cat"))
    write_tar(tmp_path / "a.tar", ("0.png", png(0)), ("0.cls", b"0"))
    source = open_source(section(tmp_path, "webdataset", classes=2), tmp_path)
    assert [entry.name for entry in source.entries] == ["0.png", "x/1.png"]
    assert source.labels is not None
    assert np.array_equal(source.labels, [0, 1])
    assert source.ignored == 1
