"""Checkpoints of tensors that are divided among processes: whole ones, written by their owners, read by any number of processes."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sida import progress
from sida.errors import Fenced, Unavailable
from sida.launch.spec import JobFile
from sida.layout import checkpoint_part_name
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object, put_object
from sida.training import owners, stored, told, writer
from sida.training.checkpoint import Checkpoint, newest
from sida.training.gradients import MOMENTS, Updates
from sida.training.owners import owned, owners_of
from sida.training.state import load_state, state_of
from sida.training.writer import Writer
from sida.worker.job import Job
from sida.worker.ranks import Processes
from tests.joined import in_processes
from tests.training.divided import Place, differing, parts, reference

LAYOUTS = {"1": (), "2": (2,), "4": (4,), "2x2": (2, 2)}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SIDA_EVENTS", "SIDA_NODES"):
            patch.delenv(name, raising=False)
        patch.setenv("SIDA_CACHE", str(folder / "cache"))
        patch.setenv("SIDA_PATIENCE", "60")
        yield Place(str(folder))


# -- any layout writes what any other reads


def _filled(shape: tuple[int, ...], seed: int = 0) -> Any:
    state = parts(shape)
    load_state(state, {}, reference(seed))
    return state


def _checkpoint(state: Any, seen: int, **values: Any) -> Checkpoint:
    own, tensors = state_of(state)
    return Checkpoint(seen, {"identity": {}, **own, **values}, tensors)


def _write(processes: Processes, place: Place, file: JobFile, shape: tuple[int, ...]) -> None:
    state, writes = _filled(shape), Writer(place.job(file, processes), keep=2)
    writes.save(_checkpoint(state, 32))
    writes.wait()
    writes.close()


def _read(processes: Processes, place: Place, file: JobFile, shape: tuple[int, ...]) -> None:
    whole: list[str] = []
    get = stored.StoredTensors.__getitem__
    stored.StoredTensors.__getitem__ = lambda self, name: (whole.append(name), get(self, name))[1]  # type: ignore[method-assign]
    try:
        state, found = parts(shape), newest(place.job(file, processes))
        assert found is not None and found.seen == 32
        load_state(state, found.values, found.tensors)
    finally:
        stored.StoredTensors.__getitem__ = get  # type: ignore[method-assign]
    _, tensors = state_of(state)
    assert differing(tensors, reference()) == []
    if shape:
        state["net"].unshard()  # what the next forward pass computes with
        weights = {f"net/{name}": value.detach() for name, value in state["net"].named_parameters()}
        assert differing(weights, {name: reference()[name] for name in weights}) == []
        state["net"].reshard()
    divided = {name for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    assert bool(divided) == bool(shape) and not divided & set(whole)  # of these, rows alone


def _exchange(
    processes: Processes, place: Place, writes: dict[str, JobFile], reads: list[JobFile], shapes: list[str]
) -> None:
    for layout, file in writes.items():
        _write(processes, place, file, LAYOUTS[layout])
    for layout in shapes:
        for file in reads:
            _read(processes, place, file, LAYOUTS[layout])


def test_any_layout_continues_from_a_checkpoint_of_any_other_with_the_same_bits(place: Place) -> None:
    files = {layout: place.file(f"by-{layout}") for layout in LAYOUTS}
    alone = Processes(0, 1, torch.device("cpu"))
    _write(alone, place, files["1"], ())
    in_processes(2, _exchange, place, {"2": files["2"]}, [files["1"], files["2"]], ["2"])
    in_processes(4, _exchange, place, {n: files[n] for n in ("4", "2x2")}, list(files.values()), ["4", "2x2"])
    in_processes(2, _exchange, place, {}, [files["4"], files["2x2"]], ["2"])
    for layout, file in files.items():
        _read(alone, place, file, ())
        job = place.job(file)
        (key,) = job.store.list(f"{job.folder}/checkpoints/")  # and nothing that was only told
        record = json.loads(job.store.read(key))
        count = {"1": 1, "2": 2, "4": 4, "2x2": 2}[layout]
        assert record["schema_version"] == (2 if count == 1 else 3)
        assert len(record.get("parts", [])) == count - 1 and ("parts" in record) == (count > 1)
        tensors: dict[str, Tensor] = {}
        for ref in (record["object"], *record.get("parts", [])):
            tensors |= load_file(fetch_object(job.store, ObjectRef(**ref)))
        assert differing(tensors, reference()) == []  # whole tensors, whatever wrote them


# -- memory


def _counted(processes: Processes, place: Place, file: JobFile) -> None:
    state = _filled((processes.world,))
    _, tensors = state_of(state)
    alive: list[weakref.ref[Any]] = []
    gather = owners._gather

    def watched(tensor: DTensor, owner: int, rank: int) -> Tensor | None:
        assert not [ref for ref in alive if ref() is not None], "the one before is still there"
        whole = gather(tensor, owner, rank)
        if whole is not None:
            alive.append(weakref.ref(whole.untyped_storage()))
        return whole

    owners._gather = watched
    writes = Writer(place.job(file, processes), keep=2)
    writes.save(_checkpoint(state, 32))
    writes.wait()
    writes.close()
    owners._gather = gather
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    largest = max(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    room = len(tensors) * 64  # for where tensors begin
    assert alive and writes._host._memory.nbytes <= total / processes.world + largest + room


def test_an_owner_holds_its_part_and_one_gathered_tensor_at_a_time(place: Place) -> None:
    in_processes(2, _counted, place, place.file("counted"))


def test_owners_have_about_the_same_number_of_bytes_and_without_division_the_first_has_all() -> None:
    tensors = reference()
    assert set(owners_of(tensors).values()) == {0}
    assert [name for name, _ in owned(tensors, owners_of(tensors), 0)] == list(tensors)
    assert list(owned(tensors, owners_of(tensors), 1)) == []


# -- trouble


def _until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _places(job: Job[Any]) -> list[int]:
    keys = [key.removeprefix(f"{job.folder}/checkpoints/") for key in job.store.list(f"{job.folder}/checkpoints/")]
    return [int(key.partition("-")[0]) for key in keys if not key.startswith("parts/")]


@contextmanager
def _away(here: bool) -> Iterator[None]:
    """The store is away, for this process's checkpoints."""
    put = Job.put

    def fail(*arguments: object) -> ObjectRef:
        raise Unavailable("cannot reach the store", "the store", "no route")

    if here:
        Job.put = fail  # type: ignore[method-assign,assignment]
    yield
    Job.put = put  # type: ignore[method-assign]


