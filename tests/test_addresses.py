"""Addresses are read in one place: taken in any case, or refused in one line that says what to write."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from sida import recipe
from sida.addresses import checked, local_path, redact
from sida.errors import UserError
from sida.settings import settings
from sida.stores import open_store, read_address
from sida.stores.lease import acquire, holder_of

WRONG = [  # everywhere
    " s3:/bucket/x",
    "'s3:/bucket/x'",
    "\u200bs3:/bucket/x",
    "s3\uff1a/bucket/x",
    "s3 :/bucket/x",
    "htps//host/x",
    "gs//bucket/x",
    "hdfs:bucket",
    "$HOME/x",
    "s3:/bucket/x",
    "s3:bucket/x",
    "s3//bucket/x",
    "s3;//bucket/x",
    "s3.//bucket/x",
    "file:/x",
    "http:/host/x",
    "hptts://host/x",
    "ftp://host/x",
    "x/s3://bucket",
    "s3\\:/bucket",
    "s3\\bucket",
    "s3=/bucket",
    "oss:bucket",
    "s3|bucket/x",
    "s3.:/bucket",
    "s3'//bucket",
    "s3 ; //bucket",
    "gcs,/bucket",
    "az->//bucket",
    "r2=>bucket",
    "minio\u2236bucket",
    "s3\u200b:/bucket",
    "abfs\uff1bbucket",
    "s3\u2044/bucket",
    "https%3A//host/x",
    "(s3:/bucket)",
    "\u201cs3:/bucket\u201d",
    "foo:\\bucket",
    " ",
    "me:hushhush@host",
    "me%3Ahushhush@host/x",
    "",
    "a\x00b",
    "a\x1bb",
    "file:///a%00b",
    "n" * 300,
    f"s3://bucket/{'n' * 300}",
    "a/" * 3000,
    "s3:///x",
    "s3://me:hushhush@bucket/x",
    "s3://bucket/../x",
]
WRONG_IN_A_RECIPE = [
    "http://[::1",
    "http://[::1]:99999/x",
    "http://host:99999/x",
    "http://host:x/x",
    "http://host:/x",
    "http://host:\uff18\uff10/x",
    "http://\uff11\uff12\uff17.0.0.1/x",
    "http://a b/x",
    "https:///x",
    "https://host/a%00b",
    "https://host/a%0Ab",
    "https://host/a/..",
    "https://host/%2e%2e/b",
    "https://hushhush@host/x",
    "https://host/x?token=hushhush",
]


HONEST = (  # an explicit ./ is always a path
    *("./s3=/b", "./s3:/b", "./s3://b", "../s3|b", "./me:word@host", "/tmp/me:word@host", "/tmp/x?token=1"),
    *("s3/b", "s3_old/x", "s3.old/x", "r2=0.9/x", "az=eu-1/x", "file~", "oss-fuzz/x", "http2/x", "me@work/x", "100%/x"),
)


def refused(what: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        what()
    line = str(caught.value)
    assert len(line) <= 300 and line.isprintable() and "hushhush" not in line
    return line


@pytest.mark.parametrize("address", [*WRONG, "~/x", "http://host/x", "https://host/x", "recipes://assets/x"])
def test_a_store_s_address_that_cannot_be_meant_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(lambda: open_store(address))
    assert "store address" in line
    if address:
        refused(lambda: read_address(f"{address}/key"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("address", [*WRONG, *WRONG_IN_A_RECIPE])
def test_a_recipe_s_address_that_cannot_be_meant_is_refused_with_its_field_or_file(
    address: str, tmp_path: Path
) -> None:
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": "digits", "name": "mine", "teacher": {"address": address}}))
    line = refused(lambda: recipe.load(str(path)))
    assert "mine.yaml" in line and "address" in line
    fields = recipe.load("digits").model_dump(mode="json")
    fields["teacher"]["address"] = address
    if address not in ("a/" * 3000,):
        refused(lambda: recipe.parse(fields, "stored"))


@pytest.mark.parametrize("variable", ["SIDA_RUNS", "SIDA_CACHE", "SIDA_MIRROR"])
@pytest.mark.parametrize("address", [each for each in WRONG if each and "\x00" not in each])
def test_a_setting_that_is_no_folder_s_address_is_refused_by_its_name(
    variable: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, address)
    assert variable in refused(settings)


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://host/x", *WRONG])
def test_what_is_written_here_has_a_path(address: str) -> None:
    assert "--output" in refused(lambda: local_path(address, "--output"))


def test_schemes_are_taken_in_any_case_and_odd_folders_as_they_are(tmp_path: Path) -> None:
    assert open_store("S3://bucket/Prefix").address == "s3://bucket/Prefix"
    assert open_store(f"FILE://{tmp_path}").address == f"file://{tmp_path}"
    for name in ("s3", "files", "http.d", "a:b", "50% #1?", "../up", "s3-copy//x", "file (1)", *HONEST):
        assert checked(name, "store") == name == redact(name)
    assert checked("HTTPS://Host:443/A?download=true", "x") == "https://Host:443/A?download=true"
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: digits\nname: mine\nteacher: {{address: 'FILE://{tmp_path}/a.pkl'}}\n")
    assert recipe.load(str(path)).teacher.address == f"file://{tmp_path}/a.pkl"


def test_a_redacted_address_has_no_login_even_where_it_is_none() -> None:
    for address in ("http://me:hushhush@[::1", "http://me:a/hushhush@host/x", "http://me:hush@hush@host/?hushhush"):
        assert "hush" not in redact(address)


def test_a_user_without_home_and_name_has_a_cache_beside_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "SIDA_CACHE", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", none)
    monkeypatch.setenv("SIDA_RUNS", str(tmp_path / "runs"))
    assert settings().cache == tmp_path / "runs" / "cache"
    held = acquire(open_store(str(tmp_path / "store")), "key", ttl=30, wait=0, note=lambda _: None)
    assert holder_of(open_store(str(tmp_path / "store")), "key", 1).user == f"uid {os.getuid()}"  # type: ignore[union-attr]
    held.release()


@pytest.mark.parametrize(
    "address",
    [
        *("s3:/me:hushhush@bucket/x", "s3//me:hushhush@bucket", " s3:me:hushhush@bucket/x", "https:/me:hushhush@h/x"),
        *(
            "https:\\\\me:hushhush@h",
            "s3\\:/me:hushhush@b",
            "s3=/me:hushhush@b",
            "file%3A/me:hushhush@b",
            "oss|me:hushhush@b",
        ),
    ],
)
def test_a_login_in_a_mistyped_address_is_not_shown(address: str) -> None:
    line = refused(lambda: checked(address, "store address"))
    assert "hushhush" not in line and "***@" in line
