"""What answers in place of a Kubernetes API or Kubeflow Pipelines: pages, endless and slow answers, other JSON."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engines.kubeflow import Client, _listed
from pipeline.profile import Profile
from sida.errors import SidaError
from sida.launch import answers
from sida.launch.cluster import LINE_BYTES, ApiRefused, Cluster, NoApi, Unreachable, explain, lines
from sida.launch.looker import Looker, Looks
from sida.printing import guarded
from tests.raw import Server, http, serving

TOKEN = "hunter2-of-the-kubeconfig"
OBJECTS = [
    None,
    1,
    "x",
    [],
    {},
    {"metadata": None},
    {"metadata": {"name": None}},
    {"metadata": {"name": "a"}, "spec": 1},
]
NAMED = {"metadata": {"name": "a", "uid": "u"}}
MISSHAPEN: list[tuple[Any, str]] = [
    ({"metadata": {"name": "a"}}, "an object without metadata.uid"),
    ({"metadata": {"name": "a\nb", "uid": "u"}}, "an object without metadata.name"),
    ({"metadata": {"name": "../a", "uid": "u"}}, "an object without metadata.name"),
    ({"metadata": {"name": "a", "uid": "u", "labels": {"x": 5}}}, "metadata.labels.x is no text"),
    (NAMED | {"status": {"conditions": [None]}}, "status.conditions holds null"),
    (NAMED | {"status": "x"}, "status is no object"),
    (NAMED | {"status": {"phase": ["x"]}}, "status.phase is no text"),
    (NAMED | {"status": {"containerStatuses": "x"}}, "status.containerStatuses is no list"),
    (NAMED | {"status": {"containerStatuses": ["x"]}}, "status.containerStatuses is no object"),
    (NAMED | {"status": {"containerStatuses": [{"state": 1}]}}, "status.containerStatuses.state is no object"),
    (NAMED | {"status": {"initContainerStatuses": 5}}, "status.initContainerStatuses is no list"),
    (NAMED | {"status": {"conditions": [1]}}, "status.conditions is no object"),
    (NAMED | {"status": {"jobsStatus": 5}}, "status.jobsStatus is no list"),
    (NAMED | {"spec": {"trainer": {"numNodes": "two"}}}, "spec.trainer.numNodes is no number"),
]
BODIES = [
    b"<html>sign in</html>",
    b"",
    b"null",
    b"[1]",
    b"\xff",
    b"[" * 100_000,
    b"1" * 6000,
    b'{"items": null, "runs": null, "experiments": 1}',
    b'{"items": "abc", "runs": "abc", "experiments": "abc"}',
    *(json.dumps({"items": [item], "experiments": [item], "runs": [item]}).encode() for item in OBJECTS),
]


def endless() -> Iterator[bytes]:
    yield b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"items": ['
    yield from itertools.repeat(b"{}," * 10_000)


def refusal_without_end() -> Iterator[bytes]:
    yield b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\r\n"
    yield from itertools.repeat(b"x" * 30_000)


def dripping() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"
    for _ in range(100):
        time.sleep(0.1)
        yield b" "


def dripping_headers() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for _ in range(100):
        time.sleep(0.1)
        yield b"X-A: b\r\n"


ANSWERS = [
    *(http(200, body, "application/json") for body in BODIES),
    endless,
    refusal_without_end,
    dripping,
    dripping_headers,
]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """What a kubeconfig names as the Kubernetes API."""
    with serving() as server:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server.endpoint}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        yield server


@pytest.mark.parametrize(("item", "said"), MISSHAPEN, ids=[f"{n} {said}" for n, (_, said) in enumerate(MISSHAPEN)])
def test_a_field_that_is_no_api_s_is_named_where_its_object_comes_in(server: Server, item: Any, said: str) -> None:
    server.answer = http(200, json.dumps({"items": [item]}).encode(), "application/json")
    cluster = Cluster("work", outage_seconds=0.0)
    for call in (cluster.pods, cluster.pods_now, cluster.find):
        if call == cluster.pods_now:  # where nothing depends on it
            assert call("") is None
            continue
        with pytest.raises(NoApi, match=rf"does not answer as a Kubernetes API does \({said}\)"):
            call("")
    server.answer = http(200, json.dumps(item).encode(), "application/json")
    with pytest.raises(NoApi):
        cluster.get("a")


def test_an_object_of_another_name_is_not_the_one_that_was_asked_for(server: Server) -> None:
    server.answer = http(200, json.dumps(NAMED).encode(), "application/json")
    cluster = Cluster("work", outage_seconds=0.0)
    made = {"metadata": {"name": "b"}}
    for use in (lambda: cluster.get("b"), lambda: cluster.workflow("b"), lambda: cluster.create(made)):
        with pytest.raises(NoApi, match="a in place of b"):
            use()
    assert cluster.workflow("a") == NAMED == cluster.get("a")


END = b"0\r\n\r\n"
LOG = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def test_a_line_without_end_is_cut_where_it_is_read_and_the_next_is_read_on(server: Server) -> None:
    block, after = chunk(b"x" * (1 << 20)), chunk(b"\nafter\nrest")
    server.answer = lambda method, body: itertools.chain(
        [LOG, chunk(b"2026Z first\n2026Z ")], [block] * 64, [after, END]
    )
    response = Cluster("work").log("pod", "main")
    tracemalloc.start()
    read = list(lines(response))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read[0] == b"2026Z first" and read[2:] == [b"after", b"rest"]
    assert len(read[1]) == LINE_BYTES + 4 and read[1].endswith(b"x ...")
    assert peak < 4 << 20
    server.answer = lambda method, body: itertools.chain([LOG], [chunk(b"x")] * 2 * LINE_BYTES, [END])
    assert list(lines(Cluster("work").log("pod", "main", follow=True), follow=True)) == [
        read[1].removeprefix(b"2026Z ")[:-4] + b"xxxxxx ..."
    ]


def test_a_log_that_drips_ends_where_nobody_follows_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 0.5)

    def drips() -> Iterator[bytes]:
        yield LOG + chunk(b"2026Z first\n2027Z ")
        for _ in range(20):
            time.sleep(0.1)
            yield chunk(b"x")
        yield END

    server.answer = lambda method, body: drips()
    looker = Looker("work", Looks())
    log = looker.log("pod", "main", follow=False)
    assert log is not None and next(log) == "first"
    time.sleep(0.6)  # its reader may take its time
    with pytest.raises(Unreachable, match="the log broke off here"):
        list(log)
    followed = looker.log("pod", "main", follow=True)
    assert followed is not None and list(followed) == ["first", "x" * 20]
    assert looker.last_lines("pod", "main") is None  # an error's explanation that does not come


def test_a_trainjob_that_no_step_made_is_none_of_a_run_s(server: Server) -> None:
    ours = {"metadata": {"name": "b", "uid": "v", "labels": {"sida/step": "distill"}}}
    server.answer = http(200, json.dumps({"items": [NAMED, ours]}).encode(), "application/json")
    assert Cluster("work").find("sida/run=r") == [ours]


@pytest.mark.parametrize("of_kfp", ["KFP_TOKEN", "kfp.cookies_variable"])
def test_what_logs_us_in_is_masked_where_an_answer_repeats_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], of_kfp: str
) -> None:
    word = f"s3cr3t-of-the-{of_kfp[-5:]}"
    asked = {"kfp": {"host": server.endpoint, "experiment": "sida"}}
    if of_kfp == "KFP_TOKEN":
        monkeypatch.setenv("KFP_TOKEN", word)
    else:
        monkeypatch.setenv("COOKIES_OF_TESTS", f"theme=dark; session={word}")
        asked["kfp"]["cookies_variable"] = "COOKIES_OF_TESTS"
    told = f"bad login {TOKEN} or {word}, Basic {b64encode(f'me:{TOKEN}'.encode()).decode()}"
    body = json.dumps({"kind": "Status", "message": told, "error_message": told, "reason": TOKEN}).encode()
    server.answer = http(403, body, "application/json")
    with pytest.raises(ApiRefused) as refused:
        Cluster("work").pods("")
    with pytest.raises(SidaError) as error:
        Client(profile(server, **asked)).runs(10)
    for line in (str(explain(refused.value, "list pods", "work")), str(error.value), f"{refused.value.reason}"):
        with guarded():
            print(line)
        line += capsys.readouterr().out
        assert TOKEN not in line and word not in line and "***" in line


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_what_is_no_api_is_told_in_a_line(answer: object, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(answers, "ANSWER_BYTES", 1 << 20)
    server.answer = (lambda method, body: answer()) if callable(answer) else answer  # type: ignore[assignment]
    began = time.monotonic()
    with pytest.raises(SidaError):
        Cluster("work", outage_seconds=0.0).pods("")
    looks = Looks()
    assert Looker("work", looks).look("pods", lambda cluster: cluster.pods("")) is None
    assert looks.missing
    with suppress(SidaError):  # a list of no runs is one
        assert isinstance(Client(profile(server)).runs(10), list)
    assert time.monotonic() - began < 30


def profile(server: Server, **fields: Any) -> Profile:
    return Profile.model_validate(
        {
            "description": "x",
            "kfp": {"host": server.endpoint, "experiment": "sida"},
            "store": "s3://b/x",
            "images": {"cpu": "registry.test/sida@sha256:" + "1" * 64},
            **fields,
        }
    )


def test_a_list_whose_pages_never_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    page = SimpleNamespace(runs=[], next_page_token="again")
    with pytest.raises(ValueError, match="pages"):
        list(_listed(lambda **options: page, "runs"))
