"""Checkpoints and what becomes of a run that is stopped, damaged, changed or troubled."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sida.data.reader import ShuffledData
from sida.errors import Fenced, SidaError, UserError
from sida.launch.spec import TeachSpec
from sida.layout import checkpoint_name
from sida.stores.base import ObjectRef
from sida.stores.objects import fetch_object, put_object
from sida.training import checkpoint, loop, selection
from sida.training.checkpoint import Checkpoint
from sida.training.distill_loop import distill
from sida.training.iteration import Distillation
from sida.training.teach_loop import TeachRun, teach
from sida.training.writer import Writer
from sida.worker.job import Job
from tests.jobs import stored
from tests.joined import in_processes
from tests.training.digits_job import Bench, bench_in
from tests.training.divided import divide_newest

STOPS_WITHIN = 30.0  # seconds from SIGTERM to the checkpoint's place in the store and the end


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_in(tmp_path_factory.mktemp("bench")) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(made: Bench) -> dict[str, Any]:
    return distill(made.job(name="undisturbed"))


def _places(job: Job) -> list[int]:
    return [int(key.rsplit("/", 1)[1].partition("-")[0]) for key in _keys(job)]


def _keys(job: Job) -> list[str]:
    return list(job.store.list(f"{job.folder}/checkpoints/"))


class _StopAt:
    """Sends SIGTERM to this process in the iteration that begins at so many images, or at the n-th batch of a selection."""

    sent = 0.0  # when, on the monotonic clock

    def __init__(self, patch: pytest.MonkeyPatch, images: int | None = None, batch: int | None = None) -> None:
        run, moments = Distillation.run, selection.range_moments

        def stopping_run(job: Distillation, seen: int, record: Any = None) -> Any:
            if seen == images:
                self.send()
            return run(job, seen, record)

        def stopping_moments(*arguments: Any, report: Any, **options: Any) -> Any:
            left = batch

            def told(count: int) -> None:
                nonlocal left
                left = None if left is None else left - 1
                if left == 0:
                    self.send()
                report(count)

            return moments(*arguments, report=told, **options)

        patch.setattr(Distillation, "run", stopping_run)
        patch.setattr(selection, "range_moments", stopping_moments)

    def send(self) -> None:
        self.sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)


def _stopped(job: Job, monkeypatch: pytest.MonkeyPatch, **when: int) -> None:
    with monkeypatch.context() as patch:
        stop = _StopAt(patch, **when)
        with pytest.raises(SidaError, match=r"stopped at .* after a checkpoint"):
            distill(job)
        assert stop.sent > 0 and time.monotonic() - stop.sent < STOPS_WITHIN


@pytest.mark.parametrize("images", [0, 96, 160])
def test_sigterm_ends_with_a_checkpoint_from_which_the_run_ends_with_the_same_bits(
    made: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    name = f"stopped-{images}"
    job = made.job("execution: {checkpoint_every: 1_000}", name)
    _stopped(job, monkeypatch, images=images)
    assert max(_places(job)) == images + 32
    result = distill(made.job(name=name))
    assert result.generator == undisturbed.generator
    assert result.curve == undisturbed.curve


def test_the_machine_s_load_is_sampled_where_it_is_asked_for_once_a_point_and_changes_no_number(
    made: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDA_SYSTEM_METRICS", "1")
    job = made.job(name="sampled")
    _stopped(job, monkeypatch, images=96)
    result = distill(made.job(name="sampled"))
    assert (result.generator, result.curve) == (undisturbed.generator, undisturbed.curve)
    samples = json.loads(made.store.read(f"{job.folder}/system.json"))
    assert [sample["images"] for sample in samples] == [*range(32, 257, 32)]
    assert all(0 <= sample["system/cpu_utilization_percentage"] <= 100 for sample in samples)
    assert all(sample["system/system_memory_usage_megabytes"] > 0 for sample in samples)
    assert not made.store.exists(f"{made.job(name='undisturbed').folder}/system.json")


def test_sigterm_ends_a_teacher_s_training_with_a_checkpoint_from_which_it_ends_with_the_same_bits(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, spec = "teacher: {train: {images: 96, batch: 32, decay_from: 32}}", TeachSpec(dataset=made.ref("dataset"))
    whole = teach(made.job(changes, "teach-whole", spec))
    iterate = TeachRun.iterate

    def stopping(run: TeachRun) -> dict[str, torch.Tensor]:
        if run.seen == 32:
            os.kill(os.getpid(), signal.SIGTERM)
        return iterate(run)

    job = made.job(changes + "\nexecution: {checkpoint_every: 1_000}", "teach-stopped", spec)
    with monkeypatch.context() as patch:
        patch.setattr(TeachRun, "iterate", stopping)
        with pytest.raises(SidaError, match="stopped at 64 images, after a checkpoint"):
            teach(job)
    assert _places(job) == [64]
    assert teach(made.job(changes, "teach-stopped", spec)) == whole


def test_sigterm_in_the_middle_of_a_selection_scores_again_when_it_continues(
    made: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made.job("execution: {checkpoint_every: 1_000}", "in-selection")
    _stopped(job, monkeypatch, batch=1)
    assert _places(job) == [64]
    result = distill(made.job(name="in-selection"))
    assert (result.generator, result.curve) == (undisturbed.generator, undisturbed.curve)


def test_a_generator_of_two_steps_ends_with_the_same_bits_after_a_stop(
    made: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = "method: {steps: 2}\n"
    whole = distill(made.job(steps, "two-steps"))
    assert whole is not None and whole.generator != undisturbed.generator
    _stopped(made.job(f"{steps}execution: {{checkpoint_every: 1_000}}", "two-steps-stopped"), monkeypatch, images=96)
    again = distill(made.job(steps, "two-steps-stopped"))
    assert again is not None and (again.generator, again.curve) == (whole.generator, whole.curve)


def test_the_newest_two_and_the_best_are_kept_and_no_other_tensors(made: Bench, undisturbed: dict[str, Any]) -> None:
    job = made.job("method: {images: 512}", "kept")
    distill(job)
    states = [json.loads(job.store.read(key)) for key in _keys(job)]
    best = states[-1]["values"]["selection/best_seen"]
    assert set(_places(job)) == {480, 512} | {best}
    for content in states:
        fetch_object(job.store, ObjectRef(**content["object"]))


@pytest.mark.parametrize("damage", ["tensors", "json", "missing"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(
    made: Bench,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    name = f"damaged-{damage}"
    job = made.job(name=name)
    _stopped(job, monkeypatch, images=160)
    newest = _keys(job)[-1]
    path = job.store.local_path(ObjectRef(**json.loads(job.store.read(newest))["object"]).key)
    assert path is not None
    if damage == "tensors":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        job.store.put(newest, b"{")
    result = distill(made.job(name=name))
    said = capsys.readouterr().err
    assert newest.rsplit("/", 1)[1] in said and "using the one before it" in said
    assert "continuing from the checkpoint at 160 images" in said
    assert result.generator == undisturbed.generator


def _edited(job: Job, key: str, **changes: Any) -> None:
    job.store.put(key, json.dumps(json.loads(job.store.read(key)) | changes).encode())


def _values(job: Job, key: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(job.store.read(key))["values"]
    return values


def _named(job: Job, name: str) -> ObjectRef:
    """Some other whole object of the store, under a name that a checkpoint's could have."""
    return put_object(job.store, b'{"no": "tensors"}', name)