def _outage(processes: Processes, place: Place, file: JobFile, absent: int) -> None:
    """Of two processes one cannot reach the store; neither waits for that, and the newest checkpoint is whole when it can."""
    writer.FIRST_PAUSE = 0.1
    notes: list[str] = []
    progress.note = lambda step, text, **fields: notes.append(text)  # type: ignore[assignment]
    job = place.job(file, processes)
    writes = Writer(job, keep=5)
    writes.save(_checkpoint(_filled((2,), 1), 32))
    writes.wait()
    processes.meet()
    with _away(processes.rank == absent):
        for seen in (64, 96, 128):
            writes.save(_checkpoint(_filled((2,), seen), seen))
            if processes.rank == absent:
                _until(lambda seen=seen: writes._away and writes._filed and writes._filed.seen == seen)  # type: ignore[misc]
            elif processes.first:
                _until(lambda: writes._lacking)
            processes.meet()
            assert _places(job) == [32]
    writes.wait()
    processes.meet()
    given_up = [text for text in notes if "is given up" in text]
    assert len(given_up) == (2 if processes.first and absent == 1 else 0)
    for seen, text in zip((64, 96), given_up, strict=False):
        assert text == (
            f"the checkpoint at {seen} images is given up: the parts of processes 1 did not come before the next; "
            "training goes on"
        )
    assert _places(job) == [32, 128] and not list(told.part_files(job, job.store.list(f"{job.folder}/")))
    found, state = newest(job), parts((2,))
    assert found is not None and found.seen == 128
    load_state(state, found.values, found.tensors)
    assert differing(state_of(state)[1], reference(128)) == []
    processes.meet()
    if processes.first:  # what was given up went with the next checkpoint
        assert len(job.store.list("objects/")) == 2 * 2 + 1  # and the recipe
    writes.close()


