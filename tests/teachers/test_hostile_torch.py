"""Hostile torch files: refused within seconds and little memory before torch reads them, in one line; nothing is executed."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.foreign.apart import read_apart
from tests.foreign.hostile import P4, call, colliding_integers, memo_chain, nested_lists, number, text

P2 = b"\x80\x02"
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")


def archive(index: bytes, members: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as torch.save makes it, with an index of our own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("archive/data.pkl", index)
        for name, content in (members or {"archive/data/0": bytes(16), "archive/version": b"3\n"}).items():
            made.writestr(name, content)
    return file.getvalue()


def tensor(offset: int, shape: list[int], stride: list[int], count: int = 4) -> bytes:
    """An index that is a mapping of one tensor."""
    sizes = b"(" + b"".join(map(number, shape)) + b"t" + b"(" + b"".join(map(number, stride)) + b"t"
    view = STORAGE + number(count) + b"tQ" + number(offset) + sizes + b"\x89}tR"
    return P2 + b"}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"s."


class System:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch PWNED",)


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def many_members(count: int) -> bytes:
    return archive(P2 + b"}.", {f"archive/data/{place}": b"" for place in range(count)})


GOOD = saved({"a": torch.zeros(1000)})
CASES: dict[str, tuple[bytes, str]] = {
    # gadgets
    "os.system": (saved({"ema": System()}), "posix.system"),
    "eval": (archive(call("builtins", "eval", text("open('PWNED', 'w')"))), "builtins.eval"),
    "getattr": (archive(call("builtins", "getattr", text("x"))), "builtins.getattr"),
    "a stream in a stream": (archive(call("torch.storage", "_load_from_bytes", b"C\x01x")), "torch.storage"),
    "a hub's function": (archive(call("torch.hub", "load", text("x"))), "torch.hub.load"),
    "a whole module": (saved(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    "NEWOBJ_EX": (archive(P4 + b"ccollections\nOrderedDict\n)}\x92."), "opcode NEWOBJ_EX"),
    "INST": (archive(b"\x80\x02(X\x0b\x00\x00\x00touch PWNEDiposix\nsystem\n."), "opcode INST"),
    "EXT1": (archive(b"\x80\x02\x82\x01."), "opcode EXT1"),
    # bombs: torch's own reader takes minutes, gigabytes or for ever over some of these
    "hash of a shared tuple": (archive(memo_chain(100, b"}h\x64Ns.")), "a key or set member of type tuple"),
    "colliding keys": (archive(colliding_integers(100_000)), "a key or set member of type int"),
    "endless instructions": (archive(P4 + b"N0" * 5_000_000 + b"N."), "more than 1000000 instructions"),
    "lists without end": (archive(P4 + b"]" * 10_000_000 + b"."), "refused"),
    "deep lists": (archive(nested_lists(300_000)), "nested more than 200 deep"),
    "instructions within the limit": (archive(P2 + b"](" + b"N" * 990_000 + b"e."), "holds no mapping"),
    "an index beyond all use": (archive(bytes(20 << 20)), "not what torch.save writes"),
    "claimed bytes": (archive(P4 + b"\x8e" + struct.pack("<Q", 2**62) + b"x."), "are claimed"),
    "compressed members": (archive(bytes(50_000_000), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "compressed data": (archive(P2 + b"}.", {"archive/data/0": b""}, zipfile.ZIP_DEFLATED), "compressed"),
    "a list of members without end": (many_members(150_000), "the list of its members"),
    "two indices": (archive(P2 + b"}.", {"other/data.pkl": P2 + b"}."}), "not what torch.save writes"),
    # tensors
    "stride leaves the storage": (archive(tensor(0, [2, 2], [3, 1])), "leave its storage"),
    "offset leaves the storage": (archive(tensor(2**40, [0], [1])), "leave its storage"),
    "negative stride": (archive(tensor(3, [2], [-1])), "offset, size or stride is -1"),
    "expanded to a terabyte": (archive(tensor(0, [2**38], [0])), "more memory"),
    "a storage that claims more": (archive(tensor(0, [4], [1], 2**40)), "whose data has 16 bytes"),
    "a storage that is not there": (
        archive(tensor(0, [4], [1]), {"archive/version": b"3"}),
        "whose data has None bytes",
    ),
    "persistent id of another form": (archive(P4 + text("x") + b"Q."), "opcode BINPERSID"),
    # damage
    "cut in its data": (GOOD[:1000], "damaged torch file"),
    "without its end": (GOOD[:-30], "damaged torch file"),
    "a flipped bit in its index": (GOOD.replace(b"FloatStorage", b"FlpatStorage"), "damaged torch file"),
    "an index cut off": (archive(tensor(0, [4], [1])[:-2]), "cut off"),
    "no mapping": (saved([torch.zeros(1)]), "holds no mapping"),
    "bytes after the index": (archive(P2 + b"}.N"), "follow the end of its index"),
    "a pickle of text": (archive(pickle.dumps("text", 0)), "opcode"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every case, read by a child whose memory and time are limited, in a folder where PWNED would show."""
    folder, work = tmp_path_factory.mktemp("cases"), tmp_path_factory.mktemp("work")
    for place, (content, _) in enumerate(CASES.values()):
        (folder / f"{place:03d}").write_bytes(content)
    found = read_apart("tests.foreign.child", folder, work, "network")
    assert list(work.iterdir()) == [], "a hostile file was executed"
    return {name: found[f"{place:03d}"] for place, name in enumerate(CASES)}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_torch_file_is_refused_in_seconds_and_little_memory(outcomes: dict[str, Any], name: str) -> None:
    outcome = outcomes[name]
    assert outcome["status"] == 0
    assert CASES[name][1] in outcome["said"] and not outcome["said"].startswith(("read", "TRACEBACK"))
    assert len(outcome["said"]) < 500 and "\n" not in outcome["said"]
    assert outcome["seconds"] < 5
    assert outcome["extra_mib"] < 400


def test_what_a_module_or_a_training_run_saves_is_read(tmp_path: Path) -> None:
    from sida.teachers.formats import read_network

    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    state, optimiser = module.state_dict(), torch.optim.Adam(module.parameters()).state_dict()
    views = {"a": torch.arange(12.0).reshape(3, 4).T.bfloat16(), "b": torch.zeros(9)[2:5].expand(2, 3)}
    for value, expected in (
        (state, state),
        ({"model": state, "optimizer": optimiser, "rate": 1e-3, "best": None}, state),
        (dict(module.named_parameters()), dict(module.named_parameters())),
        (views, views),
    ):
        torch.save(value, tmp_path / "net.pt")
        found = read_network(tmp_path / "net.pt", "net.pt").tensors
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
