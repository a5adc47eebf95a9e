"""A run on two machines: two network namespaces where we are root, the loopback where not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

TINY = ROOT / "tests" / "recipes" / "tiny.yaml"
LEADER, FOLLOWER = "10.177.31.1", "10.177.31.2"


class Network:
    """Two namespaces joined by one cable, or nothing but this machine's loopback."""

    def __init__(self, tag: str) -> None:
        self.tag, self.real = tag, False

    def up(self) -> None:
        if os.geteuid() or shutil.which("ip") is None:
            return
        a, b = self.tag + "a", self.tag + "b"
        try:
            self._ip("netns", "add", a)
        except subprocess.CalledProcessError:
            return  # a container that may not
        self.real = True
        self._ip("netns", "add", b)
        self._ip("link", "add", a, "netns", a, "type", "veth", "peer", "name", b, "netns", b)
        for space, address in ((a, LEADER), (b, FOLLOWER)):
            self._ip("-n", space, "addr", "add", f"{address}/24", "dev", space)
            self._ip("-n", space, "link", "set", space, "up")
            self._ip("-n", space, "link", "set", "lo", "up")

    def down(self) -> None:
        if self.real:
            for space in (self.tag + "a", self.tag + "b"):
                subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)

    def cable(self, state: str) -> None:
        self._ip("-n", self.tag + "b", "link", "set", self.tag + "b", state)

    @property
    def host(self) -> str:
        return LEADER if self.real else "127.0.0.1"

    def on(self, rank: int) -> list[str]:
        """What a command begins with to run on this machine."""
        return ["ip", "netns", "exec", self.tag + "ab"[rank]] if self.real else []

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    found = Network(f"sida{os.getpid() % 10000}")
    try:
        found.up()
        yield found
    finally:
        found.down()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(network: Network, recipe: Path, rank: int, port: int, place: Path) -> subprocess.Popen[str]:
    command = [
        *(*network.on(rank), sys.executable, "-m", "pipeline", "run", str(recipe), "--nodes", "2", "--json"),
        *("--node-rank", str(rank), "--rendezvous", f"{network.host}:{port}"),
    ]
    # A machine each: folders of their own for logs and cache, one store.
    mine = {"SIDA_RUNS": str(place / f"runs{rank}"), "SIDA_CACHE": str(place / f"cache{rank}"), "SIDA_WORKERS": "1"}
    with (place / f"stderr{rank}").open("a") as stderr:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | mine, stdout=subprocess.PIPE, stderr=stderr, text=True
        )


def _generator(stdout: str) -> str:
    return str(json.loads(stdout)["generator"]).rsplit("/", 1)[1]


def _alone(recipe: Path, place: Path) -> str:
    """The generator of the same run in two processes of one machine."""
    mine = {"SIDA_STORE": f"file://{place / 'alone'}", "SIDA_RUNS": str(place / "alone-runs"), "SIDA_WORKERS": "2"}
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | mine, capture_output=True, text=True, check=True)
    return _generator(done.stdout)


def _until(place: Path, pattern: str, count: int, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while len(list(place.glob(pattern))) < count:
        said = [(place / f"stderr{rank}").read_text()[-1000:] for rank in (0, 1)]
        assert time.monotonic() < end, f"waited in vain for {pattern}: {said}"
        time.sleep(0.1)


@pytest.mark.slow
def test_two_machines_give_the_numbers_of_one_and_a_cut_cable_ends_in_a_restart(
    network: Network, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_TIMEOUT", "30")
    shutil.copy(TINY, place / "tiny.yaml")
    recipe = place / "longer.yaml"
    recipe.write_text("extends: tiny\nname: longer\nmethod: {images: 6_144}\n")
    port = _free_port()
    nodes = [_start(network, recipe, rank, port, place) for rank in (0, 1)]
    try:
        if network.real:
            _until(place, "store/jobs/distill/*/1/checkpoints/*.json", 2)
            network.cable("down")
            time.sleep(40)  # longer than SIDA_TIMEOUT
            network.cable("up")
        stdout, _ = nodes[0].communicate(timeout=600)
        said = (place / "stderr0").read_text()
        assert nodes[0].returncode == 0, said
        assert nodes[1].wait(timeout=60) == 0, (place / "stderr1").read_text()
    finally:
        for node in nodes:
            node.kill()
            node.communicate()
    if network.real:
        assert "starting again from the last checkpoint" in said
        assert "continuing from the checkpoint at" in said
    assert _generator(stdout) == _alone(recipe, place)


def test_a_node_that_nobody_leads_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDA_TIMEOUT", "1")
    alone = Network("none")
    with _start(alone, TINY, 1, _free_port(), place) as node:
        assert node.wait(timeout=60) == 2
    assert "no run leads at 127.0.0.1" in (place / "stderr1").read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--nodes", "2"], "expected HOST:PORT"),
        (["--nodes", "2", "--rendezvous", "10.0.0.1"], "expected HOST:PORT"),
        (["--nodes", "2", "--node-rank", "2", "--rendezvous", "127.0.0.1:29500"], "numbered 0 to 1"),
        (["--node-rank", "1"], "give 2 or more"),
        (["--nodes", "2", "--rendezvous", "no.such.host.invalid:29500"], "give an address of node 0"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(place: Path, options: list[str], expected: str) -> None:
    command = [sys.executable, "-m", "pipeline", "run", str(TINY), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr
    assert not (place / "store").exists()
