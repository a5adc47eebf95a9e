"""What is S3's own: errors in one line, retries, the cache."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.auth
import pytest

from sida import patience
from sida.errors import AlreadyExists, Corrupt, LeaseHeld, StoreError, StoreUnusable, Unavailable, UserError
from sida.stores import ObjectRef, fetch_object, open_store, put_object
from sida.stores import s3 as s3_module
from sida.stores.lease import acquire
from tests.stores.faults import spoiling

MIB = 1 << 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error) and "testsecret" not in str(error)
    return str(error)


def test_a_wrong_secret_or_key_is_named_as_such(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "wrong")
        with pytest.raises(StoreUnusable) as caught:
            open_store(s3).put("key", b"1")
        assert "refuses these credentials" in one_line(caught.value)


def test_missing_credentials_are_named_with_what_to_set(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/")  # in place of the cloud's
    with pytest.raises(StoreUnusable, match=r"no credentials for s3://.*: set AWS_ACCESS_KEY_ID"):
        open_store(s3).put("key", b"1")


def test_credentials_of_the_aws_file_are_used(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = testkey\naws_secret_access_key = testsecret123\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    open_store(s3).put("key", b"1")


def test_keys_in_the_environment_need_no_profile(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    open_store(s3).put("key", b"1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreUnusable, match="no credentials for s3://"):
        open_store(s3).put("key", b"1")


def test_a_missing_bucket_is_named(s3: str) -> None:
    store = open_store("s3://nowhere/prefix")
    with pytest.raises(StoreUnusable, match="no bucket nowhere at http"):
        store.put("key", b"1")
    with pytest.raises(StoreUnusable, match="no bucket nowhere at http"):
        store.put_if_absent("key", b"1")


def test_an_unreachable_server_is_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    for address in (endpoint, "http://no-such-host.invalid"):
        monkeypatch.setenv("SIDA_S3_ENDPOINT", address)
        for use in (lambda: open_store(s3).read("key"), lambda: open_store(s3).put_if_absent("key", b"1")):
            with pytest.raises(Unavailable) as caught:
                use()
            assert f"cannot reach {address}" in one_line(caught.value)


def test_a_server_without_tls_is_not_talked_to_unless_the_endpoint_says_http(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for endpoint in (s3_endpoint.replace("http:", "https:"), s3_endpoint.removeprefix("http://")):
        monkeypatch.setenv("SIDA_S3_ENDPOINT", endpoint)
        with pytest.raises(StoreUnusable) as caught:
            open_store(s3).read("key")
        assert "no TLS connection" in one_line(caught.value)


@pytest.mark.parametrize("endpoint", ["ftp://host", "https://u:secret@host", "u:secret@host:9000", "http://host/path"])
def test_an_endpoint_that_is_no_address_is_refused_without_repeating_secrets(
    s3: str, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("SIDA_S3_ENDPOINT", endpoint)
    with pytest.raises(UserError, match="is not an address") as caught:
        open_store(s3).read("key")
    assert "secret" not in str(caught.value)


def test_a_wrong_clock_is_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(botocore.auth, "get_current_datetime"):
        pytest.skip("the clock of this old botocore cannot be set")
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: datetime.now(UTC) - timedelta(hours=3))
    monkeypatch.setattr("sida.stores.s3_errors.time.time", lambda: time.time_ns() / 1e9 - 3 * 3600)
    with pytest.raises(StoreUnusable) as caught:
        open_store(s3).stat("key")
    assert "clock is 10" in one_line(caught.value)


def test_conditional_creation_that_lost_its_answer_is_recognised_as_our_own(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spoiling(s3_endpoint) as proxy:
        monkeypatch.setenv("SIDA_S3_ENDPOINT", proxy.endpoint)
        store = open_store(s3)
        store.put_if_absent("before", b"1")
        proxy.plan, proxy.only = ["close after"], "PUT"
        store.put_if_absent("key", b"mine")
        assert not proxy.plan
        with pytest.raises(AlreadyExists):
            store.put_if_absent("key", b"mine")


class Flaky(BaseHTTPRequestHandler):
    """Answers 503 at first, or ignores conditions, as told by the server's ``mode``."""

    requests = 0
    mode = "busy"
    objects: dict[str, bytes] = {}

    def answer(self) -> None:
        Flaky.requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (Flaky.mode == "busy" and Flaky.requests <= 3) or Flaky.mode == "broken":
            self.send_response(503)
            text = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
            self.send_header("Content-Type", "application/xml")
        else:
            self.send_response(200)
            self.send_header("ETag", '"etag"')
            self.send_header("Last-Modified", "Wed, 25 Nov 2026 10:00:00 GMT")
            if self.command == "PUT":
                Flaky.objects[self.path] = body
            text = Flaky.objects.get(self.path, b"") if self.command == "GET" else b""
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_PUT = do_HEAD = do_DELETE = answer

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Flaky]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SIDA_S3_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    Flaky.requests, Flaky.objects = 0, {}
    yield Flaky
    server.shutdown()
    server.server_close()


