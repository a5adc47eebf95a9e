"""Fetching what a recipe names: resumed, verified, recorded; faults of network and disk end in one line."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import shutil
import ssl
import subprocess
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from sida import patience
from sida.errors import Corrupt, SidaError, Unavailable, UserError
from sida.foreign import http
from sida.foreign.fetch import digest_of_file, fetch_file, recorded_sha256
from tests.foreign.web import Web, serve
from tests.raw import Server, serving
from tests.raw import http as answer

CONTENT = os.urandom(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store and cache of its own, no proxy, and faults that take tenths of seconds."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(http, "READ_SECONDS", 0.5)
    monkeypatch.setattr(http, "STALL_SECONDS", 0.3)
    monkeypatch.setenv("SIDA_EVENTS", str(place / "events"))
    return place


@pytest.fixture
def web() -> Iterator[Web]:
    with serve(CONTENT) as served:
        yield served


def notes(place: Path) -> str:
    return (place / "events").read_text() if (place / "events").exists() else ""


def one_line(error: BaseException) -> str:
    assert len(str(error).splitlines()) == 1 and "secret" not in str(error)
    return str(error)


def test_a_pinned_file_is_fetched_once_with_progress_and_then_found_in_the_cache(web: Web, place: Path) -> None:
    path, found = fetch_file(web.address, "teacher", SHA256, step="fetch_teacher")
    assert path.read_bytes() == CONTENT and found == SHA256 and path.name == "net.pkl"
    assert '"event": "progress"' in notes(place) and '"total": 3, "unit": "MiB"' in notes(place)
    assert fetch_file(web.address, "teacher", SHA256) == (path, SHA256)
    assert len(web.asked) == 1
    path.write_bytes(b"changed")
    assert fetch_file(web.address, "teacher", SHA256)[0].read_bytes() == CONTENT


def test_a_step_s_key_needs_no_download_where_the_digest_is_known(web: Web) -> None:
    assert digest_of_file(web.address, "teacher", SHA256, step="fetch_teacher") == SHA256
    assert web.asked == []


def test_without_a_pin_the_first_digest_is_recorded_aloud_and_held_to(web: Web, place: Path) -> None:
    fetch_file(web.address, "teacher", step="fetch_teacher")
    assert "NOT PINNED" in notes(place) and SHA256 in notes(place) and "sida pin RECIPE" in notes(place)
    assert recorded_sha256(web.address) == SHA256
    shutil.rmtree(place / "cache")
    web.content = b"another file"
    with pytest.raises(UserError, match=r"sha256 is .*, expected is") as caught:
        fetch_file(web.address, "teacher")
    assert SHA256 in one_line(caught.value)


@pytest.mark.parametrize("fault", ["truncated", "hangs", "closed", "drips"])
def test_a_download_that_breaks_off_goes_on_from_where_it_was(web: Web, fault: str) -> None:
    web.plan = [fault]
    path, _ = fetch_file(web.address, "teacher", SHA256)
    assert path.read_bytes() == CONTENT
    assert len(web.asked) == 2
    if fault != "closed":
        assert int(web.asked[1]["Range"].removeprefix("bytes=").rstrip("-")) > 0


def test_what_a_killed_download_left_is_gone_on_from_in_the_next_run(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    monkeypatch.setattr(http, "MOST_ATTEMPTS", 1)
    web.plan = ["truncated"]
    with pytest.raises(SidaError, match="goes on from"):
        fetch_file(web.address, "teacher", SHA256)
    assert fetch_file(web.address, "teacher", SHA256)[0].read_bytes() == CONTENT
    assert 0 < int(web.asked[-1]["Range"].removeprefix("bytes=").rstrip("-")) < len(CONTENT)


def test_a_file_that_changed_meanwhile_or_a_server_without_ranges_is_begun_anew(web: Web) -> None:
    web.plan = ["truncated", "ignores ranges"]
    assert fetch_file(web.address, "teacher", SHA256)[0].read_bytes() == CONTENT


def test_a_file_that_changed_since_the_download_broke_off_is_begun_anew(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.content, web.plan = os.urandom(1 << 20), ["truncated", 404]
    with pytest.raises(UserError, match="404"):
        fetch_file(web.address, "teacher", SHA256)
    web.content, web.etag = CONTENT, '"two"'
    assert fetch_file(web.address, "teacher", SHA256)[0].read_bytes() == CONTENT
    assert "Range" in web.asked[-1]  # asked for the rest of the old one, was given the whole new one


def test_errors_of_the_server_that_pass_are_waited_for_and_others_are_named(web: Web) -> None:
    web.plan = [500, 503, 429]
    assert fetch_file(web.address, "teacher", SHA256)[0].read_bytes() == CONTENT
    for status, kind, said in (
        (500, Unavailable, r"broke off again and again \(the server answers 500\)"),
        (404, UserError, "answers 404: correct the address"),
        (403, UserError, "it needs credentials"),
    ):
        web.plan = [status] * 9
        with pytest.raises(kind, match=said) as caught:
            fetch_file(web.address + f"?{status}", "teacher", "0" * 64)
        one_line(caught.value)


def test_a_server_that_is_away_for_longer_is_waited_for_and_that_is_said_once(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_PATIENCE", "30s")
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.1)
    web.plan = [503] * 15
    assert fetch_file(web.address, "teacher", SHA256)[0].read_bytes() == CONTENT
    said = notes(place)
    assert said.count("the server 127.0.0.1 is away since") == 1 and "(the server answers 503)" in said
    assert said.count("the server 127.0.0.1 is back after") == 1


def test_a_flipped_bit_is_found_and_both_digests_are_named(web: Web) -> None:
    web.plan = ["flipped"]
    with pytest.raises(UserError, match=f"expected is {SHA256}") as caught:
        fetch_file(web.address, "teacher", SHA256)
    one_line(caught.value)


def test_a_damaged_beginning_left_by_another_download_is_thrown_away(web: Web) -> None:
    web.plan = ["truncated", 404]
    with pytest.raises(UserError):
        fetch_file(web.address, "teacher", SHA256)
    (part,) = Path(os.environ["SIDA_CACHE"], "fetched").glob("*.part")
    content = bytearray(part.read_bytes())
    content[0] ^= 1
    part.write_bytes(content)
    assert fetch_file(web.address, "teacher", SHA256)[0].read_bytes() == CONTENT


def test_a_file_damaged_differently_each_time_is_called_corrupt(web: Web) -> None:
    web.plan = ["truncated", 404]
    with pytest.raises(UserError):
        fetch_file(web.address, "teacher", SHA256)
    (part,) = Path(os.environ["SIDA_CACHE"], "fetched").glob("*.part")
    part.write_bytes(b"x" + part.read_bytes()[1:])
    web.plan = ["whole", "flipped"]
    with pytest.raises(Corrupt, match="two downloads differ"):
        fetch_file(web.address, "teacher", SHA256)


def test_credentials_go_to_their_own_host_only_and_are_printed_nowhere(web: Web, place: Path) -> None:
    address = web.address.replace("127.0.0.1", "me:secret@127.0.0.1") + "?token=secret"
    web.plan, web.redirect = [302, 302], f"http://127.0.0.1:{web.port}/same.pkl"
    fetch_file(address, "teacher")
    assert [asked.get("Authorization", "")[:6] for asked in web.asked] == ["Basic "] * 3
    web.asked.clear()
    web.plan, web.redirect = [302], f"http://other:secret@localhost:{web.port}/elsewhere.pkl"
    fetch_file(address + "2", "teacher")
    assert ["Authorization" in asked for asked in web.asked] == [True, False]
    assert web.asked[1]["host"].startswith("localhost")
    web.plan = [404]
    with pytest.raises(UserError) as caught:
        fetch_file(address + "3", "teacher", "0" * 64)
    assert "127.0.0.1" in one_line(caught.value)
    written = [path for folder in ("store", "cache") for path in (place / folder).rglob("*.json")]
    assert written and all("secret" not in path.read_text() for path in (*written, place / "events"))


def test_a_redirect_without_end_ends(web: Web) -> None:
    web.plan, web.redirect = [302] * 20, web.address
    with pytest.raises(UserError, match="redirects more than 5 times"):
        fetch_file(web.address, "teacher", SHA256)
    assert len(web.asked) == 6


@pytest.mark.parametrize("location", ["https://127.0.0.1:99999/", "https://me:secret@a b/"])
def test_a_redirect_to_no_address_is_named(web: Web, location: str) -> None:
    web.plan, web.redirect = [302], location
    with pytest.raises(UserError, match="is not an address") as caught:
        fetch_file(web.address, "teacher", SHA256)
    one_line(caught.value)


def test_a_download_goes_through_the_proxy_of_the_environment_but_for_exempt_hosts(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{web.port}")
    monkeypatch.setenv("NO_PROXY", "fd00::/8,exempt.invalid")
    assert fetch_file("http://me:secret@files.invalid/net.pkl", "teacher", SHA256)[1] == SHA256
    assert web.asked[0]["path"] == "http://files.invalid/net.pkl"
    with pytest.raises(Unavailable, match="cannot reach the server"):
        fetch_file("http://www.exempt.invalid/net.pkl", "teacher", SHA256[::-1])
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/net.pkl", "begins with https://"),
        ("http://example.org/net.pkl", "needs a sha256"),
        ("file:///nowhere/net.pkl", "no such file"),
        ("https://no-such-host.invalid/net.pkl", "cannot reach the server"),
    ],
)
def test_an_address_that_cannot_be_fetched_is_named(address: str, said: str) -> None:
    with pytest.raises(SidaError, match=said) as caught:
        fetch_file(address, "teacher")
    one_line(caught.value)


def test_a_mirror_is_looked_at_before_the_network_and_by_the_address_s_own_digest(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "https://no-such-host.invalid/edm/a%20net.pkl?download=true"
    monkeypatch.setenv("SIDA_MIRROR", str(place / "mirror"))
    with pytest.raises(UserError, match=r"SIDA_MIRROR=.*no such folder"):
        fetch_file(address, "teacher")
    copy = place / "mirror" / "no-such-host.invalid" / "edm" / "a net.pkl"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    assert fetch_file(address, "teacher") == (copy, SHA256)
    assert recorded_sha256(address) == SHA256 and "NOT PINNED" in notes(place)
    copy.write_bytes(b"another")
    with pytest.raises(UserError, match=f"expects {SHA256}"):
        fetch_file(address, "teacher")
    long = "https://no-such-host.invalid/UT-Austin-PML/SiDA/resolve/main/EDM2_distillation/edm2_img512_xxl_sida_alpha1-077932.pkl"
    with pytest.raises(Unavailable) as caught:
        fetch_file(long, "generator")
    around = (
        "error: fetch_generator: ",
        " (it stayed away for 1 min, SIDA_PATIENCE) (log: /home/me/sida/runs/20261130-050006-x/log.txt)",
    )
    line = one_line(str(caught.value).join(around))  # as a run ends with it: what to do is not cut
    assert "edm2_img512_xxl_sida_alpha1-077932.pkl: cannot reach the server no-such-host.invalid: " in line
    assert "the network, or set SIDA_MIRROR" in line


def test_a_full_disk_is_said_before_it_is_full(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(UserError, match="disk full while fetching teacher") as caught:
        fetch_file(web.address, "teacher", SHA256)
    one_line(caught.value)


def test_a_cache_that_cannot_be_written_is_named(web: Web, place: Path) -> None:
    (place / "cache").write_text("a file")
    with pytest.raises(UserError, match="set SIDA_CACHE to a folder"):
        fetch_file(web.address, "teacher", SHA256)


def test_https_verifies_its_certificate_and_takes_an_authority_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serve(CONTENT, context) as web:
        with pytest.raises(UserError, match="no TLS connection") as caught:
            fetch_file(web.address, "teacher", SHA256)
        assert "SSL_CERT_FILE" in one_line(caught.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch_file(web.address, "teacher", SHA256)[0].read_bytes() == CONTENT
        web.plan, web.redirect = [302], web.address.replace("https", "http")
        with pytest.raises(UserError, match="not https"):
            fetch_file(web.address + "?down", "teacher", "0" * 64)


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http, "ATTEMPTS", 2)
    monkeypatch.setenv("SIDA_PATIENCE", "0")
    with serving() as server:
        yield server


def left(place: Path) -> list[Path]:
    """Files of downloads, whole or not."""
    fetched = place / "cache" / "fetched"
    return [*fetched.glob("*.part"), *(path for path in fetched.glob("*/*") if path.is_file())]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content_Length": "\xb2"}, "its Content-Length is"),
        ({"Content_Length": "-5"}, "its Content-Length is"),
        ({"Content_Length": "9" * 40}, "its Content-Length is"),
        ({"Content_Length": "9" * 15}, "has 999,999,999,999,999 bytes, more than 32 GiB"),
        ({"Content_Length": str(2**33)}, r"disk full .* GiB needed, 1.00 GiB free"),
    ],
)
def test_a_length_that_is_none_or_too_large_ends_in_a_line(
    raw: Server, place: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], said: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 2**30))
    raw.answer = answer(200, b"abc", **headers)
    with pytest.raises(SidaError, match=said) as caught:
        fetch_file(f"{raw.endpoint}/net.pkl", "teacher", SHA256)
    assert len(one_line(caught.value)) <= 300
    assert all(path.stat().st_size == 0 for path in left(place))


@pytest.mark.parametrize(
    "range_said",
    ["bytes \xb2-9/10", "bytes 5-", "bytes -1-9/10", "bytes 5-9/900", "bytes 5-900/901", "bytes 5-4/5", "", "x" * 9000],
)
def test_a_range_that_contradicts_is_begun_anew(raw: Server, monkeypatch: pytest.MonkeyPatch, range_said: str) -> None:
    monkeypatch.setattr(http, "ATTEMPTS", 3)
    content = CONTENT[:10]
    first = answer(200, content[:5], ETag='"1"', Content_Length="10")
    rest = answer(206, content[5:], ETag='"1"', Content_Range=range_said)
    replies = iter([first, rest, answer(200, content, ETag='"1"')])
    raw.answer = lambda *_: next(replies)
    path, _ = fetch_file(f"{raw.endpoint}/net.pkl", "teacher", hashlib.sha256(content).hexdigest())
    assert path.read_bytes() == content and len(raw.asked) == 3


def endless() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"


def test_an_answer_without_end_ends_at_the_limit_and_leaves_nothing(
    raw: Server, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sida.foreign.fetch.FILE_BYTES", 5 << 20)
    raw.answer = lambda *_: endless()
    with pytest.raises(UserError, match="does not end within") as caught:
        fetch_file(f"{raw.endpoint}/net.pkl", "teacher", SHA256)
    one_line(caught.value)
    assert left(place) == []


def test_an_answer_without_end_ends_before_the_disk_is_full_and_leaves_nothing(
    raw: Server, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("sida.foreign.fetch.LOOK_BYTES", 2 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000 << 20 if not looks.pop() else 100 << 20))
    looks = [True, False, False, False]
    raw.answer = lambda *_: endless()
    with pytest.raises(UserError, match=r"disk full while fetching teacher .*0.25 GiB needed, 0.10 GiB free") as caught:
        fetch_file(f"{raw.endpoint}/net.pkl", "teacher", SHA256)
    one_line(caught.value)
    assert left(place) == []


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX: "], ids=["status", "headers"])
def test_an_answer_that_drips_is_given_up(raw: Server, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    def dripping() -> Iterator[bytes]:
        yield said
        while True:
            yield b"H"
            time.sleep(0.05)

    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(http, "ATTEMPTS", 2)
    raw.answer = lambda *_: dripping()
    with pytest.raises(Unavailable, match=r"it does not answer within 0\.2 s") as caught:
        fetch_file(f"{raw.endpoint}/net.pkl", "teacher", SHA256)
    one_line(caught.value)


@pytest.mark.parametrize("packed", ["gzip", "x-gzip", "deflate", "br"])
def test_a_packed_file_that_its_server_calls_an_encoding_arrives_as_it_is(raw: Server, packed: str) -> None:
    archive = gzip.compress(CONTENT[:10_000])
    raw.answer = answer(200, archive, **{"Content-Encoding": packed})
    path, _ = fetch_file(f"{raw.endpoint}/cifar.tar.gz", "dataset", hashlib.sha256(archive).hexdigest())
    assert path.read_bytes() == archive


def test_progress_of_an_answer_without_length_claims_no_share_and_is_not_told_for_each_block(
    raw: Server, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sida.foreign.fetch.FILE_BYTES", 50 << 20)
    raw.answer = lambda *_: endless()
    with pytest.raises(UserError, match="does not end within"):
        fetch_file(f"{raw.endpoint}/net.pkl", "teacher", SHA256, step="fetch_teacher")
    assert '"total": 0' in notes(place) and notes(place).count('"event": "progress"') < 20


@pytest.mark.parametrize(
    "proxy", ["socks5://me:secret@127.0.0.1:1", "http://[::1", "garbage:://x", "http://127.0.0.1:99999"]
)
def test_a_proxy_that_is_none_is_named_and_not_the_address(
    web: Web, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UserError, match=r"^http_proxy .* is no proxy that is known: write http://HOST:PORT") as caught:
        fetch_file(web.address, "teacher", SHA256)
    one_line(caught.value)


def test_a_download_has_an_end_in_time(raw: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_SECONDS", 0.2)
    raw.answer = lambda *_: endless()
    with pytest.raises(SidaError, match="hours: run again") as caught:
        fetch_file(f"{raw.endpoint}/net.pkl", "teacher", SHA256)
    one_line(caught.value)


@pytest.mark.parametrize("location", ["http://[::1", "http://127.0.0.1:99999/", "//[", "https://" + "a" * 5000 + "/"])
def test_any_redirect_is_a_line(raw: Server, location: str) -> None:
    raw.answer = answer(302, Location=location)
    with pytest.raises(SidaError) as caught:
        fetch_file(f"{raw.endpoint}/net.pkl", "teacher", SHA256)
    assert len(one_line(caught.value)) <= 300


@pytest.mark.parametrize(
    "name", ["..", ".", "%00", "a%00b.pkl", "%2e%2e%2f%2e%2e%2fx", "a%2Fb.pkl", "\u4e2d" * 99, "x" * 300 + ".pkl", ""]
)
def test_any_name_can_be_kept(web: Web, place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SIDA_MIRROR", str(place / "mirror"))
    (place / "mirror").mkdir()
    web.redirect = web.address
    address = web.address.replace("net.pkl", quote(name, safe="%."))
    path, _ = fetch_file(address, "teacher", SHA256)
    assert path.read_bytes() == CONTENT and path.parent.name == SHA256 and path.is_relative_to(place / "cache")
    assert path.suffix == ".pkl" or ".pkl" not in name


def test_a_mirror_is_not_left_through_the_address(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDA_MIRROR", str(place / "mirror"))
    (place / "mirror" / "no.invalid").mkdir(parents=True)
    (place / "secret.pkl").write_bytes(CONTENT)
    with pytest.raises(Unavailable, match="cannot reach"):
        fetch_file("https://no.invalid/%2e%2e/%2e%2e/secret.pkl", "teacher", SHA256)


@pytest.mark.parametrize(
    "address", ["http://[::1/x", "https://host:99999/x", "https://host:x/x", "https://[/", "s3://["]
)
def test_what_is_no_address_is_called_so(address: str) -> None:
    for use in (fetch_file, functools.partial(digest_of_file, step="")):
        with pytest.raises(UserError, match="is not an address: correct it"):
            use(address, "teacher", None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML><title>Sign in</title>", r"is a web page \(HTML\) and not the file"),
        (b"<HTML><body>sign in", r"is a web page \(HTML\) and not the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
    ],
)
def test_what_is_sent_in_place_of_a_file_is_named_neither_kept_nor_recorded(
    web: Web, place: Path, content: bytes, said: str
) -> None:
    web.content = content
    for sha256 in (None, SHA256):
        with pytest.raises(UserError, match=said) as caught:
            fetch_file(web.address, "teacher", sha256)
        one_line(caught.value)
        assert left(place) == [] and recorded_sha256(web.address) is None
    web.content = CONTENT
    assert fetch_file(web.address, "teacher") == (fetch_file(web.address, "teacher", SHA256)[0], SHA256)


def test_a_file_is_recorded_once_it_has_been_read(web: Web, place: Path) -> None:
    def refuse(path: Path) -> None:
        assert path.read_bytes() == CONTENT
        raise UserError(f"teacher {path}: is no network")

    with pytest.raises(UserError) as caught:
        fetch_file(web.address, "teacher", check=refuse)
    assert one_line(caught.value) == (
        f"teacher {web.address}: is no network (its sha256 is not recorded, the download is thrown away)"
    )
    assert left(place) == [] and recorded_sha256(web.address) is None
    seen: list[Path] = []
    path, _ = fetch_file(web.address, "teacher", check=seen.append)
    assert seen == [path] and recorded_sha256(web.address) == SHA256
    fetch_file(web.address, "teacher", check=refuse)  # is known by its digest