@pytest.mark.parametrize("absent", [0, 1])
def test_training_goes_on_while_the_store_is_away_for_one_owner_alone(tmp_path: Path, absent: int) -> None:
    place = Place(str(tmp_path))
    in_processes(2, _outage, place, place.file("outage"), absent)


def _trouble(processes: Processes, place: Place, files: dict[str, JobFile]) -> None:
    """One after another, to start processes once only."""
    writer.FIRST_PAUSE = 0.1
    _killed_between(processes, place, files["killed"])
    _kept(processes, place, files["kept"])
    _taken_over(processes, place, files["fenced"])


def _killed_between(processes: Processes, place: Place, file: JobFile) -> None:
    job = place.job(file, processes)
    first = Writer(job, keep=2)
    first.save(_checkpoint(_filled((2,), 1), 32))
    first.wait()
    processes.meet()
    with pytest.MonkeyPatch.context() as patch:
        if processes.rank == 1:  # its thread ends before it has told: as if the process were gone
            patch.setattr(writer, "tell", _gone)
        first.save(_checkpoint(_filled((2,), 2), 64))
        patch.setenv("SIDA_TIMEOUT", "1")
        patch.setenv("SIDA_PATIENCE", "0")
        if processes.first:
            with pytest.raises(
                Unavailable, match=r"parts of processes 1 did not come for \d s \(SIDA_TIMEOUT\); run again to continue"
            ):
                first.wait()
            patch.setattr(writer, "STOP_SECONDS", 0.0)
            first.close()
        else:
            with pytest.raises(Fenced, match="gone"):
                first.wait()
    processes.meet()
    assert _places(job) == [32]
    found = newest(job)
    assert found is not None and found.seen == 32
    # The start after that comes to the same place; what an earlier one told there does not count.
    if processes.first:
        ref = put_object(job.store, b"of a process that is gone", "checkpoint-64-1.safetensors")
        stale = told.Told(saving="another", object=ref)
        for seen in (64, 96):
            job.store.put(f"{job.folder}/{checkpoint_part_name(seen, job.fence, 1)}", stale.model_dump_json().encode())
        for name in ("checkpoints/parts/1-1-1.json", f"{checkpoint_part_name(64, 9, 1)}"):  # not ours; not JSON
            job.store.put(f"{job.folder}/{name}", b"{")
    processes.meet()
    again = Writer(job, keep=2)
    again.save(_checkpoint(_filled((2,), 3), 64))
    again.wait()
    again.close()
    processes.meet()
    assert _places(job) == [32, 64]
    left = [file.seen for file in told.part_files(job, job.store.list(f"{job.folder}/"))]
    assert left == [96]  # of a place that the training has not come to again
    found, state = newest(job), parts((2,))
    assert found is not None
    load_state(state, found.values, found.tensors)
    assert differing(state_of(state)[1], reference(3)) == []
    processes.meet()


def _gone(*arguments: object) -> None:
    raise Fenced("gone")


def _kept(processes: Processes, place: Place, file: JobFile) -> None:
    job = place.job(file, processes)
    before = set(job.store.list("objects/"))
    processes.meet()
    writes = Writer(job, keep=2)
    for seen in (32, 64, 96, 128, 160):
        values = {"selection/best_seen": 64}
        writes.save(_checkpoint(_filled((2,), seen), seen, **values))
    writes.wait()
    writes.close()
    processes.meet()
    assert _places(job) == [64, 128, 160]
    assert len(set(job.store.list("objects/")) - before) == 3 * 2
    processes.meet()


def _taken_over(processes: Processes, place: Place, file: JobFile) -> None:
    job = place.job(file, processes)
    processes.meet()
    if processes.first:
        place.file("fenced")  # takes the lease
    processes.meet()
    writes = Writer(job, keep=2)
    writes.save(_checkpoint(_filled((2,), 1), 32))
    with pytest.raises(Fenced):
        writes.wait()
    writes.close()
    assert not job.store.list(f"{job.folder}/checkpoints/")
    processes.meet()


