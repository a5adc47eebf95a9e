"""Keys, attempts and reuse, on a folder store and with real manifests."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from kfp import dsl

from sida import recipe
from sida.errors import Corrupt, Fenced, LeaseHeld, UserError
from sida.manifests import DatasetResult, Manifest, Selected, TeacherResult, parse_manifest, read_manifest
from sida.origin import manifest_key
from sida.recipe import Recipe
from sida.settings import settings
from sida.steps import From, StepOutcome, StepRun, carried, step
from sida.steps.execute import execute, execute_one_of_many
from sida.steps.recipes import recipe_address, recipe_at
from sida.stores import fetch_object, open_store
from sida.stores.folder import FolderStore
from sida.stores.lease import acquire

RECIPE = recipe.load("digits")
calls: list[int] = []


@step(version=1, sources=("sida/errors.py",), measures=True)
def toy(
    run: StepRun,
    recipe: Recipe,
    weights: bytes = b"weights",
    network: str = "",
    before: Callable[[], None] = lambda: None,
) -> TeacherResult:
    run.claim({"size": len(weights)})
    calls.append(run.attempt)
    ref = run.put(weights, "toy.safetensors")
    before()
    return TeacherResult(
        network={"by": network} if network else {}, weights=ref, source_sha256=ref.sha256, licence="none"
    )


@pytest.fixture(autouse=True)
def _fresh(place: Path) -> None:
    calls.clear()


def run(**arguments: Any) -> StepOutcome[TeacherResult]:
    return toy(recipe=RECIPE, **arguments)


def test_a_second_run_reuses_the_first() -> None:
    first, second = run(), run()
    assert (first.reused, second.reused) == (False, True)
    assert second.address == first.address
    assert calls == [1]


def test_parameters_and_repeat_make_another_key() -> None:
    addresses = {run().address, run(weights=b"longer weights").address, run(repeat="monday").address}
    assert len(addresses) == 3


def test_a_new_attempt_keeps_the_old_one_and_moves_latest() -> None:
    first, forced, after = run(), run(attempt="new"), run()
    assert calls == [1, 2]
    assert forced.address.endswith("/2.json")
    assert after.address == forced.address
    assert Path(first.address.removeprefix("file://")).exists()
    assert first.manifest.digest == forced.manifest.digest  # the same result, whoever made it when


def test_a_result_whose_object_is_gone_or_changed_is_made_again() -> None:
    first = run()
    store = open_store(settings().store)
    key = first.manifest.objects()[0].key
    store.delete(key)
    assert not run().reused
    store.put(key, b"spoiled")
    assert not run().reused
    assert store.read(key) == b"spoiled" or run().reused


def test_a_writer_killed_before_moving_the_pointer_loses_nothing() -> None:
    first = run()
    store = open_store(settings().store)
    store.delete(first.address.removeprefix(store.address + "/").rsplit("/", 1)[0] + "/latest")
    assert run().reused


@pytest.mark.parametrize("pointer", [b"\0\0", b"1", b"99", b""])
def test_whatever_latest_says_the_newest_attempt_counts_and_the_next_one_puts_it_right(pointer: bytes) -> None:
    run()
    newest = run(attempt="new").address
    store = open_store(settings().store)
    place = newest.removeprefix(store.address + "/").rsplit("/", 1)[0] + "/latest"
    store.put(place, pointer)
    assert run().address == newest
    run(attempt="new")
    assert store.read(place) == b"3"


def test_a_writer_that_wakes_after_its_check_neither_fails_the_rightful_one_nor_moves_latest_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, asleep = open_store(settings().store), threading.Event()
    awake, real, ended = threading.Event(), FolderStore.put_if_absent, list[Any]()

    def pausing(self: FolderStore, key: str, content: bytes) -> Any:
        if key.endswith("/1.json") and threading.current_thread().name == "stale":
            asleep.set()  # between the check of the fence and the manifest
            awake.wait(30)
        return real(self, key, content)

    def stale() -> None:
        ended.append(run(network="stale"))

    monkeypatch.setattr(FolderStore, "put_if_absent", pausing)
    thread = threading.Thread(target=stale, name="stale")
    thread.start()
    assert asleep.wait(30)
    (held,) = (key for key in store.list("leases/"))
    store.put(held, json.dumps({**json.loads(store.read(held)), "released": True}).encode())

    def wake() -> None:
        awake.set()
        thread.join(30)

    made = run(network="rightful", before=wake)
    assert made.address.endswith("/2.json") and made.manifest.about.attempt == 2
    assert run().manifest == made.manifest
    assert store.read(manifest_key(made.manifest).rpartition("/")[0] + "/latest") == b"2"


def test_a_writer_that_wakes_after_its_successor_has_published_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    store, others = open_store(settings().store), list[StepOutcome[TeacherResult]]()

    def taken_over() -> None:
        (held,) = (key for key in store.list("leases/"))
        store.put(held, json.dumps({**json.loads(store.read(held)), "released": True}).encode())
        others.append(run(network="rightful"))

    with monkeypatch.context() as asleep:
        asleep.setattr("sida.stores.lease.Lease.guarded", lambda self, write: write())  # its checks were passed before
        with pytest.raises(Fenced):
            run(network="stale", before=taken_over)
    assert run().manifest == others[0].manifest


@pytest.mark.parametrize("damage", [b"weighty", b"weight"])
def test_a_result_made_again_because_its_object_is_damaged_replaces_the_object(damage: bytes) -> None:
    first, store = run(), open_store(settings().store)
    ref = first.manifest.objects()[0]
    store.put(ref.key, damage)  # of the same size, or cut
    assert not run().reused
    assert store.read(ref.key) == b"weights" and run().reused
    assert fetch_object(store, ref).read_bytes() == b"weights"


def test_an_object_that_was_written_again_unchanged_is_no_reason_to_make_its_result_again() -> None:
    first, store = run(), open_store(settings().store)
    store.put(first.manifest.objects()[0].key, b"weights")
    assert run().reused


def test_an_attempt_killed_before_publishing_is_not_seen() -> None:
    class Killed(BaseException):
        pass

    @step(version=1, sources=("sida/errors.py",))
    def dies(run: StepRun, recipe: Recipe) -> TeacherResult:
        run.claim({})
        run.put(b"half", "half.safetensors")
        raise Killed

    with pytest.raises(Killed):
        dies(recipe=RECIPE)
    assert open_store(settings().store).list("steps/dies") == []


def test_a_key_that_somebody_holds_is_refused_with_the_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    address = run().address
    store = open_store(settings().store)
    folder = address.removeprefix(store.address + "/").rsplit("/", 1)[0]
    with acquire(store, folder, ttl=30), pytest.raises(LeaseHeld, match="process"):
        run(attempt="new")


def test_execute_writes_the_manifest_and_its_address(tmp_path: Path) -> None:
    output = SimpleNamespace(path=str(tmp_path / "out" / "teacher"), metadata={})
    published = execute(toy, output, recipe=RECIPE)
    assert read_manifest(output.path, TeacherResult) == published.manifest
    assert output.metadata == {"address": published.address, "digest": published.manifest.digest}
    assert all(isinstance(value, str) for value in output.metadata.values())


def test_metrics_hold_numbers_alone_and_their_manifest_says_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from components.__main__ import _tell

    output = dsl.Metrics(name="scores", uri=str(tmp_path / "scores"), metadata={})
    published = execute(toy, output, recipe=RECIPE)
    output.log_metric("generator_fid", 2.5)
    assert output.metadata == {"generator_fid": 2.5}  # each entry is a row of Kubeflow's table
    standing = dsl.Metrics(name="standing", uri=str(tmp_path / "standing"), metadata={})
    _tell({"scores": output, "standing": standing}, None, "")
    assert capsys.readouterr().out == f"scores\t{published.address}\n"


def test_execute_turns_a_mistake_into_one_line_and_status_2(tmp_path: Path, capsys: Any) -> None:
    output = SimpleNamespace(path=str(tmp_path / "teacher"), metadata={})
    with pytest.raises(SystemExit) as caught:
        execute(toy, output, recipe="digist")
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("toy: error: no recipe 'digist'")
    assert not Path(output.path).exists()


def test_two_firings_of_a_schedule_are_two_measurements_and_reuse_is_none() -> None:
    output = SimpleNamespace(path=str(settings().runs / "toy"), metadata={})

    def fired(repeat: str, at: str) -> str:
        return execute(toy, output, recipe=RECIPE, repeat=repeat, scheduled=at).address

    monday, tuesday = fired("scheduled", "2026-11-02T03:00:00Z"), fired("scheduled", "2026-11-03T03:00:00Z")
    assert monday != tuesday
    assert fired("scheduled", "2026-11-02T03:00:00Z") == monday  # a step of the same firing that is tried again
    assert fired("reuse", "2026-11-04T03:00:00Z") == fired("", "") == run().address
    assert fired("my own", "2026-11-04T03:00:00Z") == run(repeat="my own").address


def test_a_time_that_kubeflow_left_as_a_placeholder_is_no_measurement(capsys: Any) -> None:
    output = SimpleNamespace(path=str(settings().runs / "toy"), metadata={})
    with pytest.raises(SystemExit) as caught:
        execute(toy, output, recipe=RECIPE, repeat="scheduled", scheduled="{{$.pipeline_job_schedule_time_utc}}")
    assert caught.value.code == 1
    assert "2.17 or newer" in capsys.readouterr().err


@step(version=1, sources=("sida/errors.py",))
def uses_toy(run: StepRun, recipe: Recipe, made: Annotated[Manifest[TeacherResult], From("toy")]) -> TeacherResult:
    run.claim({}, teacher=made)
    ref = run.put(b"further", "further.safetensors")
    return TeacherResult(network={}, weights=ref, source_sha256=ref.sha256, licence="none")


def test_a_manifest_brings_what_it_was_made_from() -> None:
    first = run().manifest
    further = uses_toy(recipe=RECIPE, made=first).manifest
    assert carried(further, "teacher", TeacherResult) == first
    with pytest.raises(UserError, match="does not say where its dataset lies: run uses_toy again"):
        carried(further, "dataset", DatasetResult)


def test_what_a_manifest_was_made_from_is_the_same_result_or_nothing() -> None:
    first, store = run().manifest, open_store(settings().store)
    further = uses_toy(recipe=RECIPE, made=first).manifest
    again = run(attempt="new").manifest  # the same result as an attempt of its own
    store.delete(manifest_key(first))
    assert carried(further, "teacher", TeacherResult) == again
    other = run(weights=b"others").manifest
    store.put(manifest_key(again), other.to_json())
    with pytest.raises(UserError, match="the teacher that uses_toy used, is gone or damaged: submit the run again"):
        carried(further, "teacher", TeacherResult)


def test_a_recipe_travels_by_address_and_digest() -> None:
    address = recipe_address(RECIPE)
    assert recipe_at(address) == RECIPE
    with pytest.raises(UserError, match="attempt"):
        run(attempt="sometimes")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a manifest"),
        (b"[]", "not a manifest"),
        (b"{}", "schema None"),
        (b'{"schema_version": 99}', "schema 99"),
        (b'{"schema_version": 1}', "Field required"),
        (b'{"schema_version": 1, "result": {"kind": "cake"}, "about": {}}', "result"),
    ],
)
def test_a_damaged_or_foreign_manifest_is_refused_by_name(content: bytes, expected: str) -> None:
    with pytest.raises(UserError, match=r"here\.json") as caught:
        parse_manifest(content, "here.json")
    assert expected in str(caught.value)


def test_a_manifest_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(run().manifest.to_json())
    with pytest.raises(UserError, match="is a teacher manifest, this input takes a dataset manifest"):
        read_manifest(path, DatasetResult)
    with pytest.raises(UserError, match="no such manifest"):
        read_manifest(tmp_path / "absent.json", DatasetResult)


def test_kept_selections_move_no_key_and_no_digest_and_manifests_without_them_keep_their_bytes() -> None:
    from sida.training.distill_step import distill

    manifest = run().manifest
    assert "selections" not in json.loads(manifest.to_json())["about"]
    selected = Selected(images_seen=64, score=1.5, weights=manifest.result.weights)
    keeping = manifest.model_copy(update={"about": manifest.about.model_copy(update={"selections": (selected,)})})
    again = parse_manifest(keeping.to_json(), "x")
    assert again.about.selections == (selected,) and again.digest == manifest.digest
    assert again.to_json() == keeping.to_json()
    execution = RECIPE.execution.model_copy(update={"keep_selections": True})
    kept = RECIPE.model_copy(update={"execution": execution})
    assert distill.asks(kept) == distill.asks(RECIPE)
    assert "keep_selections" in kept.model_dump_json() and "keep_selections" not in RECIPE.model_dump_json()


def test_a_digest_covers_the_result_and_nothing_else() -> None:
    content = json.loads(run().manifest.to_json())
    content["about"]["seconds"] = 99.0
    with pytest.raises(Corrupt, match="checksum"):
        parse_manifest(json.dumps(content).encode(), "m")
    content["checksum"] = ""
    assert parse_manifest(json.dumps(content).encode(), "m").digest == run().manifest.digest
    content["result"]["licence"] = "other"
    assert parse_manifest(json.dumps(content).encode(), "m").digest != run().manifest.digest


def test_one_of_many_passes_its_failure_on_and_keeps_a_record_of_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sida import records
    from sida.failures import failure_in

    monkeypatch.setenv("SIDA_RUN", "run-1")
    recipes = {name: RECIPE.model_copy(update={"name": name}) for name in ("good", "bad")}
    address = {name: recipe_address(loaded) for name, loaded in recipes.items()}
    outputs = {name: SimpleNamespace(path=str(place / name), metadata={}) for name in ("good", "bad", "after")}

    def go(name: str, recipe: str, **arguments: Any) -> Any:
        return execute_one_of_many(toy, outputs[name], recipe=address[recipe], **arguments)

    assert go("good", "good").manifest == read_manifest(outputs["good"].path, TeacherResult)
    assert go("bad", "bad", attempt="third") is None  # refused by the step: a user's mistake
    failure = failure_in(outputs["bad"].path)
    assert failure is not None and (failure.item, failure.step, failure.exit_code) == ("bad", "toy", 2)
    assert "attempt 'third'" in failure.message
    assert go("after", "bad", weights=str(outputs["bad"].path)) is None  # a step that takes the failed one's result
    assert failure_in(outputs["after"].path) == failure and calls == [1]
    store = open_store(settings().store)
    made = records.calls(store, "run-1")
    assert {name: call.state for name, call in made.items()} == {"toy.good": "ran", "toy.bad": "failed"}
    assert records.call_of(store, "run-1", "toy.bad").parameters["one_of_many"] == "true"
    with pytest.raises(SystemExit) as ended:  # alone it ends with the status that the error names
        execute(toy, outputs["bad"], recipe=address["bad"], attempt="third")
    assert ended.value.code == 2


def test_an_unexpected_error_of_one_of_many_is_passed_on_too(place: Path) -> None:
    from sida.failures import failure_in

    output = SimpleNamespace(path=str(place / "out"), metadata={})
    address = recipe_address(RECIPE)
    assert execute_one_of_many(toy, output, recipe=address, weights=7) is None
    failure = failure_in(output.path)
    assert failure is not None and failure.exit_code == 1 and failure.message.startswith("TypeError: ")


# -- damage that keeps its size


def _flip(path: Path, at: int | None = None) -> None:
    """Change one bit, and set back the time of writing."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("known", [True, False])
