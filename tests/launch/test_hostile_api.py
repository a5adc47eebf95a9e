"""What answers in place of a Kubernetes API or Kubeflow Pipelines: pages, endless and slow answers, other JSON."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.engines.kubeflow import Client, _listed
from pipeline.profile import Profile
from sida.errors import SidaError
from sida.launch import answers
from sida.launch.cluster import Cluster
from sida.launch.looker import Looker, Looks
from tests.raw import http, serving

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


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_what_is_no_api_is_told_in_a_line(answer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(answers, "ANSWER_BYTES", 1 << 20)
    with serving() as server:
        server.answer = (lambda method, body: answer()) if callable(answer) else answer  # type: ignore[assignment]
        began = time.monotonic()
        cluster = {"name": "c", "cluster": {"server": server.endpoint}}
        context = {"name": "c", "context": {"cluster": "c", "user": ""}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [cluster],
            "contexts": [context],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(SidaError):
            Cluster("work", outage_seconds=0.0).pods("")
        looks = Looks()
        assert Looker("work", looks).look("pods", lambda cluster: cluster.pods("")) is None
        assert looks.missing
        profile = Profile.model_validate(
            {
                "description": "x",
                "kfp": {"host": server.endpoint, "experiment": "sida"},
                "store": "s3://b/x",
                "images": {"cpu": "registry.test/sida@sha256:" + "1" * 64},
            }
        )
        with suppress(SidaError):  # a list of no runs is one
            assert isinstance(Client(profile).runs(10), list)
        assert time.monotonic() - began < 30


def test_a_list_whose_pages_never_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    page = SimpleNamespace(runs=[], next_page_token="again")
    with pytest.raises(ValueError, match="pages"):
        list(_listed(lambda **options: page, "runs"))