def test_a_busy_server_is_asked_again(flaky: type[Flaky]) -> None:
    flaky.mode = "busy"
    open_store("s3://bucket").put("key", b"1")
    assert flaky.requests == 4 and flaky.objects == {"/bucket/key": b"1"}


def test_a_broken_server_is_asked_a_bounded_number_of_times(flaky: type[Flaky]) -> None:
    flaky.mode = "broken"
    with pytest.raises(StoreError, match="SlowDown") as caught:
        open_store("s3://bucket").put("key", b"1")
    one_line(caught.value)
    assert flaky.requests <= 3 * patience.QUICK_TRIES


def test_a_server_that_ignores_conditions_is_refused_before_anything_rests_on_it(flaky: type[Flaky]) -> None:
    flaky.mode = "lax"
    with pytest.raises(StoreUnusable, match="ignores If-None-Match"):
        open_store("s3://bucket").put_if_absent("key", b"1")


# -- the cache


def test_the_cache_keeps_to_its_limit_and_drops_what_was_used_longest_ago(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_CACHE_BYTES", str(3 * MIB))
    store = open_store(s3)
    refs = [put_object(store, bytes([n]) * MIB, f"{n}.bin") for n in range(5)]
    script = (
        "import sys; from sida.stores import *\n"
        "from hashlib import sha256\n"
        "for n in sys.argv[2]: c = bytes([int(n)]) * (1 << 20); "
        "fetch_object(open_store(sys.argv[1]), ObjectRef(n + '.bin', len(c), sha256(c).hexdigest()))"
    )
    for order in ("012", "0", "3"):  # each in a process of its own, which then lets go
        subprocess.run([sys.executable, "-c", script, s3, order], check=True)
    cached = {path.name[:64] for path in (tmp_path / "cache" / "objects").iterdir()}
    assert cached == {refs[0].sha256, refs[2].sha256, refs[3].sha256}


def test_what_a_living_process_was_given_is_not_evicted(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDA_CACHE_BYTES", str(MIB))
    store = open_store(s3)
    refs = [put_object(store, bytes([n]) * MIB, f"{n}.bin") for n in range(3)]
    paths = [fetch_object(store, ref) for ref in refs]
    assert all(path.stat().st_size == MIB for path in paths)


def test_a_killed_download_is_continued_where_it_ended(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(40 * MIB)
    store = open_store(s3)
    ref = put_object(store, content, "big.bin")
    script = (
        "import os, signal, sys; from sida.stores import *; from sida.stores import s3\n"
        "blocks = s3.S3Store.blocks\n"
        "def die(*a):\n"
        "    for n, block in enumerate(blocks(*a)):\n"
        "        if n == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield block\n"
        "s3.S3Store.blocks = die\n"
        "fetch_object(open_store(sys.argv[1]), ObjectRef('big.bin', int(sys.argv[2]), sys.argv[3]))"
    )
    killed = subprocess.run([sys.executable, "-c", script, s3, str(ref.size), ref.sha256])
    assert killed.returncode == -signal.SIGKILL
    asked: list[int] = []
    blocks = s3_module.S3Store.blocks

    def spy(self: s3_module.S3Store, key: str, offset: int, size: int) -> Iterator[bytes]:
        asked.append(offset)
        return blocks(self, key, offset, size)

    monkeypatch.setattr(s3_module.S3Store, "blocks", spy)
    assert fetch_object(store, ref).read_bytes() == content
    assert len(asked) == 1 and 16 * MIB <= asked[0] < 40 * MIB


def test_a_wrong_beginning_left_by_another_download_is_thrown_away(s3: str, tmp_path: Path) -> None:
    store = open_store(s3)
    ref = put_object(store, b"right content", "a.bin")
    part = tmp_path / "cache" / "objects" / f"{ref.sha256}.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"wrong")
    assert fetch_object(store, ref).read_bytes() == b"right content"


def test_many_processes_download_an_object_once(s3: str, tmp_path: Path) -> None:
    content = os.urandom(20 * MIB)
    ref = put_object(open_store(s3), content, "big.bin")
    script = (
        "import sys; from sida.stores import *; from sida.stores import cache\n"
        "real = cache._download\n"
        "def download(*a): print('downloaded'); real(*a)\n"
        "cache._download = download\n"
        "fetch_object(open_store(sys.argv[1]), ObjectRef('big.bin', int(sys.argv[2]), sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, s3, str(ref.size), ref.sha256]
    fetchers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    said = [fetcher.communicate()[0] for fetcher in fetchers]
    assert all(fetcher.returncode == 0 for fetcher in fetchers)
    assert b"".join(said) == b"downloaded\n"


def test_damage_in_transit_or_store_is_found_after_two_downloads(s3: str) -> None:
    store = open_store(s3)
    ref = ObjectRef("a.bin", 5, hashlib.sha256(b"right").hexdigest())
    store.put(ref.key, b"wrong")
    with pytest.raises(Corrupt, match="sha256"):
        fetch_object(store, ref)


def test_a_cache_that_cannot_be_written_is_named(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "file"))
    store = open_store(s3)
    ref = put_object(store, b"1", "a.bin")
    with pytest.raises(UserError, match="set SIDA_CACHE to a folder"):
        fetch_object(store, ref)


@pytest.mark.parametrize("set_back", [False, True])
def test_a_flipped_byte_in_the_cache_is_never_read(s3: str, tmp_path: Path, set_back: bool) -> None:
    store = open_store(s3)
    ref = put_object(store, b"right content", "a.bin")
    path = fetch_object(store, ref)
    assert path.stat().st_mode & 0o777 == 0o444
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"wrong content")
    if set_back:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fetch_object(store, ref).read_bytes() == b"right content"
    for marker in (tmp_path / "cache" / "verified").iterdir():
        marker.unlink()  # as an earlier version left the cache
    path.chmod(0o644)
    path.write_bytes(b"wrong content")
    assert fetch_object(store, ref).read_bytes() == b"right content"


def test_a_cached_object_is_hashed_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3)
    ref = put_object(store, b"right content", "a.bin")
    fetch_object(store, ref)
    monkeypatch.setattr(hashlib, "file_digest", None)
    for _ in range(3):
        assert fetch_object(store, ref).read_bytes() == b"right content"


def test_a_damaged_object_that_is_stored_again_is_replaced(s3: str) -> None:
    store = open_store(s3)
    ref = put_object(store, b"right content", "a.bin")
    store.put(ref.key, b"wrong content")
    put_object(store, b"right content", "a.bin")
    assert store.read(ref.key) == b"right content"


def test_a_living_lease_is_not_overwritten_by_one_whose_answers_are_cut_short(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3)
    with acquire(store, "held", ttl=600) as held:
        read = s3_module.S3Store.read
        monkeypatch.setattr(s3_module.S3Store, "read", lambda *a: (whole := read(*a))[: len(whole) // 2])
        begun = time.monotonic()
        with pytest.raises(LeaseHeld, match="cannot be read"):
            acquire(store, "held", ttl=600, wait=1)
        assert time.monotonic() - begun < 10 and len(store.list("leases/")) == 1
        held.check()
