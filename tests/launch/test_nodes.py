"""A run on two machines: two network namespaces where we are root, the loopback where not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sida.errors import NotFound, SidaError, UserError
from sida.launch.base import Work
from sida.launch.joining import follow
from sida.launch.nodes import RESTARTS, TERMS, LeadingLauncher, MachineLauncher, Nodes, put, read, say_over, terms
from sida.layout import checkpoint_name, checkpoint_part_name
from sida.stores import open_store
from sida.stores.lease import acquire
from tests.conftest import ROOT
from tests.launch.test_local import until, work_in

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


@pytest.mark.slow
def test_what_two_machines_began_one_alone_ends_with_the_same_numbers(place: Path) -> None:
    recipe, port, network = place / "longer.yaml", _free_port(), Network("none")
    recipe.write_text(f"extends: {TINY.with_suffix('')}\nname: longer\nexecution: {{checkpoint_every: 256}}\n")
    nodes = [_start(network, recipe, rank, port, place) for rank in (0, 1)]
    try:
        _until(place, "store/jobs/distill/*/1/checkpoints/*.json", 2)
    finally:
        for node in nodes:
            node.kill()
            node.communicate()
    (run,) = (path.name for path in place.glob("store/runs/*"))

    def distilled(attempt: int, *options: str) -> tuple[str, str]:
        """What is said, and the generator's digest."""
        command = [sys.executable, "-m", "pipeline", "rerun", run, "distill", "--local", *options]
        mine = {"SIDA_RUNS": str(place / "runs0"), "SIDA_WORKERS": "2", "SIDA_LEASE_WAIT": "60"}
        done = subprocess.run(command, cwd=ROOT, env=os.environ | mine, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (manifest,) = place.glob(f"store/steps/distill/*/{attempt}.json")
        return done.stderr, json.loads(manifest.read_text())["result"]["weights"]["sha256"]

    said, generator = distilled(1)
    assert "continuing on 1 node with 2 processes (was 2 nodes with 2)" in said
    assert "continuing from the checkpoint at" in said
    assert distilled(2, "--force")[1] == generator  # nobody disturbed it


def test_a_node_that_nobody_leads_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDA_TIMEOUT", "1")
    alone = Network("none")
    with _start(alone, TINY, 1, _free_port(), place) as node:
        assert node.wait(timeout=60) == 2
    assert "no run leads at 127.0.0.1" in (place / "stderr1").read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--nodes", "2"], "--nodes 2: needs --rendezvous HOST:PORT"),
        (["--nodes", "2", "--rendezvous", "10.0.0.1"], "expected HOST:PORT"),
        (["--nodes", "2", "--node-rank", "2", "--rendezvous", "127.0.0.1:29500"], "numbered 0 to 1"),
        (["--node-rank", "1"], "give 2 or more"),
        (["--nodes", "2", "--rendezvous", "no.such.host.invalid:29500"], "give an address of node 0"),
        (["--nodes", "2", "--rendezvous", "[::1]:29500"], "IPv6 is not supported"),
        (["--nodes", "2", "--rendezvous", "203.0.113.7:29500"], "give an address of this machine"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(place: Path, options: list[str], expected: str) -> None:
    command = [sys.executable, "-m", "pipeline", "run", str(TINY), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr
    assert not (place / "store").exists()


def test_a_port_in_use_is_said_at_once_and_not_blamed_on_the_others(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--nodes", "2", "--rendezvous", f"127.0.0.1:{port}"]
        command = [sys.executable, "-m", "pipeline", "run", str(TINY), *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"error: --rendezvous 127.0.0.1:{port}: the port is in use: take another\n"


class Led:
    """Node 1 in a thread of ours, its workers a record of calls; we are node 0."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MachineLauncher, "run", self._work)
        self.store = open_store(f"file://{place / 'store'}")
        bare = Nodes(count=2, rank=1, host="127.0.0.1", port=29500)
        self.lease = acquire(self.store, bare.name, ttl=30, owner="test")
        self.nodes = bare.model_copy(update={"lease": self.lease.number})
        self.worked: list[str] = []
        self.ended: list[int | SidaError] = []
        self.thread = threading.Thread(target=self._follow, args=[bare])
        self.thread.start()

    def call(self, **call: str) -> None:
        self.store.put(self.nodes.key("call"), json.dumps(call).encode())

    def answered(self, call: str) -> bool:
        try:
            return bool(json.loads(self.store.read(self.nodes.key("node-1")))["answered"] == call)
        except NotFound:
            return False

    def over(self, status: int) -> int | SidaError:
        say_over(self.store, self.nodes, status)
        self.lease.release()
        self.thread.join(15)
        return self.ended[0]

    def _work(self, work: Work) -> None:
        self.worked.append(work.job)
        while True:  # workers that wait for those of a machine that is gone
            work.check()
            time.sleep(0.1)

    def _follow(self, nodes: Nodes) -> None:
        try:
            self.ended.append(follow(nodes, 1, 1))
        except SidaError as error:
            self.ended.append(error)


def test_a_node_that_comes_back_waits_for_the_next_call_and_does_not_join_the_job_that_lost_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    led = Led(place, monkeypatch)
    led.call(id="first", job="jobs/distill/key/1/spec.json")  # before it was there
    time.sleep(1.5)
    assert not led.worked and not led.answered("first")
    led.call(id="second")
    until(lambda: led.answered("second"))
    led.call(id="second", job="jobs/distill/key/1/spec.json")
    until(lambda: len(led.worked) == 1)
    led.call(id="third")  # node 0 has given the job up
    until(lambda: led.answered("third"))
    assert led.over(0) == 0
    assert len(led.worked) == 1


def test_a_node_does_not_end_well_when_the_run_failed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Led(place, monkeypatch).over(2)
    assert isinstance(ended, UserError) and "the run that node 0 leads has failed with status 2" in str(ended)


def test_node_0_takes_its_call_back_before_it_waits_for_a_lost_node(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_TIMEOUT", "2")
    store, calls = open_store(f"file://{place / 'store'}"), []
    nodes = Nodes(count=2, rank=0, host="127.0.0.1", port=29500, lease=1)

    def lose(self: LeadingLauncher, work: Work) -> None:
        calls.append(json.loads(store.read(nodes.key("call"))))
        answer.join()
        raise SidaError("a worker was killed by SIGKILL")

    def answer_once() -> None:
        until(lambda: store.exists(nodes.key("call")))
        call = json.loads(store.read(nodes.key("call")))["id"]
        store.put(nodes.key("node-1"), json.dumps({"answered": call}).encode())

    monkeypatch.setattr(MachineLauncher, "run", lose)
    answer = threading.Thread(target=answer_once)
    answer.start()
    with pytest.raises(
        UserError, match=r"node 1 of 2 did not join within 2 s: .* with --node-rank 1 .* with no --nodes, on this"
    ):
        LeadingLauncher(place / "log", nodes, store).run(work_in(place, "beat"))
    now = json.loads(store.read(nodes.key("call")))
    assert len(calls) == 1 and "job" in calls[0]
    assert "job" not in now and now["id"] != calls[0]["id"]


def test_what_is_told_of_parts_is_no_new_checkpoint_and_restarts_nothing_more(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ends = open_store(f"file://{place / 'store'}"), 0
    nodes = Nodes(count=2, rank=0, host="127.0.0.1", port=29500, lease=1)
    folder = "jobs/distill/key/1"
    work = replace(work_in(place, "beat"), job=f"{folder}/spec.json")

    def lose(self: LeadingLauncher, work: Work) -> None:
        nonlocal ends
        ends += 1
        if ends == 2:
            store.put(f"{folder}/{checkpoint_name(64, 1)}", b"{}")
        store.put(f"{folder}/{checkpoint_part_name(64 * ends, 1, 1)}", b"{}")
        if ends > 20:
            pytest.fail("is started again and again")
        raise SidaError("a worker was killed by SIGKILL")

    monkeypatch.setattr(MachineLauncher, "run", lose)
    monkeypatch.setattr("sida.launch.nodes.secrets.token_hex", lambda count: "call")
    put(store, nodes, "node-1", {"answered": "call"})
    with pytest.raises(SidaError, match="SIGKILL"):
        LeadingLauncher(place / "log", nodes, store).run(work)
    assert ends == 2 + 1 + RESTARTS  # the start after the one with the checkpoint, and as many again


def test_node_0_listens_on_its_rendezvous_and_on_no_other_address() -> None:
    with Nodes(count=2, rank=0, host="localhost", port=_free_port()).listen() as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        ({"SIDA_WORKERS": "2"}, "processes a machine (SIDA_WORKERS, or the recipe's): node 0 has 1, node 1 has 2"),
        ({"nodes": "3"}, "--nodes: node 0 has 2, node 1 has 3"),
    ],
)
def test_a_node_with_other_settings_is_told_at_once_and_so_is_node_0(
    place: Path, monkeypatch: pytest.MonkeyPatch, mine: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(MachineLauncher, "run", lambda *_: pytest.fail("worked"))
    store = open_store(f"file://{place / 'store'}")
    bare = Nodes(count=2, rank=0, host="127.0.0.1", port=29500)
    with acquire(store, bare.name, ttl=30, owner="test") as lease:
        leader = bare.model_copy(update={"lease": lease.number})
        monkeypatch.setenv("SIDA_WORKERS", "1")
        put(store, leader, TERMS, terms(leader, 2))
        monkeypatch.setenv("SIDA_WORKERS", mine.get("SIDA_WORKERS", "1"))
        began = time.monotonic()
        with pytest.raises(UserError) as theirs:
            follow(Nodes(count=int(mine.get("nodes", 2)), rank=1, host="127.0.0.1", port=29500), 2, 1)
        with pytest.raises(UserError) as ours:
            LeadingLauncher(place / "log", leader, store).run(work_in(place, "beat"))
        assert time.monotonic() - began < 10
        assert str(theirs.value) == str(ours.value) == f"{expected}: start both with the same"
        monkeypatch.setenv("SIDA_WORKERS", "1")  # mended, while node 0 still prepares
        thread = threading.Thread(target=lambda: suppressed(follow, bare.model_copy(update={"rank": 1}), 2, 1))
        thread.start()
        until(lambda: "differs" not in read(store, leader, "node-1"))
        say_over(store, leader, 0)
    thread.join(20)
    assert not thread.is_alive()


def suppressed(work: Callable[..., object], *arguments: object) -> None:
    with suppress(SidaError):
        work(*arguments)


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        (
            8,
            r"nodes 1, 3 of 4 did not join within 1 s: .* --node-rank 1, 3 .* with --nodes 2, ranks 0 to 1, which continues",
        ),
        (6, r"with --nodes 2, ranks"),
        (9, r"with no --nodes, on this machine alone"),
    ],
)
def test_nodes_that_stay_away_are_named_with_a_way_on_without_them(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    processes: int,
    expected: str,
) -> None:
    monkeypatch.setenv("SIDA_TIMEOUT", "1")
    monkeypatch.setattr("sida.launch.nodes.TOLD_SECONDS", 0.0)
    monkeypatch.delenv("SIDA_EVENTS", raising=False)
    store, nodes = (
        open_store(f"file://{place / 'store'}"),
        Nodes(count=4, rank=0, host="127.0.0.1", port=29500, lease=1),
    )
    monkeypatch.setattr("sida.launch.nodes.secrets.token_hex", lambda count: "call")
    put(store, nodes, "node-2", {"answered": "call"})
    work = replace(work_in(place, "beat"), processes=processes)
    with pytest.raises(UserError, match=expected):
        LeadingLauncher(place / "log", nodes, store).run(work)
    assert "beat: waiting for nodes 1, 3 to join, up to 1 s (SIDA_TIMEOUT)" in capsys.readouterr().err
