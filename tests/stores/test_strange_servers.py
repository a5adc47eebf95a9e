"""Answers that are not those of an S3 server: each a line, none taken for an empty store, a written object or one that is gone."""

from __future__ import annotations

import gc
import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sida import patience
from sida.errors import AlreadyExists, Corrupt, NotFound, SidaError, StoreUnusable, Unavailable, UserError
from sida.export.generator import open_generator
from sida.foreign.limits import FILE_BYTES
from sida.steps.garbage import find_garbage
from sida.stores import ObjectRef, ObjectStore, fetch_object, open_store, s3, s3_answers, s3_client
from sida.stores.cache import make_folders
from sida.stores.s3 import READERS
from tests.raw import Server, http, serving
from tests.stores.outage import hasten

XML = "application/xml"
SKEWED = b"<Error><Code>RequestTimeTooSkewed</Code><Message>x</Message></Error>"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    hasten(monkeypatch)
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.2)
    with serving() as made:
        _point_at(made, monkeypatch, tmp_path)
        yield made


def _point_at(server: Server, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name, value in {
        "SIDA_S3_ENDPOINT": server.endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "SIDA_PATIENCE": "0",
        "SIDA_CACHE": str(folder / "cache"),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def strange(server: Server) -> ObjectStore:
    store = open_store("s3://sida/x")
    store._conditional = True  # type: ignore[attr-defined]
    return store


USES: dict[str, Callable[[ObjectStore], object]] = {
    "read": lambda store: store.read("a/b"),
    "stat": lambda store: store.stat("a/b"),
    "list": lambda store: store.list("a/"),
    "put": lambda store: store.put("a/b", b"2"),
    "create": lambda store: store.put_if_absent("a/b", b"2"),
    "delete": lambda store: store.delete("a/b"),
}


def failure(store: ObjectStore, use: str) -> SidaError:
    with pytest.raises(SidaError) as caught:
        USES[use](store)
    line = str(caught.value)
    assert len(line) <= 300 and "\n" not in line and "s3cr3t" not in line and "<html" not in line
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        http(502, b"<html>Bad Gateway</html>"),
        http(502, b"<!DOCTYPE html><html><br>Bad Gateway"),
        http(500),
        http(503, b"upstream", XML),
        http(500, b"<other/>", XML),
        http(404, b"default backend - 404", "text/plain"),
        http(404, b"<html><br>404</html>"),
        http(520, b'{"a": 1}', "application/json"),
        b"garbage\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        http(200, b"abc", Content_Length="abc"),
        http(200, b"abc", Content_Length="-5"),
        http(200, b"abc", Content_Length="\xc2\xb2"),
        http(200, b"abc", Content_Length="9" * 30),
    ],
)
def test_what_may_pass_is_tried_again_and_ends_in_a_line(server: Server, strange: ObjectStore, answer: bytes) -> None:
    server.answer = answer
    for use in USES:
        server.asked.clear()
        error = failure(strange, use)
        tries = patience.QUICK_TRIES + (use == "create")  # which looks whether it was written
        assert isinstance(error, Unavailable) and len(server.asked) == tries, (use, error)


def test_an_answer_that_is_refused_leaves_no_connection_open(
    server: Server, strange: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: left.append(what.object))
    gc.disable()  # reference counting alone need not close them: a cycle holds the connection and its answer
    try:
        for length in ("abc", "\xc2\xb2", "-5", "9" * 30):
            server.answer = http(200, b"abc", Content_Length=length)
            assert isinstance(failure(strange, "read"), Unavailable)
        server.answer = http(200, b"abcdef", ETag="x")
        with pytest.raises(Corrupt):
            strange.read("a/b", most=3)
    finally:
        gc.enable()
    gc.collect()
    assert left == []


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"<html><br>sign in</html>"),
        http(200, b"<html><body>sign in</body></html>"),
        http(200),
        http(200, b"<ListBucketResult><IsTruncated>false</IsTru", XML),
        http(200, b"<ListBucketResult></ListBucketResult>", XML),
        http(200, b'{"a": 1}', "application/json"),
    ],
)
def test_a_page_or_nothing_in_place_of_an_answer_is_no_answer(
    server: Server, strange: ObjectStore, answer: bytes
) -> None:
    server.answer = answer
    for use in set(USES) - {"delete"}:
        assert isinstance(failure(strange, use), Unavailable)