def test_a_process_that_ends_early_leaves_no_checkpoint_and_one_that_was_taken_over_writes_none(place: Place) -> None:
    in_processes(2, _trouble, place, {name: place.file(name) for name in ("killed", "kept", "fenced")})


# -- records


def _written(place: Place, name: str) -> tuple[Job[Any], str]:
    job = place.job(place.file(name))
    writes = Writer(job, keep=2)
    writes.save(_checkpoint(_filled(()), 32))
    writes.wait()
    (key,) = job.store.list(f"{job.folder}/checkpoints/")
    return job, key


@pytest.mark.parametrize("change", ["parts without a version", "a version without parts", "another's part"])
def test_a_record_whose_parts_are_not_its_own_is_passed_over(
    place: Place, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    job, key = _written(place, f"record-{change.replace(' ', '-').replace(chr(39), '')}")
    content = json.loads(job.store.read(key))
    if "parts" in change or "part" in change.split():
        content["parts"] = [content["object"]]
    if change != "parts without a version":
        content["schema_version"] = 3
    job.store.put(key, json.dumps(content).encode())
    assert newest(job) is None
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("net/even.weight"), r"tensor net/even\.weight is not there"),
        (lambda t: t.update({"net/odd": t["net/table"]}), r"tensor net/odd belongs to nothing"),
        (lambda t: t.update({"other/odd": t["net/table"]}), r"tensor other/odd belongs to nothing"),
        (
            lambda t: t.update({"net/even.weight": torch.zeros(8, 4)}),
            r"even\.weight is torch\.float32 \[8, 4\], expected",
        ),
        (
            lambda t: t.update({"net/scale": torch.zeros((), dtype=torch.float64)}),
            r"scale is torch\.float64 \[\], expected",
        ),
        (lambda t: t.pop("adam/exp_avg/scale"), r"tensor adam/exp_avg/scale is not there"),
    ],
)
def test_a_tensor_that_is_missing_unknown_or_of_another_kind_is_refused_by_name(
    change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = reference()
    change(tensors)
    with pytest.raises(ValueError, match=message):
        load_state(parts(), {}, tensors)


class Partly(nn.Module):
    """Two layers, of which one takes no part in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)


def _adam(steps: int) -> dict[str, Any]:
    network = Partly()
    updates = Updates(network, Processes(0, 1, torch.device("cpu")), (0.0, 0.999))
    for _ in range(steps):
        updates.begin_round(True)
        network.used(torch.ones(4, 3)).sum().backward()
        updates.step(1e-3)
        updates.zero_grad()
    return {"adam": updates}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("adam/exp_avg_sq/used.bias"), r"tensor adam/exp_avg_sq/used\.bias is not there"),
        (lambda t: [t.pop(f"adam/{m}/used.bias") for m in MOMENTS], r"tensor adam/step/used\.bias is not there"),
        (lambda t: [t.pop(name) for name in list(t)], r"tensor adam/step/used\.weight is not there"),
        (
            lambda t: t.update({f"adam/{m}/old.bias": t.pop(f"adam/{m}/used.bias") for m in MOMENTS}),
            r"tensor adam/(step|exp_avg|exp_avg_sq)/old\.bias belongs to nothing",
        ),
        (lambda t: t.update({"adam/exp_avg/odd": torch.zeros(1)}), r"tensor adam/exp_avg/odd belongs to nothing"),
    ],
)
def test_lost_renamed_and_unknown_moments_are_refused_by_name_and_never_fresh(
    change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    values, tensors = state_of(_adam(2))
    assert values == {"adam/without": ["unused.weight", "unused.bias"]} and len(tensors) == 6
    change(tensors)
    with pytest.raises(ValueError, match=message):
        load_state(_adam(0), values, tensors)


@pytest.mark.parametrize("steps", [0, 2])
def test_moments_come_back_and_parameters_that_never_had_a_gradient_have_none(steps: int) -> None:
    values, tensors = state_of(_adam(steps))
    for kept in (values, {}):  # as older checkpoints, which do not say which have none
        again = _adam(0)
        load_state(again, kept, tensors)
        found_values, found = state_of(again)
        assert found_values == values and differing(found, tensors) == []
