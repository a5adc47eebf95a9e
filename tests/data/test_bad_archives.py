"""Archives that are damaged or hostile: refused as a whole, by name, before anything is decoded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sida.data.entries import Reader, Unreadable
from sida.data.folders import entries_of
from sida.data.places import check_packed
from sida.data.sources import open_source
from sida.errors import UserError
from tests.data.making import GOLDEN, png, section


def write_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def write_tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_mode(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        entries_of(path, path.parent)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "a\\..\\x.png"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path: Path, name: str) -> None:
    refused(write_tar(tmp_path / "a.tar", (name, png(1))), "leads out of the archive")
    refused(write_zip(tmp_path / "a.zip", (name, png(1))), "leads out of the archive")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    refused(write_tar(tmp_path / "a.tar", ("b.png", png(1)), special("x.png", kind, "b.png")), "x.png is a link or a")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, mode: int) -> None:
    refused(write_zip(tmp_path / "a.zip", (zip_mode("x.png", mode | 0o644), b"/etc/passwd")), "x.png is a link or a")


def test_pipes_and_links_to_folders_on_disk_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: a pipe, socket or device"):
        entries_of(tmp_path / "a", tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    with pytest.raises(UserError, match="loop: a link to a folder"):
        entries_of(tmp_path / "b", tmp_path)


def test_bombs_are_refused_by_what_they_would_inflate_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(
        write_zip(tmp_path / "a.zip", ("x.png", bytes(8 << 20))), r"x\.png inflates [\d,]+ times: refused as a bomb"
    )
    path = tmp_path / "b.tar.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20), 1))
    monkeypatch.setattr("sida.data.tars._ALLOWANCE", 1 << 20)
    refused(path, "inflates to more than .* bytes: refused as a bomb")


def test_a_zip_whose_entries_overlap_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", *((f"{number}.png", os.urandom(3000)) for number in range(3)))
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\1\2")
    for _ in range(3):  # every entry claims to be nearly the whole archive
        content[at + 20 : at + 28] = (9000).to_bytes(4, "little") * 2
        at = content.find(b"PK\1\2", at + 1)
    path.write_bytes(content)
    refused(path, "overlap: refused as a bomb")


def test_an_entry_that_inflates_to_more_than_it_says_is_unreadable(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ("x.png", bytes(100_000)))
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\1\2") + 24
    content[at : at + 4] = (50).to_bytes(4, "little")
    path.write_bytes(content)
    (entry,) = entries_of(path, tmp_path)
    with pytest.raises(Unreadable, match="CRC differs"):
        Reader().read(entry)


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    refused(write_tar(tmp_path / "a.tar", ("x.png", png(1)), ("x.png", png(2))), "x.png is in it twice")
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write_zip(tmp_path / "a.zip", ("x.png", png(1)), ("x.png", png(2)))
    refused(path, "x.png is in it twice")


def test_names_that_are_not_utf8_are_refused_legibly(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", encoding="latin1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("\u00e9.png"))
    refused(path, r"\\\\udce9.png' is not UTF-8")
    path = write_zip(tmp_path / "a.zip", ("\u00e9.png", png(1)))
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xe9\xe9").replace(b"\x00\x08", b"\x00\x00"))
    refused(path, "UTF-8")
    (tmp_path / "a").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xe9.png")).write_bytes(png(1))
    with pytest.raises(UserError, match="is not UTF-8: rename it"):
        entries_of(tmp_path / "a", tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ("x.png", png(1)))
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    refused(path, "x.png is encrypted")


def members(path: Path) -> list[str]:
    return [entry.name for entry in entries_of(path, path.parent)]


@pytest.mark.parametrize("cut", range(1, 40))
def test_no_cut_of_a_tar_goes_unnoticed(tmp_path: Path, cut: int) -> None:
    whole = write_tar(tmp_path / "a.tar", *((f"{number}.png", png(number)) for number in range(6)))
    content = whole.read_bytes().rstrip(b"\0")
    whole.write_bytes(content[: len(content) * cut // 40 // 512 * 512])  # between blocks, where tarfile notices least
    with pytest.raises(UserError, match=r"a\.tar"):
        entries_of(whole, tmp_path)


def test_a_flipped_header_of_a_tar_is_noticed(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", *((f"{number}.png", png(number)) for number in range(6)))
    content = whole.read_bytes()
    for at in (5, content.index(b"3.png") + 3, content.index(b"5.png") + 110):
        whole.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        refused(whole, "not a whole tar|damaged or cut")


@pytest.mark.parametrize("spoil", [lambda c: c[:-30], lambda c: c[: len(c) // 2], lambda c: b"PK" + c[100:]])
def test_a_cut_zip_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = write_zip(tmp_path / "a.zip", ("x.png", png(1)), ("y.png", png(2)))
    path.write_bytes(spoil(path.read_bytes()))
    refused(path, "not a whole zip|overlap")


def test_a_flipped_bit_of_the_cifar_archive_is_noticed(tmp_path: Path) -> None:
    content = (GOLDEN / "cifar10" / "cifar-10-python.tar.gz").read_bytes()
    path = tmp_path / "cifar-10-python.tar.gz"
    for at in (1000, 150_000, len(content) // 2, len(content) - 6, len(content) - 2):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz"):
            open_source(section(path, "cifar10", classes=10, resolution=32), tmp_path)
    path.write_bytes(content[:-1000])
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz is damaged"):
        open_source(section(path, "cifar10", classes=10, resolution=32), tmp_path)


def test_a_flipped_pixel_in_a_zip_is_noticed(tmp_path: Path) -> None:
    content = bytearray((GOLDEN / "edm_zip" / "labelled.zip").read_bytes())
    content[5000] ^= 1
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    entries = entries_of(path, tmp_path)
    reader = Reader()
    bad = []
    for entry in entries:
        try:
            reader.read(entry)
        except Unreadable:
            bad.append(entry.name)
    assert len(bad) == 1


@pytest.mark.parametrize("missing", ["data_batch_3", "batches.meta"])
def test_a_cifar_archive_without_a_batch_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    with (
        tarfile.open(GOLDEN / "cifar10" / "cifar-10-python.tar.gz") as source,
        tarfile.open(path, "w:gz", compresslevel=1) as target,
    ):
        for member in source:
            if not member.name.endswith(missing):
                target.addfile(member, source.extractfile(member))
    fields = section(path, "cifar10", classes=10, resolution=32)
    if missing == "batches.meta":
        assert len(open_source(fields, tmp_path)) == 100
        return
    with pytest.raises(UserError, match="no cifar-10-batches-py/data_batch_3 in it"):
        open_source(fields, tmp_path)


def test_what_is_no_archive_or_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", "neither a folder nor a .zip")
    refused(tmp_path / "absent", "no such file or folder")
    for source in ("folder", "edm-zip", "ffhq", "afhqv2", "imagenet", "webdataset"):
        (tmp_path / source).mkdir()
        with pytest.raises(UserError, match=r"no images in it|no \.tar in it"):
            open_source(section(tmp_path / source, source), tmp_path)


def test_a_tar_in_a_tar_that_is_cut_or_runs_into_its_neighbor_is_noticed(tmp_path: Path) -> None:
    inner = write_tar(tmp_path / "inner.tar", *((f"{number}.png", png(number)) for number in range(3))).read_bytes()
    whole = inner.rstrip(b"\0")
    for blocks in range(1, len(whole) // 512 + 1):  # without its end the next member's header follows at once
        content = whole[: blocks * 512]
        path = write_tar(tmp_path / "imagenet.tar", ("n01440764.tar", content), ("n01443537.tar", inner))
        with pytest.raises(UserError, match=r"imagenet\.tar \(n01440764\.tar\)"):
            open_source(section(path, "imagenet", classes=2), tmp_path)


def test_a_label_that_no_int32_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": [["x.png", 99999999999]]}')
    with pytest.raises(UserError, match=r"labels\[0\] is .*99999999999.*expected \[name, whole number\]"):
        open_source(section(tmp_path / "dataset.json", "labels", classes=2), tmp_path)


def test_what_follows_the_end_of_a_tar_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", ("x.png", png(1)))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(4096))
    assert members(path) == ["x.png"]
    for more in (b"x", bytes(1 << 20) + b"x", whole):  # the last: two tars in one file
        path.write_bytes(whole + more)
        refused(path, "more follows its end")


def test_a_packed_tar_is_named_as_the_user_knows_it(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for content in (b"junk" * 300, write_tar(tmp_path / "x", ("../x.png", png(1))).read_bytes()):
        path = tmp_path / "a.tar.gz"
        path.write_bytes(gzip.compress(content))
        with pytest.raises(UserError, match=r"a\.tar\.gz(:| is not a whole tar) ") as caught:
            entries_of(path, scratch)
        assert str(scratch) not in str(caught.value)
    listing = ("dataset.json", b'{"labels": [["x.png", "one"]]}')
    path.write_bytes(gzip.compress(write_tar(tmp_path / "x", ("x.png", png(1)), listing).read_bytes()))
    with pytest.raises(UserError, match=r"a\.tar\.gz/dataset\.json: labels\[0\]") as caught:
        open_source(section(path, classes=2), scratch)
    assert str(scratch) not in str(caught.value)


@pytest.mark.parametrize(("source", "top"), [("folder", ""), ("afhqv2", ""), ("afhqv2", "train/")])
def test_an_empty_class_folder_in_an_archive_is_refused(source: str, top: str, tmp_path: Path) -> None:
    pictures = [(f"{top}{name}/{number}.png", png(number)) for number, name in enumerate(("cat", "dog"))]
    folders = [f"{top}{name}" for name in ("cat", "dog", "lynx")]
    tar = write_tar(tmp_path / "a.tar", *map(_directory, folders), *pictures)
    packed = write_zip(tmp_path / "a.zip", *((f"{name}/", b"") for name in folders), *pictures)
    for path in (tar, packed):
        with pytest.raises(UserError, match="class folder lynx is empty, so later classes would shift"):
            open_source(section(path, source, classes=2), tmp_path)
    whole = write_tar(tmp_path / "b.tar", _directory("./"), *map(_directory, folders[:2]), *pictures)
    found = open_source(section(whole, source, classes=2), tmp_path)
    assert found.labels is not None and found.labels.tolist() == [0, 1] and found.ignored == 0


def _directory(name: str) -> tarfile.TarInfo:
    return special(name, tarfile.DIRTYPE)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_git_lfs_pointer_in_place_of_an_image_is_named(kind: str, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    path = tmp_path / f"a.{kind}"
    if kind == "folder":
        path.mkdir()
        (path / "x.png").write_bytes(pointer)
    else:
        write = write_zip if kind == "zip" else write_tar
        write(path, ("x.png", pointer))
    (entry,) = entries_of(path, tmp_path)
    with pytest.raises(Unreadable, match="is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        Reader().read(entry)


def test_a_git_lfs_pointer_in_place_of_an_archive_is_named(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar", "a.tar.gz"):
        (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
        with pytest.raises(UserError, match=r"a\.(zip|tar|tar\.gz) is a Git LFS pointer"):
            open_source(section(tmp_path / name), tmp_path)


def test_labels_nested_too_deep_are_refused(tmp_path: Path) -> None:
    deep = b"[" * 500 + b"]" * 500
    path = write_tar(tmp_path / "a.tar", ("a.png", png(1)), ("a.json", b'{"label": %s}' % deep))
    with pytest.raises(UserError, match=r"a\.json is no label \(it is nested"):
        open_source(section(path, "webdataset", classes=2), tmp_path)
    (tmp_path / "dataset.json").write_bytes(b'{"labels": [["x.png", %s]]}' % deep)
    with pytest.raises(UserError, match=r"not a dataset\.json"):
        open_source(section(tmp_path / "dataset.json", "labels", classes=2), tmp_path)


@pytest.mark.parametrize("error", [struct.error("unpack"), OverflowError("too large"), RecursionError(), IndexError()])
def test_whatever_reading_an_archive_raises_is_a_line_that_names_it(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    packed = tmp_path / "c.tar.gz"
    packed.write_bytes(gzip.compress(bytes(10240)))
    write_zip(tmp_path / "a.zip", ("x.png", png(1)))
    write_tar(tmp_path / "b.tar", ("x.png", png(1)))
    monkeypatch.setattr(zipfile.ZipFile, "infolist", fail)
    monkeypatch.setattr(tarfile.TarFile, "next", fail)
    monkeypatch.setattr(gzip.GzipFile, "read", fail)
    refused(tmp_path / "a.zip", r"a\.zip is not a whole zip \(.+\): fetch it again")
    refused(tmp_path / "b.tar", r"b\.tar is not a whole tar \(.+\): fetch it again")
    refused(packed, r"c\.tar\.gz is damaged \(.+\): fetch it again")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_a_gigabyte_is_refused_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    long = tarfile.TarInfo("long")
    long.type, long.size = kind, 2**30
    plain, packed = tmp_path / "plain.tar", tmp_path / "packed.tar.gz"
    plain.write_bytes(long.tobuf(tarfile.GNU_FORMAT))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    os.truncate(plain, 2**30 + 4096)  # which needs no room
    monkeypatch.setattr(tarfile.TarInfo, "_apply_pax_info", lambda *_: pytest.fail("it was read"))
    for path in (plain, packed):
        check_packed(path)  # by its first block alone
        with pytest.raises(UserError, match=f"{path.name}.*(a header of more than|not a whole tar)"):
            open_source(section(path, classes=0), tmp_path)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, bytes.upper])
def test_a_fetched_file_that_no_reader_takes_is_known_by_its_first_block(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(pack(write_tar(tmp_path / "good.tar", ("a.png", png(0))).read_bytes()))
    with pytest.raises(UserError, match="is no zip, tar, Parquet or"):
        check_packed(path)


def test_a_cifar_archive_with_two_files_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    fields = section(path, "cifar10", classes=10, resolution=32)
    for folder in ("__MACOSX", "copy"):
        with (
            tarfile.open(GOLDEN / "cifar10" / "cifar-10-python.tar.gz") as source,
            tarfile.open(path, "w:gz") as target,
        ):
            for member in source:
                target.addfile(member, source.extractfile(member))
            content = b"of another set"
            other = tarfile.TarInfo(f"{folder}/data_batch_2")
            other.size = len(content)
            target.addfile(other, io.BytesIO(content))
        if folder == "copy":
            with pytest.raises(UserError, match=r"holds .*data_batch_2 and copy/data_batch_2"):
                open_source(fields, tmp_path)
        else:
            assert len(open_source(fields, tmp_path)) == 100