def test_a_page_does_not_delete(server: Server, strange: ObjectStore) -> None:
    server.answer = http(200, b"<html><body>sign in</body></html>")
    assert "(a page)" in str(failure(strange, "delete"))
    server.answer = http(404, b"<Error><Code>NoSuchKey</Code></Error>", "text/plain")
    strange.delete("a/b")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_signed_request_follows_no_redirect(server: Server, strange: ObjectStore, status: int) -> None:
    elsewhere = Server()
    server.answer = http(status, Location=f"{elsewhere.endpoint.replace('//', '//me:s3cr3t@')}/x?token=s3cr3t")
    for use in USES:
        error = failure(strange, use)
        assert isinstance(error, StoreUnusable) and f"to {elsewhere.endpoint}/x; signed requests" in str(error)
    assert elsewhere.asked == [] and len(server.asked) == len(USES)
    server.answer = http(status, x_amz_bucket_region="eu-west-1")
    assert str(failure(strange, "list")).endswith(": set AWS_REGION to eu-west-1")
    elsewhere.listener.close()


@pytest.mark.parametrize("date", ["Sun, 01 Feb 2015 00:00:00 GMT", "Sun, 99 Feb 99999999999999999999 0:0:0 GMT", ""])
def test_a_clock_that_is_off_is_named_whatever_the_server_s_date(
    server: Server, strange: ObjectStore, date: str
) -> None:
    server.answer = http(403, SKEWED, XML, **({"Date": date} if date else {}))
    assert "this machine's clock is" in str(failure(strange, "list"))


def test_a_silent_server_costs_no_more_than_patience(
    server: Server, strange: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "QUICK_SECONDS", 0.1)
    monkeypatch.setenv("SIDA_PATIENCE", "0.3s")
    started = time.monotonic()
    assert "does not answer in time" in str(failure(strange, "read"))
    assert time.monotonic() - started < 1.5 and len(server.asked) <= 4


@pytest.mark.parametrize("page", [http(502, b"<html>Bad Gateway</html>"), http(500), http(200)])
def test_a_creation_that_is_answered_by_something_else_is_found_by_its_bytes(
    server: Server, strange: ObjectStore, page: bytes
) -> None:
    kept: list[bytes] = []

    def answer(method: str, body: bytes) -> bytes:
        if method == "GET":
            return http(200, kept[0], "binary/octet-stream", ETag='"1"') if kept else http(404, b"", XML)
        kept[:] = kept or [body]
        return page  # of a load balancer, which has not waited for the server

    server.answer = answer
    assert strange.put_if_absent("a/b", b"mine").size == 4
    assert server.asked.count("PUT") == patience.QUICK_TRIES
    with pytest.raises(Unavailable):
        strange.put_if_absent("a/b", b"other")
    assert kept == [b"mine"]
    kept.clear()
    taken = http(412, b"<Error><Code>PreconditionFailed</Code></Error>", XML)
    replies = iter([page, taken])
    server.answer = lambda method, body: next(replies) if method == "PUT" else http(404, b"", XML)
    with pytest.raises(AlreadyExists):  # and removed since
        strange.put_if_absent("a/b", b"mine")


def test_a_listing_without_end_ends(server: Server, strange: ObjectStore) -> None:
    page = b"<ListBucketResult><Name>sida</Name><IsTruncated>true</IsTruncated>%s</ListBucketResult>"
    for token in (b"", b"<NextContinuationToken>t</NextContinuationToken>"):
        server.answer = http(200, page % token, XML)
        assert "without end" in str(failure(strange, "list"))


def test_a_record_without_end_is_read_no_further_than_a_record_goes(server: Server, strange: ObjectStore) -> None:
    server.answer = http(200, b"{", "binary/octet-stream", ETag='"1"', Content_Length=str(9 << 30))
    with pytest.raises(Corrupt, match="is larger than"):  # before its bytes
        strange.read("a/b")
    block = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    endless = (block for _ in range(1 << 20))
    head = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nTransfer-Encoding: chunked\r\n\r\n'
    server.answer = lambda method, body: itertools.chain([head], endless)
    with pytest.raises(Corrupt, match="is larger than 1,000,000 bytes"):
        strange.read("a/b", most=1_000_000)
    assert len(server.asked) == 2 and next(endless)  # it is no failure that passes


