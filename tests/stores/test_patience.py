"""A store that is away for a while: what passes is waited for and said once, what does not pass ends at once."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sida import patience, progress
from sida.errors import AlreadyExists, Fenced, SidaError, StoreUnusable, Unavailable
from sida.stores import ObjectStore, open_store, s3_client
from sida.stores.lease import acquire
from sida.stores.s3 import S3Store
from tests.stores.faults import spoiling
from tests.stores.outage import ANSWERS, Way, hasten, way_to

AWAY = r"the store at (http://\S+) is away since \d\d:\d\d:\d\d.* \((.+)\): waiting up to 20 s for it \(SIDA_PATIENCE\)"
BACK = r"the store at (http://\S+) is back after (\d+) s"


@pytest.fixture
def way(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The environment points at the way; pauses are tenths of seconds."""
    hasten(monkeypatch)
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.3)
    monkeypatch.delenv("SIDA_EVENTS", raising=False)
    monkeypatch.setenv("SIDA_PATIENCE", "20s")
    progress.work_on("distill")
    note = progress.note
    with way_to(s3_endpoint) as opened:

        def then_open(step: str, text: str, **fields: str) -> None:
            note(step, text, **fields)
            if "away" in fields and opened.opens_when_told:
                threading.Timer(0.3, opened.open).start()

        monkeypatch.setattr(progress, "note", then_open)
        monkeypatch.setenv("SIDA_S3_ENDPOINT", opened.endpoint)
        yield opened
    progress.work_on("")