def test_an_object_flipped_under_its_old_time_is_made_again_in_the_same_run(place: Path, known: bool) -> None:
    ref = run().manifest.result.weights
    if not known:
        shutil.rmtree(place / "cache")  # another machine
    _flip(place / "store" / ref.key)
    again = run()
    assert (again.reused, calls) == (False, [1, 2])
    assert fetch_object(open_store(settings().store), ref).read_bytes() == b"weights"
    assert run().reused


@pytest.mark.parametrize("at", [0, 19, 20, None, -40])
def test_a_damaged_manifest_is_set_aside_in_one_line_and_its_step_runs_again(
    place: Path, at: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run()
    _flip(Path(first.address.removeprefix("file://")), at)
    again = run()
    assert (again.reused, calls) == (False, [1, 2])
    assert again.manifest.digest == first.manifest.digest and again.address.endswith("/2.json")
    said = [line for line in capsys.readouterr().err.splitlines() if "set aside" in line]
    assert len(said) == 1 and first.address in said[0] and "making its result again" in said[0]
    assert run().address == again.address


def test_a_damaged_manifest_under_a_reused_one_is_found_in_its_newest_attempt(place: Path) -> None:
    first = run()
    further = uses_toy(recipe=RECIPE, made=first.manifest).manifest
    _flip(Path(first.address.removeprefix("file://")))
    again = run()
    assert carried(further, "teacher", TeacherResult).digest == again.manifest.digest


def test_damage_is_for_the_user_to_mend_and_never_status_1(place: Path) -> None:
    path = Path(run().address.removeprefix("file://"))
    _flip(path)
    with pytest.raises(UserError, match=r"1\.json.*again") as caught:
        read_manifest(path, TeacherResult)
    assert caught.value.exit_code == Corrupt.exit_code == 2


def test_the_same_on_s3(s3_endpoint: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY

    monkeypatch.setenv("SIDA_S3_ENDPOINT", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("SIDA_STORE", f"s3://{BUCKET}/{place.name}")
    first, store = run(), open_store(settings().store)
    ref = first.manifest.result.weights
    for key_of in (lambda outcome: ref.key, lambda outcome: manifest_key(outcome.manifest)):
        key = key_of(run())
        content = bytearray(store.read(key))
        content[len(content) // 2] ^= 1
        store.put(key, bytes(content))
        again = run()
        assert not again.reused and again.manifest.digest == first.manifest.digest
        assert run().address == again.address
    assert calls == [1, 2, 3] and store.read(ref.key) == b"weights"