def test_more_than_was_asked_for_is_not_taken_for_it(server: Server, strange: ObjectStore) -> None:
    server.answer = http(200, b"x" * 100, "binary/octet-stream", ETag='"1"')
    with pytest.raises(SidaError, match=r"sent more of .*/a/b than 10 bytes"):
        strange.read("a/b", 0, 10)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("https://sida.s3.eu-west-1.amazonaws.com", "leave the bucket out of SIDA_S3_ENDPOINT"),
        ("sida.s3.example.org:9000", "write https://s3.example.org:9000"),
        ("https://s3.example.org/sida", "without a bucket"),
        ("https://[::1", "is not an address"),
        ("https://host:99999", "is not an address"),
    ],
)
def test_an_endpoint_with_a_bucket_or_no_address_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, endpoint: str, said: str
) -> None:
    monkeypatch.setenv("SIDA_S3_ENDPOINT", endpoint)
    with pytest.raises(UserError, match=said):
        open_store("s3://sida/x").list()


NEXT = "<NextContinuationToken>t</NextContinuationToken>"
LISTED = b"<ListBucketResult><Name>sida</Name>%s</ListBucketResult>"
DENIED = http(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>", XML)


def test_what_may_be_listed_and_is_not_there_is_missing_where_aws_refuses_it(
    server: Server, strange: ObjectStore
) -> None:
    """To whoever may list below a prefix only, AWS answers 403 of an object that does not exist."""
    answers = [DENIED, listing()]
    server.answer = lambda method, body: answers[(len(server.asked) - 1) % 2]
    with pytest.raises(NotFound):
        strange.read("a/b")
    there = listing("x/a/b")
    answers = [DENIED, there, http(200, b"made", XML, ETag="1")]
    server.asked.clear()
    server.answer = lambda method, body: answers[len(server.asked) - 1]
    assert strange.read("a/b") == b"made"
    server.answer = lambda method, body: DENIED
    with pytest.raises(StoreUnusable, match="refuses these credentials"):
        strange.read("a/b")


def listing(*names: str, token: str | None = None) -> bytes:
    """A page of a list."""
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return page_of(*names, end=f"<IsTruncated>{str(bool(token)).lower()}</IsTruncated>{more}")


def page_of(*names: str, end: str) -> bytes:
    contents = "".join(f"<Contents><Key>{name}</Key></Contents>" for name in names)
    return http(200, LISTED % f"{contents}{end}".encode(), XML)


@pytest.mark.parametrize(
    ("use", "answer", "fault"),
    [
        (
            "list",
            http(200, LISTED % b"<Contents><ETag>x</ETag></Contents><IsTruncated>false</IsTruncated>", XML),
            "Contents.Key is missing",
        ),
        ("list", listing("x/a/b", "y/secret"), "lists what was not asked for"),
        ("list", listing("a/b"), "lists what was not asked for"),
        ("list", page_of(end="<IsTruncated>false</IsTruncated><Prefix>x/b/</Prefix>"), "lists what was not asked for"),
        ("list", listing().replace(b"<Name>sida<", b"<Name>aids<"), "lists another bucket"),
        ("list", page_of("x/a/b", end=""), "a list that does not say whether it ends"),
        ("list", page_of("x/a/b", end=NEXT), "a list that does not say whether it ends"),
        ("list", page_of("x/a/b", end="<IsTruncated>True</IsTruncated>"), "a list that does not say whether it ends"),
        ("list", page_of("x/a/b", end=f"<IsTruncated>false</IsTruncated>{NEXT}"), "ends, and names a next page"),
        ("list", page_of("x/a/b", end="<IsTruncated>false</IsTruncated><KeyCount>2</KeyCount>"), "counts 2 keys and"),
        ("stat", b'HTTP/1.1 200 OK\r\nETag: "1"\r\nConnection: close\r\n\r\n', "ContentLength is missing"),
        ("stat", http(200, Content_Length="3"), "ETag is missing"),
        ("read", http(200, b"x"), "ETag is missing"),
        ("put", http(200), "ETag is missing"),
    ],
)
def test_a_field_that_is_read_is_there_or_it_is_no_answer(
    server: Server, strange: ObjectStore, use: str, answer: bytes, fault: str
) -> None:
    server.answer = answer
    error = failure(strange, use)
    assert isinstance(error, Unavailable) and f"does not answer like an S3 server ({fault}" in str(error).replace(
        "(it ", "("
    )


def test_a_list_without_keys_says_nothing_of_what_is_refused(server: Server, strange: ObjectStore) -> None:
    answers = [DENIED, http(200, LISTED % b"<Contents><ETag>x</ETag></Contents><IsTruncated>false</IsTruncated>", XML)]
    server.answer = lambda method, body: answers[(len(server.asked) - 1) % 2]
    with pytest.raises(StoreUnusable, match="refuses these credentials"):
        strange.read("a/b")


def test_tokens_that_come_again_or_never_end_are_a_list_without_end(
    server: Server, strange: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = itertools.cycle("ABC")
    server.answer = lambda method, body: listing("x/a/b", token=next(tokens))
    assert "without end" in str(failure(strange, "list"))
    assert len(server.asked) == 4
    numbers = itertools.count()
    server.answer = lambda method, body: listing(f"x/a/{next(numbers)}", token=str(next(numbers)))
    monkeypatch.setattr(s3, "MOST_PAGES", 20)
    assert "without end" in str(failure(strange, "list"))
    monkeypatch.undo()
    monkeypatch.setattr(s3, "MOST_NAMES", 10)
    server.answer = lambda method, body: listing(*["x/a/b"] * 11, token=str(next(numbers)))
    assert "without end" in str(failure(strange, "list"))


def test_a_sign_of_a_folder_is_no_key(server: Server, strange: ObjectStore) -> None:
    signs = (
        "x/",
        "x/runs/",
        "x/steps/",
        "x/steps/score//",
        "x/objects/sha256/",
        "x//",
        "x/a/../b",
        "x/.tmp/1",
        "x/./a",
    )
    listed = listing(*signs, "x/objects/ab", "x/runs")
    server.answer = lambda method, body: listed if method == "GET" else http(404, b"", XML)
    assert strange.list() == ["objects/ab", "runs"]
    assert find_garbage(strange).all_keys() == []


@pytest.mark.parametrize(
    "body", [http(416, b"<Error><Code>InvalidRange</Code></Error>", XML), http(206, b"ab", ETag='"1"')]
)
def test_an_object_that_ends_too_early_is_read_no_further(server: Server, strange: ObjectStore, body: bytes) -> None:
    server.answer = body
    with pytest.raises(Corrupt, match=r"a/b is damaged: it ends after [02] bytes, expected 1,000,000,000,000,000,000"):
        list(strange.blocks("a/b", 0, 10**18))
    assert len(server.asked) <= 2 * READERS


def test_an_object_of_another_size_costs_the_cache_nothing(
    server: Server, strange: ObjectStore, tmp_path: Path
) -> None:
    server.answer = http(200, ETag='"1"', Content_Length="3")
    make_folders(tmp_path / "cache")
    kept = tmp_path / "cache" / "objects" / ("f" * 64)
    kept.write_bytes(b"kept")
    with pytest.raises(Corrupt, match=r"is damaged: 3 bytes, expected 10{18} of"):
        fetch_object(strange, ObjectRef("x.bin", 10**18, "a" * 64))
    assert kept.exists() and server.asked == ["HEAD"]


@pytest.mark.parametrize("size", [10**18, 30 << 30])
def test_a_generator_larger_than_the_disk_is_not_fetched(
    server: Server, strange: ObjectStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    server.answer = lambda method, body: (
        http(200, ETag='"1"', Content_Length=str(size)) if method == "HEAD" else http(206, b"x", ETag='"1"')
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 30))
    with pytest.raises(UserError, match="which no generator has" if size > FILE_BYTES else "are free in"):
        open_generator("s3://sida/x/generator.safetensors")
    assert server.asked == ["HEAD", "GET"]


@pytest.mark.parametrize("status", [200, 403, 503])
def test_an_answer_without_end_is_read_to_a_bound(
    server: Server, strange: ObjectStore, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(s3_answers, "ANSWER_BYTES", 1 << 20)
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        yield f"HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        yield b"6\r\n<List>\r\n"
        for _ in range(1 << 10):
            sent.append(1 << 16)
            yield b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    server.answer = lambda method, body: endless()
    for use in ("list", "put", *(["read"] if status != 200 else [])):
        sent.clear()
        assert "(more than 1,048,576 bytes)" in str(failure(strange, use))
        assert sum(sent) < patience.QUICK_TRIES * (16 << 20)