USES: dict[str, Callable[[ObjectStore], object]] = {
    "put": lambda store: store.put("new", b"1"),
    "create": lambda store: store.put_if_absent("new", b"1"),
    "read": lambda store: store.read("key"),
    "stat": lambda store: store.stat("key"),
    "list": lambda store: store.list("key"),
    "delete": lambda store: store.delete("key"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["", "502 page"])
def test_every_request_waits_for_a_store_that_is_away_and_that_is_said_once(
    s3: str, way: Way, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, use: str, kind: str
) -> None:
    store = open_store(s3)
    store.put("key", b"1")
    store.put_if_absent("warm", b"1")
    caplog.set_level(logging.WARNING)
    way.shut_until_told(kind)
    USES[use](store)
    away, back = capsys.readouterr().err.splitlines()
    assert (told := re.fullmatch(f"distill: {AWAY}", away)) and told[1] == way.endpoint
    assert (told := re.fullmatch(f"distill: {BACK}", back)) and 1 <= int(told[2]) <= 9
    assert not caplog.records  # urllib3 says nothing of its own


@pytest.mark.parametrize("kind", [*ANSWERS, "nothing"])
def test_whatever_a_proxy_says_for_a_store_that_is_away_is_waited_for(
    s3: str, way: Way, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    store = open_store(s3)
    store.put("key", b"1")
    way.shut_until_told(kind)
    assert store.read("key") == b"1"
    assert re.match(f"distill: {AWAY}\ndistill: {BACK}\n$", capsys.readouterr().err)


def test_a_name_that_is_not_found_for_a_moment_is_waited_for(
    s3: str, way: Way, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    until, look_up = time.monotonic() + 1.0, socket.getaddrinfo

    def not_found_at_first(*arguments: object, **options: object) -> object:
        if time.monotonic() < until:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", not_found_at_first)
    open_store(s3).put("key", b"1")
    assert "(its name is not found): waiting up to 20 s" in capsys.readouterr().err


def test_a_short_trouble_is_not_worth_a_word(
    s3: str, way: Way, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.5)
    store = open_store(s3)
    store.put("key", b"1")
    way.shut_for(0.1)
    assert store.read("key") == b"1"
    assert capsys.readouterr().err == ""


def test_when_patience_ends_the_error_says_so_and_nothing_waits_a_second_time(
    s3: str, way: Way, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDA_PATIENCE", "1.5")
    store = open_store(s3)
    store.put("key", b"1")
    way.shut()
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        store.read("key")
    assert 1.4 < time.monotonic() - started < 4
    assert caught.value.exit_code == 75
    assert re.fullmatch(
        rf"cannot reach {way.endpoint} \(it refuses connections\): is the server running, and SIDA_S3_ENDPOINT right\? "
        r"\(it stayed away for [12] s, SIDA_PATIENCE\)",
        str(caught.value),
    )
    started = time.monotonic()
    with pytest.raises(Unavailable):
        store.put("key", b"2")
    assert time.monotonic() - started < 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    way.open()
    assert store.read("key") == b"1"
    assert "is back after" in capsys.readouterr().err
    way.shut_for(0.5)
    assert store.read("key") == b"1"  # another outage, with patience of its own


def test_what_does_not_pass_ends_at_once(s3: str, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    store = open_store(s3)
    assert not store.exists("nothing")
    with pytest.raises(StoreUnusable, match="no bucket"):
        open_store("s3://nowhere/x").put("key", b"1")
    monkeypatch.setenv("SIDA_S3_ENDPOINT", way.endpoint.replace("http:", "https:"))
    with pytest.raises(StoreUnusable, match="no TLS connection"):
        open_store(s3).read("key")
    monkeypatch.setenv("SIDA_S3_ENDPOINT", "http://")
    with pytest.raises(SidaError, match="is not an address"):
        open_store(s3).read("key")
    monkeypatch.setenv("SIDA_S3_ENDPOINT", way.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnusable, match="refuses these credentials"):
        open_store(s3).put("key", b"1")
    assert time.monotonic() - started < 5


def test_of_many_threads_that_wait_one_speaks_and_all_go_on_when_one_gets_through(
    s3: str, way: Way, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(s3)
    store.put("key", b"1")
    with ThreadPoolExecutor(16) as threads:
        way.shut_until_told()
        assert list(threads.map(store.read, ["key"] * 32)) == [b"1"] * 32
    assert re.match(f"distill: {AWAY}\ndistill: {BACK}\n$", capsys.readouterr().err)


def test_who_cannot_wait_does_not_and_says_nothing(s3: str, way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(s3)
    way.shut()
    started = time.monotonic()
    with patience.impatient(), pytest.raises(Unavailable):
        store.read("key")
    assert time.monotonic() - started < 2
    assert capsys.readouterr().err == ""


def test_a_wait_ends_when_its_process_is_asked_to_stop(s3: str, way: Way) -> None:
    store = open_store(s3)
    way.shut()
    until = time.monotonic() + 1.0

    def stop() -> None:
        if time.monotonic() > until:
            raise SidaError("stopped")

    with patience.ticking(stop), pytest.raises(SidaError, match="stopped"):
        store.read("key")
    assert time.monotonic() - until < 3


def test_a_creation_whose_answer_the_outage_took_is_known_as_our_own(
    s3: str, s3_endpoint: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spoiling(s3_endpoint) as proxy, way_to(proxy.endpoint) as longer:
        monkeypatch.setenv("SIDA_S3_ENDPOINT", longer.endpoint)
        store = open_store(s3)
        store.put_if_absent("warm", b"1")
        proxy.plan, proxy.only = ["close after"], "PUT"
        sent = store._send  # type: ignore[attr-defined]

        def then_away(*arguments: object, **options: object) -> object:
            try:
                return sent(*arguments, **options)
            finally:
                monkeypatch.setattr(store, "_send", sent)
                longer.shut_for(1.0)

        monkeypatch.setattr(store, "_send", then_away)
        store.put_if_absent("key", b"mine")
        with pytest.raises(AlreadyExists):
            store.put_if_absent("key", b"mine")


SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO)  # as kfp's executor does
from sida.stores import open_store
open_store(sys.argv[1]).put("key", b"1")
"""


def test_a_process_that_logs_shows_two_lines_of_an_outage_and_none_of_urllib3(s3: str, way: Way) -> None:
    way.shut()
    command = [sys.executable, "-c", SCRIPT, s3]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        way.open()
        rest = process.stderr.read()
    assert process.returncode == 0
    assert re.match(AWAY, first) and re.fullmatch(f"{BACK}\n", rest), first + rest


# -- leases


def test_a_lease_that_expired_while_the_store_was_away_is_still_the_holders(s3: str, way: Way) -> None:
    store = open_store(s3)
    with acquire(store, "key", ttl=0.6) as held:
        way.shut_for(2.0)
        held.guarded(lambda: store.put("published", b"1"))
        assert store.read("published") == b"1"


def test_a_holder_that_was_taken_over_while_it_waited_publishes_nothing(
    s3: str, s3_endpoint: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3)
    monkeypatch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
    direct = open_store(s3)
    with acquire(store, "key", ttl=0.6) as held:
        way.shut()
        monkeypatch.setattr(patience, "settled_for", lambda: float("inf"))
        monkeypatch.setattr("sida.stores.lease.SLACK_SECONDS", 0.1)
        with acquire(direct, "key", wait=20, owner="the second"):
            threading.Timer(1.0, way.open).start()
            with pytest.raises(Fenced, match="the second"):
                held.guarded(lambda: store.put("published", b"1"))
            assert not direct.exists("published")


def test_who_wants_a_key_right_after_an_outage_lets_its_holder_renew_it_first(s3: str, way: Way) -> None:
    store = open_store(s3)
    assert isinstance(store, S3Store)
    with acquire(store, "key", ttl=2.0) as held:
        way.shut_for(3.5)
        notes: list[str] = []
        threading.Timer(5.5, held.release).start()
        with acquire(store, "key", ttl=2.0, wait=10, note=notes.append) as mine:
            assert mine.number == 2 and held.number == 1
    assert len(notes) == 1  # it was found alive, and waited for
