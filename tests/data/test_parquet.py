"""Parquet as Hugging Face packs data sets: rows, labels, parts, and files that are damaged or hostile."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sida.data.decode import Decoder
from sida.data.entries import Reader, Unreadable
from sida.data.places import check_packed
from sida.data.shards import Shards
from sida.data.sources import Source, open_source
from sida.errors import UserError
from sida.settings import settings
from sida.stores import open_store
from tests.conftest import ROOT
from tests.data.making import class_folders, picture, png, result, section

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PUBLISHED = Path(__file__).parent / "published" / "huggingface"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EIGHT = (8, 8)


def opened(path: Path, **fields: Any) -> Source:
    return open_source(section(path, "parquet", **fields), path.parent)


def table(pictures: list[bytes | None], labels: Any = None, column: str = "image", **more: Any) -> Any:
    columns = {column: [{"bytes": content, "path": "/etc/passwd"} for content in pictures]}
    return pa.table(columns | ({} if labels is None else {"label": labels}) | more)


def write(path: Path, *given: Any, rows: int = 4, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(*given, **more), path, row_group_size=rows)
    return path


def test_what_hugging_face_writes_is_its_train_rows_in_order_with_labels_and_names(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(PUBLISHED, "parquet", classes=10, transform="none", images=12)
    data, labels = Shards(open_store(settings().store), found).read(torch.arange(12))
    decode = Decoder("none", 8, 3)
    assert np.array_equal(data.numpy(), np.stack([decode(png(n, EIGHT)).data for n in range(12)]))
    assert labels.tolist() == [0, 7, 4, 1, 8, 5, 2, 9, 6, 3, 0, 7]
    assert (found.class_names, found.excluded.ignored_files, found.source) == (CIFAR10, 1, "parquet")
    said = capsys.readouterr().err
    assert "plain_text/test-00000-of-00001.parquet" in said
    assert "rows are taken in the order of the files, which need not be that of the set" in said
    assert opened(PUBLISHED / "plain_text" / "test-00000-of-00001.parquet", classes=10).labels.tolist() == [0, 7, 4]  # type: ignore[union-attr]


def test_photographs_become_what_the_same_files_in_class_folders_become(place: Path) -> None:
    top = class_folders(place / "images", 6, size=(150, 140))
    files = sorted(top.rglob("*.png"))
    write(place / "a" / "x.parquet", [file.read_bytes() for file in files], [0, 0, 0, 1, 1, 1])
    for transform, resolution in (("center-crop-dhariwal", 64), ("center-crop", 64), ("lanczos", 32)):
        fields = {"classes": 2, "transform": transform, "resolution": resolution}
        assert result(place / "a", "parquet", **fields).shards == result(top, **fields).shards


def test_many_processes_read_what_one_reads_across_row_groups_and_files(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        pictures = [png(200 * number + each, EIGHT) for each in range(200 - number)]
        write(place / "a" / f"train-{number:05d}-of-00002.parquet", pictures, list(range(200 - number)), rows=70)
    monkeypatch.setattr("sida.data.prepare.SHARD_BYTES", 250 * 200)
    monkeypatch.setattr("sida.data.decoding.cores", lambda: 3)
    many = result(place / "a", "parquet", classes=200, transform="none")
    assert (many.count, len(many.shards), many.histogram[199], many.histogram[198]) == (399, 2, 1, 2)
    monkeypatch.setattr("sida.data.decoding.cores", lambda: 1)
    monkeypatch.setenv("SIDA_STORE", f"file://{place / 'other'}")
    assert result(place / "a", "parquet", classes=200, transform="none").shards == many.shards


@pytest.mark.parametrize(
    ("layout", "taken"),
    [
        (["data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"], 1),
        (["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"], 2),
        (["train-00000-of-00002-0123abcd.parquet", "train-00001-of-00002-4567cdef.parquet"], 2),
        (["train-00000-of-00002.parquet"], r"1 of 2 files are missing, first train-00001-of-00002"),
        (["test-00000-of-00001.parquet", "validation-00000-of-00001.parquet"], "holds test, validation, and no train"),
        (["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet"], "a and b hold .parquet files: name one"),
        (["train-00000-of-00001.parquet", "train-00000-of-00003.parquet"], "holds files of several sets beside train"),
        (["README.md"], "no .parquet in it"),
    ],
)
def test_of_a_folder_the_whole_of_train_is_taken_or_it_says_why_not(
    tmp_path: Path, layout: list[str], taken: int | str
) -> None:
    top = tmp_path / "set"
    for number, name in enumerate([*layout, "._x.parquet"]):
        write(top / name, [png(number, EIGHT)], [0])
    if isinstance(taken, int):
        assert len(opened(top, classes=1)) == taken
        return
    with pytest.raises(UserError, match=taken) as caught:
        opened(top, classes=1)
    assert str(top) in str(caught.value)


def test_one_file_of_several_is_refused_and_a_pattern_names_some(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"part-{number}.parquet", [png(number, EIGHT)])
        write(tmp_path / f"train-{number:05d}-of-00003.parquet", [png(number, EIGHT)])
    with pytest.raises(UserError, match="2 of 3 files are missing, first train-00000-of-00003"):
        opened(tmp_path / "train-00001-of-00003.parquet")
    names = [entry.name for entry in opened(tmp_path / "part-{1..2}.parquet").entries]
    assert names == ["part-1.parquet/0", "part-2.parquet/0"]
    with pytest.raises(UserError, match=r"1 of its 3 files are not there, e\.g\. .*part-3\.parquet"):
        opened(tmp_path / "part-{1..3}.parquet")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: table([png(0)]), "has no column label of whole numbers"),
        (lambda: table([png(0)], ["cat"]), r"has no column label of whole numbers, nor one of 2 .*label: string"),
        (lambda: table([png(0)], pa.array([None], pa.int64())), "row 0 has no label in column label"),
        (lambda: table([png(0)], [2**40]), "column label holds 1099511627776"),
        (lambda: table([png(0)], [2]), "has labels 2 to 2"),
        (lambda: table([png(0)], [-1]), "has labels -1 to -1"),  # as Hugging Face labels a test part
        (lambda: table([png(0)], [0], "a", b=[b"x"]), "has 2 columns of pictures as bytes, none called image"),
        (lambda: pa.table({"text": ["a cat"], "label": [0]}), "has 0 columns of pictures"),
        (lambda: named(["cat", "dog", "bird"]), "names 3 classes in its column label, dataset.classes says 2"),
        (lambda: table([png(0)], [0]).replace_schema_metadata({"huggingface": "{"}), "described by JSON that is none"),
        (lambda: table([png(0)], [0]).slice(0, 0), "no images in it"),
    ],
)
def test_columns_that_do_not_fit_the_recipe_are_refused_by_name(
    tmp_path: Path, made: Callable[[], Any], said: str
) -> None:
    pq.write_table(made(), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=said) as caught:
        opened(tmp_path / "a.parquet", classes=2)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def named(names: list[str], column: str = "label") -> Any:
    features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return table([png(0)], [0]).rename_columns(["image", column]).replace_schema_metadata(metadata)


def test_the_column_whose_names_are_as_many_as_the_classes_is_the_labels(tmp_path: Path) -> None:
    pq.write_table(named(["cat", "dog"], "coarse_label"), tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet", classes=2).class_names == ("cat", "dog")
    with pytest.raises(UserError, match="nor one of 3 classes"):
        opened(tmp_path / "a.parquet", classes=3)


def test_pictures_that_are_missing_or_none_are_bad_images_and_no_path_is_followed(place: Path) -> None:
    write(place / "a.parquet", [png(0, EIGHT), None, b"text", png(3, EIGHT)], [0, 1, 1, 1])
    fields = {"classes": 2, "transform": "none"}
    with pytest.raises(
        UserError, match=r"2 of 4 images are unreadable \(a\.parquet/1 is not in the file, .*a\.parquet/2"
    ):
        result(place / "a.parquet", "parquet", **fields)
    found = result(place / "a.parquet", "parquet", unreadable="skip", **fields)
    assert (found.count, found.histogram, found.excluded.unreadable) == (2, (1, 1), 2)
    pq.write_table(pa.table({"jpg": [png(0, EIGHT)]}), place / "b.parquet")  # bytes without a path beside them
    assert result(place / "b.parquet", "parquet", transform="none").count == 1


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "a.parquet", [picture(n, EIGHT).tobytes() for n in range(40)], [n % 2 for n in range(40)])


def read_all(path: Path) -> None:
    for entry in opened(path, classes=2).entries:
        try:
            Reader().read(entry)
        except Unreadable:
            pass


def test_no_cut_and_no_flipped_byte_ends_in_anything_but_a_line(whole: Path) -> None:
    content, said = whole.read_bytes(), []
    check_packed(whole)
    flips = np.random.default_rng(0).choice(len(content), 150, replace=False)
    spoilt = [content[:cut] for cut in range(0, len(content), 400)]
    spoilt += [content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :] for at in flips]
    for each in spoilt:
        whole.write_bytes(each)
        try:
            read_all(whole)
        except UserError as error:
            said.append(str(error))
    assert len(said) > len(range(0, len(content), 400))  # each cut, and flips where the format can tell
    assert not [each for each in said if str(whole) not in each or "\n" in each]


@pytest.mark.parametrize("processes", [1, 2])
def test_damage_amid_a_row_group_is_said_with_its_place(
    place: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr("sida.data.decoding.cores", lambda: processes)
    whole = write(place / "a.parquet", [png(n, EIGHT) for n in range(200)], [n % 2 for n in range(200)], rows=40)
    content = bytearray(whole.read_bytes())
    at = pq.ParquetFile(whole).metadata.row_group(3).column(0).data_page_offset
    content[at : at + 40] = bytes(40)
    whole.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet is damaged in row group 3 \(.*\): fetch it again"):
        result(whole, "parquet", classes=2, unreadable="skip")


def test_a_file_that_claims_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    null = pa.table({"image": pa.nulls(5_000_000, pa.binary())})
    pq.write_table(null, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"claims 5,000,000 rows in [\d,]+ bytes: refused as a bomb"):
        opened(tmp_path / "a.parquet")
    zeros = pa.table({"image": [bytes(64 << 20)]})
    pq.write_table(zeros, tmp_path / "b.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
    with pytest.raises(UserError, match=r"inflates [\d,]+ bytes from [\d,]+: refused as a bomb"):
        opened(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1" + bytes(100) + (2**31).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(UserError, match="claims a footer of 2,147,483,648 bytes"):
        opened(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match=r"d\.parquet is a Git LFS pointer"):
        opened(tmp_path / "d.parquet")


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'pyarrow>=17'"):
        opened(PUBLISHED)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [b"first"])
    assert Reader().read(opened(path).entries[0]) == b"first"
    path.unlink()
    shutil.move(write(tmp_path / "b.parquet", [b"other"]), path)
    assert Reader().read(opened(path).entries[0]) == b"other"


PEAK = """
import sys
from pathlib import Path
from sida.data.entries import Reader
from sida.data.sources import open_source
from tests.data.making import peak_bytes, section
entries = open_source(section(Path(sys.argv[1]), "parquet"), Path("/nowhere")).entries
reader, read = Reader(), 0
first = peak_bytes()
for entry in entries:
    read += len(reader.read(entry))
print(read, peak_bytes() - first)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_a_large_row_group_is_read_in_flat_memory(tmp_path: Path, compression: str) -> None:
    rng, count, each = np.random.default_rng(0), 12_000, 25_000
    pictures = pa.array([rng.bytes(each) for _ in range(count)], pa.binary())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pictures}), path, row_group_size=count, compression=compression)
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(done[0]) == count * each
    # 300 MB lie in the row group. pyarrow writes pages of 1,024 rows, 26 MB here, and holds two, packed and not.
    assert int(done[1]) < 160e6