DAMAGES: dict[str, Callable[[Job, str], None]] = {
    "no values": lambda job, key: _edited(job, key, values={}),
    "texts for values": lambda job, key: _edited(
        job, key, values={name: value if name == "identity" else "x" for name, value in _values(job, key).items()}
    ),
    "a list for identity": lambda job, key: _edited(job, key, values=_values(job, key) | {"identity": [1]}),
    "another network's tensors": lambda job, key: _edited(
        job, key, object=json.loads(job.store.read(_keys(job)[0]))["object"]
    ),
    "no tensors": lambda job, key: _edited(job, key, object=asdict(_named(job, "curve.json"))),
    "nested too deep": lambda job, key: job.store.put(key, b"[" * 100_000),
    "deep values": lambda job, key: job.store.put(
        key, b'{"schema_version":2,"values":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}"
    ),
    "as if older, no tensors": lambda job, key: _edited(
        job, key, object=asdict(_named(job, "checkpoint-160.safetensors")), values={"identity": {}}
    ),
    "as if older, another place": lambda job, key: _edited(
        job, key, object=asdict(_named(job, "checkpoint-96.safetensors")), values={"identity": {}}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_none_of_our_checkpoints_is_passed_over_and_no_object_goes_with_it(
    made: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    job = made.job(name=f"none-{damage.replace(' ', '-').replace(',', '')}")
    writer = Writer(job, keep=3)
    for seen in (128, 160):
        values = {"identity": {}, "history/points": []}
        writer.save(Checkpoint(seen, values, {"a": torch.full((3,), float(seen))}))
    writer.wait()
    before, key = _keys(job)
    DAMAGES[damage](job, key)
    objects = set(job.store.list("objects/"))
    found = checkpoint.newest(job)
    assert found is not None and found.seen == 128 and torch.equal(found.tensors["a"], torch.full((3,), 128.0))
    said = capsys.readouterr().err
    assert key.rsplit("/", 1)[1] in said and "using the one before it" in said and said.count("\n") == 1
    assert _keys(job) == [before] and set(job.store.list("objects/")) == objects


@pytest.mark.parametrize("seen", [64, 9_999])
def test_a_checkpoint_under_another_one_s_name_is_passed_over(made: Bench, seen: int) -> None:
    job = made.job(name=f"moved-{seen}")
    writer = Writer(job, keep=2)
    writer.save(Checkpoint(128, {}, {"a": torch.zeros(3)}))
    writer.wait()
    (key,) = _keys(job)
    content = job.store.read(key)
    for name in (checkpoint_name(seen, 1), checkpoint_name(128, 99)):  # other images; another lease
        job.store.put(f"{job.folder}/{name}", content)
        found = checkpoint.newest(job)
        assert found is not None and found.seen == 128
    other = made.job(name=f"moved-{seen}-elsewhere")  # another job's
    job.store.put(key.replace(job.folder, other.folder), content)
    assert checkpoint.newest(other) is None


def test_names_that_are_none_of_ours_are_no_checkpoints(made: Bench) -> None:
    job = made.job(name="names")
    for name in ("²-1.json", "0000000000²8-00000001.json", "1-1.json"):
        job.store.put(f"{job.folder}/checkpoints/{name}", b"{}")
    assert checkpoint.newest(job) is None and len(_keys(job)) == 3


def test_a_checkpoint_of_the_last_release_is_continued(
    made: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = made.job(name="last-release")
    _stopped(job, monkeypatch, images=128)
    for key in _keys(job):
        _edited(job, key, values={n: value for n, value in _values(job, key).items() if n != checkpoint.CHECKSUM})
    result = distill(made.job(name="last-release"))
    assert "continuing from the checkpoint at 160 images" in capsys.readouterr().err
    assert (result.generator, result.curve) == (undisturbed.generator, undisturbed.curve)


def test_a_state_that_does_not_fit_ends_in_a_line_that_names_the_checkpoint(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made.job(name="misfit")
    _stopped(job, monkeypatch, images=0)
    (key,) = _keys(job)
    for values in ({"selection/due": None}, {"history/points": 1, "history/counts": 1}):
        kept = {n: v for n, v in _values(job, key).items() if n not in (checkpoint.CHECKSUM, "selection/best_score")}
        _edited(job, key, values=kept | values)
        with pytest.raises(
            UserError, match=r"the checkpoint at 32 images in file://.* is not one of this training"
        ) as caught:
            distill(made.job(name="misfit"))
        assert "--force distill" in str(caught.value) and "\n" not in str(caught.value)
    assert _keys(job) == [key]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update({"psi/model.odd": t.pop("psi/model.map_layer0.bias")}), "psi/model.map_layer0.bias is not"),
        (lambda t: t.update({"theta_ema/odd": torch.zeros(2)}), "theta_ema/odd belongs to nothing"),
        (
            lambda t: [
                t.pop(f"adam_psi/{moment}/model.map_layer0.bias") for moment in ("step", "exp_avg", "exp_avg_sq")
            ],
            "adam_psi/step/model.map_layer0.bias is not there",
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith("selection/best/")],
            "selection/best/... are not",
        ),
    ],
)
def test_a_checkpoint_with_a_renamed_unknown_or_lost_tensor_is_refused_by_its_name(
    made: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    name = f"lost-{abs(hash(said))}"
    job = made.job(name=name)
    _stopped(job, monkeypatch, images=64)
    key = _keys(job)[-1]
    tensors = load_file(fetch_object(job.store, ObjectRef(**json.loads(job.store.read(key))["object"])))
    change(tensors)
    path = tmp_path / json.loads(job.store.read(key))["object"]["name"]
    save_file(tensors, path)
    kept = {n: v for n, v in _values(job, key).items() if n != checkpoint.CHECKSUM}
    _edited(job, key, values=kept, object=asdict(put_object(job.store, path)))
    with pytest.raises(UserError) as caught:
        distill(made.job(name=name))
    assert said in str(caught.value) and "--force distill" in str(caught.value)


def test_a_run_whose_checkpoint_was_written_in_parts_by_several_processes_ends_with_the_same_bits(
    made: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = made.job(name="in-parts")
    _stopped(job, monkeypatch, images=128)
    in_processes(2, divide_newest, str(made.folder), job.file)
    record = json.loads(job.store.read(_keys(job)[-1]))
    assert len(record["parts"]) == 1 and record["schema_version"] == 3
    result = distill(made.job(name="in-parts"))
    assert "continuing from the checkpoint at 160 images" in capsys.readouterr().err
    assert (result.generator, result.curve) == (undisturbed.generator, undisturbed.curve)


@pytest.mark.parametrize("version", [None, 1, 4])
def test_a_checkpoint_of_another_version_is_refused_in_one_line_and_stays(
    made: Bench, monkeypatch: pytest.MonkeyPatch, version: int | None
) -> None:
    name = f"version-{version}"
    job = made.job(name=name)
    _stopped(job, monkeypatch, images=0)
    (key,) = _keys(job)
    content = json.loads(job.store.read(key)) | {"schema_version": version}
    if version is None:
        del content["schema_version"]
    job.store.put(key, json.dumps(content).encode())
    with pytest.raises(UserError) as caught:
        distill(made.job(name=name))
    message = str(caught.value)
    assert f"(schema_version {version}, not 2 or 3): make a new attempt with --force distill" in message
    assert "or go on with the version that wrote it" in message and "\n" not in message
    assert _keys(job) == [key]


def test_old_checkpoints_stay_when_the_new_one_cannot_be_read_back(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made.job(name="unreadable")
    writer = Writer(job, keep=1)
    writer.save(Checkpoint(32, {}, {"a": torch.zeros(3)}))
    writer.wait()

    def lose(store: Any, ref: ObjectRef) -> None:
        raise SidaError("the disk lost it")

    monkeypatch.setattr(checkpoint, "verify_object", lose)
    writer.save(Checkpoint(64, {}, {"a": torch.ones(3)}))
    with pytest.raises(SidaError, match="the disk lost it"):
        writer.wait()
    assert _places(job) == [32, 64]


def test_training_goes_on_while_a_checkpoint_is_written_and_changes_nothing_in_it(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    may_write = threading.Event()
    put = Job.put
    monkeypatch.setattr(Job, "put", lambda *arguments: (may_write.wait(10), put(*arguments))[1])
    job, weights = made.job(name="background"), torch.zeros(3)
    writer = Writer(job, keep=2)
    values: dict[str, Any] = {"curve": [1]}
    writer.save(Checkpoint(32, values, {"a": weights}))  # returns although nothing can be written
    weights += 1
    values["curve"].append(2)
    assert not _keys(job)
    may_write.set()
    writer.wait()
    found = checkpoint.newest(job)
    assert found is not None and torch.equal(found.tensors["a"], torch.zeros(3)) and found.values["curve"] == [1]


def test_a_writer_that_was_taken_over_publishes_nothing(made: Bench) -> None:
    old = made.job(name="fenced")
    writer = Writer(old, keep=2)
    made.job(name="fenced")  # takes the lease
    writer.save(Checkpoint(32, {}, {"a": torch.zeros(3)}))
    with pytest.raises(Fenced):
        writer.wait()
    assert not _keys(old)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ("method: {alpha: 1.2}", r"method\.alpha is 1\.2, but the checkpoint at 160 images was made with 1\.0"),
        ("evaluation: {selection_every: 128}", r"evaluation\.selection_every is 128"),
        ("evaluation: {stop_after: 3}", r"evaluation\.stop_after is 3, .* with None"),
    ],
)
def test_a_changed_recipe_refuses_to_continue_and_names_the_field(
    made: Bench, monkeypatch: pytest.MonkeyPatch, changes: str, field: str
) -> None:
    if not _keys(made.job(name="changed")):
        _stopped(made.job(name="changed"), monkeypatch, images=128)
    with pytest.raises(UserError, match=field):
        distill(made.job(changes, "changed"))


def test_changed_inputs_refuse_to_continue(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _stopped(made.job(name="inputs"), monkeypatch, images=0)
    teacher = made.inputs["teacher"]
    other = teacher.model_copy(update={"result": teacher.result.model_copy(update={"licence": "another"})})
    spec = made.job(name="inputs").spec.model_copy(update={"teacher": stored(made.store, other)})
    job = made.job(name="inputs", spec=spec)
    with pytest.raises(UserError, match=r"inputs\.teacher"):
        distill(job)


def test_what_changes_no_number_may_change(
    made: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _stopped(made.job(name="execution"), monkeypatch, images=128)
    result = distill(made.job("execution: {activation_checkpointing: true, checkpoints_kept: 5}", "execution"))
    assert result.generator == undisturbed.generator


# --- trouble, patience, pictures ----------------------------------------------------------------------------------


def _poisoned(monkeypatch: pytest.MonkeyPatch, value: float, images: int = 3) -> None:
    """From 96 images on, the first images of a batch hold a value that no network can stand."""
    batch = ShuffledData.batch

    def poison(self: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, c = batch(self, positions)
        if int(positions[0]) >= 2 * 96:
            x[:images] = value
        return x, c

    monkeypatch.setattr(ShuffledData, "batch", poison)


def test_skipped_samples_are_counted(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _poisoned(monkeypatch, float("nan"))
    result = distill(made.job(name="skipped"))
    assert result.dropped == 3 * (256 - 96) // 32  # in phase A; phase B reads labels only


def test_beyond_the_limit_the_run_ends_with_iteration_sigma_range_and_a_dump(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", 1)
    _poisoned(monkeypatch, float("nan"))
    job = made.job("execution: {non_finite_limit: 5}", "limit")
    with pytest.raises(SidaError) as caught:
        distill(job)
    message = str(caught.value)
    assert "more than execution.non_finite_limit 5: 6 samples skipped" in message
    assert "stopped at iteration 5 (160 images)" in message and "sigma" in message
    (dump,) = [key for key in job.store.list(f"{job.folder}/dumps/")]
    content = json.loads(job.store.read(dump))
    low, high = content["trouble"]["sigma"]
    assert 0 < low <= high and content["trouble"]["seen"] == 128
    fetch_object(job.store, ObjectRef(**content["object"]))
    assert max(_places(job)) <= 160


@pytest.mark.parametrize("seen", [64, 96])  # before a selection is due, and in the midst of one
def test_a_run_that_is_stopped_where_a_loss_is_not_finite_writes_no_checkpoint_of_it_and_says_so(
    made: Bench, monkeypatch: pytest.MonkeyPatch, seen: int
) -> None:
    run = Distillation.run

    def infinite(self: Distillation, before: int, record: Any = None) -> dict[str, torch.Tensor]:
        losses = run(self, before, record)
        if before < seen:
            return losses
        os.kill(os.getpid(), signal.SIGTERM)
        return losses | {"loss_psi": torch.tensor(torch.inf)}

    monkeypatch.setattr(Distillation, "run", infinite)
    job = made.job(name=f"stopped-infinite-{seen}")
    said = (
        f"stopped at {seen + 32} images, where a loss is not finite: run again to continue from the checkpoint before"
    )
    with pytest.raises(SidaError, match=said):
        distill(job)
    assert max(_places(job)) == seen


def test_no_checkpoint_replaces_a_good_one_while_a_loss_is_not_finite(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Distillation.run

    def infinite(self: Distillation, seen: int, record: Any = None) -> dict[str, torch.Tensor]:
        losses = run(self, seen, record)
        return losses | ({"loss_psi": torch.tensor(torch.inf)} if seen >= 96 else {})

    monkeypatch.setattr(Distillation, "run", infinite)
    job = made.job(name="infinite")
    with pytest.raises(SidaError, match="a loss of the last iteration is not finite"):
        distill(job)
    assert max(_places(job)) == 96


def test_a_run_whose_score_no_longer_improves_ends_early(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([3.0, 1.0, 2.0, 1.5, 0.1])
    monkeypatch.setattr(selection, "frechet_distance", lambda *_: next(scores))
    job = made.job("method: {images: 512}\nevaluation: {stop_after: 2}", "patience")
    result = distill(job)
    assert (result.images_seen, result.score) == (128, 1.0)
    assert max(_places(job)) == 256
    again = distill(made.job("method: {images: 512}\nevaluation: {stop_after: 2}", "patience"))
    assert again == result.model_copy(update={"seconds": again.seconds})
    assert again.seconds == pytest.approx(result.seconds, abs=60)


def test_each_selection_leaves_a_grid_of_samples(made: Bench, undisturbed: dict[str, Any]) -> None:
    folder = Path(str(made.store.local_path("jobs/distill/undisturbed/1/samples")))
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:012d}.png" for n in (64, 128, 192, 256)]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())


def test_every_scored_generator_is_kept_where_the_recipe_asks_for_it_and_changes_no_number(
    made: Bench, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, emas = "execution: {keep_selections: true}", {}
    scored = selection.Selection.keep

    def noted(self: selection.Selection, seen: int, score: float) -> None:
        emas[seen] = {name: tensor.clone() for name, tensor in self._generator.state_dict().items()}
        scored(self, seen, score)

    monkeypatch.setattr(selection.Selection, "keep", noted)
    _stopped(made.job(keep, "keeps"), monkeypatch, images=160)  # after two selections
    result = distill(made.job(keep, "keeps"))
    assert (result.generator, result.curve, result.score) == (
        undisturbed.generator,
        undisturbed.curve,
        undisturbed.score,
    )
    assert undisturbed.selections == () and [kept.images_seen for kept in result.selections] == [64, 128, 192, 256]
    points = json.loads(made.store.read(result.curve.key))
    scores = {point["images"]: point["score"] for point in points if "score" in point}
    assert {kept.images_seen: float(f"{kept.score:.6g}") for kept in result.selections} == scores
    for kept in result.selections:
        tensors = load_file(fetch_object(made.store, kept.weights))
        assert tensors.keys() == emas[kept.images_seen].keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in emas[kept.images_seen].items())
    best = next(kept for kept in result.selections if kept.images_seen == result.images_seen)
    assert best.weights.sha256 == result.generator.sha256  # the same file
    spec = made.job(keep, "keeps").spec
    read = lambda ref: made.store.read(ref.key)  # noqa: E731
    assert spec.proven(result, read)
    wrong = best.model_copy(update={"score": best.score * 1.01})
    assert not spec.proven(result.model_copy(update={"selections": (wrong,)}), read)
