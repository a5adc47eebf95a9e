"""Labels: where they come from, and that none is lost silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sida.data.labels import order_note, synsets
from sida.data.sources import Source, open_source
from sida.errors import UserError
from tests.data.making import class_folders, png, result, section
from tests.data.test_bad_archives import write_tar, write_zip


def opened(path: Path, source: str = "folder", **fields: Any) -> Source:
    return open_source(section(path, source, **fields), path.parent)


def zipped(tmp_path: Path, labels: Any, names: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    members = [(name, png(number)) for number, name in enumerate(names)]
    return write_zip(tmp_path / "a.zip", *members, ("dataset.json", json.dumps({"labels": labels}).encode()))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([["a.png", 0]], "1 of 2 images have no label, e.g. b.png"),
        ([["a.png", 0], ["b.png", 1], ["c.png", 1]], "images that are not there, e.g. c.png"),
        ([["a.png", 0], ["b.png", 1], ["a.png", 1]], "a.png has two labels, 0 and 1"),
        ([["a.png", 0], ["b.png", "1"]], "expected .name, whole number"),
        ([["a.png", 0], ["b.png", True]], "expected .name, whole number"),
        ([["a.png", 0], ["b.png", 1.5]], "expected .name, whole number"),
        ([["a.png", 0], ["b.png", 2]], "has labels 0 to 2, the recipe says 2 classes"),
        ([["a.png", 0], ["b.png", -1]], "has labels -1 to 0"),
        (None, "has no labels, the recipe says 2 classes"),
        ("many", "labels must be a list"),
    ],
)
def test_labels_that_do_not_fit_the_images_are_refused_by_name(tmp_path: Path, labels: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        opened(zipped(tmp_path, labels), "edm-zip", classes=2)
    assert opened(zipped(tmp_path, labels), "edm-zip").labels is None  # who wants none need not have any


def test_a_damaged_dataset_json_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ("a.png", png(0)), ("dataset.json", b'{"labels": [["a.pn'))
    with pytest.raises(UserError, match=r"dataset.json: not a dataset.json"):
        opened(path, "edm-zip", classes=1)


def test_folders_in_a_zip_of_nvidias_layout_are_no_classes(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ("00000/img0.png", png(0)), ("00001/img1.png", png(1)))
    with pytest.raises(UserError, match=r"add a dataset.json, use source folder for class folders"):
        opened(path, "edm-zip", classes=2)
    labels = opened(path, "folder", classes=2).labels  # the named opt-in
    assert labels is not None
    assert labels.tolist() == [0, 1]


def test_class_folders_must_be_as_many_as_the_recipe_says_and_none_empty(tmp_path: Path) -> None:
    top = class_folders(tmp_path / "images", 6, classes=3)
    with pytest.raises(UserError, match=r"3 class folders .*, dataset.classes says 2"):
        opened(top, classes=2)
    (top / "aa").mkdir()
    with pytest.raises(UserError, match="class folder aa is empty, so later classes would shift"):
        opened(top, classes=3)
    (top / "aa" / "notes.txt").write_text("none")
    with pytest.raises(UserError, match="class folder aa holds no images"):
        opened(top, classes=3)
    (top / "aa" / "notes.txt").unlink()
    (top / "aa").rmdir()
    (top / "loose.png").write_bytes(png(9))
    with pytest.raises(UserError, match=r"loose\.png lies beside the class folders"):
        opened(top, classes=3)


def test_parts_of_a_data_set_are_no_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        class_folders(tmp_path / "images" / part, 4)
    with pytest.raises(UserError, match=r"class folders train, val hold folders \(a, b\).*name .*images/train"):
        opened(tmp_path / "images", classes=2)
    assert opened(tmp_path / "images" / "train", classes=2).class_names == ("a", "b")
    with pytest.raises(UserError, match=r"folders train, val look like the parts .*name .*images/train"):
        opened(tmp_path / "images")  # without labels the images of both would be mixed
    vehicles = write_zip(tmp_path / "vehicles.zip", ("car/new/0.png", png(0)), ("train/old/1.png", png(1)))
    assert opened(vehicles, classes=2).class_names == ("car", "train")  # one such class beside others is a train


@pytest.mark.parametrize(("source", "classes"), [("folder", 2), ("folder", 0), ("ffhq", 0), ("afhqv2", 0)])
def test_parts_that_hold_images_are_no_classes_either_and_are_not_mixed(
    tmp_path: Path, source: str, classes: int
) -> None:
    flat = write_zip(tmp_path / "a.zip", ("Train/0.png", png(0)), ("test/1.png", png(1)))
    deep = write_zip(tmp_path / "b.zip", ("set/train/cat/0.png", png(0)), ("set/test/cat/1.png", png(1)))
    with pytest.raises(UserError, match=r"folders Train, test look like the parts .*name .*a\.zip/Train$"):
        opened(flat, source, classes=classes)
    said = r"everything lies under set/" if classes else r"folders test, train look like .*b\.zip/set/test$"
    with pytest.raises(UserError, match=said):
        opened(deep, source, classes=classes)


def test_what_lies_in_one_wrapping_folder_is_refused_for_that_reason(tmp_path: Path) -> None:
    listing = json.dumps({"labels": [["0/a.png", 0], ["0/b.png", 1]]}).encode()
    images = [("data/0/a.png", png(0)), ("data/1/b.png", png(1))]
    for source, more in (("edm-zip", [("data/dataset.json", listing)]), ("folder", []), ("imagenet", [])):
        path = write_zip(tmp_path / f"{source}.zip", *images, *more, ("__MACOSX/data/._dataset.json", b""))
        with pytest.raises(UserError, match="everything lies under data/: pack what is in data"):
            opened(path, source, classes=2)


def test_backslashes_between_folders_in_zips_and_dataset_json_are_read_as_slashes(tmp_path: Path) -> None:
    names = ("00000/a.png", "00001/b.png")
    written = tuple(name.replace("/", "\\") for name in names)
    for packed in (names, written):
        source = opened(zipped(tmp_path, [[written[0], 1], [written[1], 0]], packed), "edm-zip", classes=2)
        assert [entry.name for entry in source.entries] == list(names)
        assert source.labels is not None and source.labels.tolist() == [1, 0]
    assert opened(write_zip(tmp_path / "b.zip", ("x\\", b""), ("x\\a.png", png(0))), classes=1).class_names == ("x",)
    with pytest.raises(UserError, match=r"x/a.png is in it twice"):
        opened(write_zip(tmp_path / "c.zip", ("x\\a.png", png(0)), ("x/a.png", png(1))))
    with pytest.raises(UserError, match=r"its names \(other/a.png\) are not the images' \(00000/a.png\)"):
        opened(zipped(tmp_path, [["other\\a.png", 0], ["other\\b.png", 1]], names), "edm-zip", classes=2)


def test_a_backslash_in_a_name_on_disk_or_in_a_tar_is_said(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a\\b.png").write_bytes(png(0))
    for path in (tmp_path / "images", write_tar(tmp_path / "a.tar", ("a\\b.png", png(0)))):
        with pytest.raises(UserError, match=r"the name 'a\\\\b.png' has a backslash: rename it"):
            opened(path)


def test_numbers_as_class_folders_are_sorted_as_text_which_is_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(11):
        class_folders(place / "images" / str(number), 1)
    assert result(place / "images", classes=11, duplicates="keep").class_names == tuple(
        map(str, [0, 1, 10, *range(2, 10)])
    )
    assert "folder 10 is class 2: where its number should be the class, write as many digits" in capsys.readouterr().err
    assert order_note(("00", "01", "02")) == order_note(("a", "b")) == order_note(()) == ""
    assert "folder 1 is class 0" in order_note(("1", "2"))


@pytest.mark.parametrize("packed", ["folder", "zip", "tar"])
def test_files_of_the_system_are_neither_images_nor_classes(
    place: Path, packed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["cat/0.png", "dog/1.png"]
    systems = ["cat/._0.png", "._cat", ".cache/2.png", "__MACOSX/cat/._0.png", ".DS_Store", "dog/Thumbs.db"]
    members = [(name, png(number) if name in names else b"Mac OS X") for number, name in enumerate(names + systems)]
    top = place / "images"
    if packed == "folder":
        for name, content in members:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content)
    else:
        top = {"zip": write_zip, "tar": write_tar}[packed](place / f"a.{packed}", *members)
    assert [entry.name for entry in opened(top, classes=2).entries] == names
    prepared = result(top, classes=2, unreadable="fail")
    assert (prepared.count, prepared.class_names, prepared.excluded.ignored_files) == (2, ("cat", "dog"), 6)
    assert "6 files are no images, left out" in capsys.readouterr().err


def test_a_wrong_number_of_images_is_refused_before_any_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"6 images, dataset.images says 7"):
        opened(class_folders(tmp_path / "images", 6), images=7)


def test_there_are_a_thousand_synsets_in_the_order_of_their_names() -> None:
    assert len(synsets()) == len(set(synsets())) == 1000
    assert list(synsets()) == sorted(synsets())
    assert (synsets()[0], synsets()[-1]) == ("n01440764", "n15075141")


def test_imagenet_accepts_its_own_synsets_only_and_all_of_them(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", ("train/n01440764/x.JPEG", png(0)), ("train/n15075141/y.JPEG", png(1)))
    labels = opened(tar, "imagenet", classes=2).labels
    assert labels is not None
    assert labels.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"2 synsets, dataset.classes says 1000 \(first absent: n01443537\)"):
        opened(tar, "imagenet", classes=1000)
    for strange in ("n00000001", "dogs"):
        tar = write_tar(tmp_path / "b.tar", ("n01440764/x.JPEG", png(0)), (f"{strange}/y.JPEG", png(1)))
        with pytest.raises(UserError, match=f"folder {strange} is .* of ImageNet-1k"):
            opened(tar, "imagenet", classes=2)


def test_afhqv2_takes_its_train_folders_and_no_labels(tmp_path: Path) -> None:
    for part in ("train", "test"):
        class_folders(tmp_path / "afhqv2" / part, 6, classes=3)
    found = opened(tmp_path / "afhqv2", "afhqv2")
    assert len(found) == 6
    assert found.labels is None
    labels = opened(tmp_path / "afhqv2", "afhqv2", classes=3).labels
    assert labels is not None
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_ffhq_has_no_classes(tmp_path: Path) -> None:
    top = class_folders(tmp_path / "ffhq", 4)
    assert [entry.name for entry in opened(top, "ffhq").entries] == [
        "a/00000.png",
        "a/00002.png",
        "b/00001.png",
        "b/00003.png",
    ]
    with pytest.raises(UserError, match="FFHQ has no classes"):
        opened(top, "ffhq", classes=2)
