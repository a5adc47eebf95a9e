"""Jobs of 8, 64 and 256 processes, seen from several of them: all take part in the same messages, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from sida import devices
from sida.errors import SidaError, UserError
from sida.launch.gpus_here import check_enough
from sida.launch.spec import Spec, TeachSpec
from sida.scoring.measure import measure
from sida.scoring.reference_job import reference
from sida.training.distill_loop import DistillRun, distill
from sida.training.teach_loop import teach
from sida.worker.job import Job
from sida.worker.ranks import joined
from tests.accelerator.device import NAME, Waits
from tests.accelerator.ranks import Message, process_of
from tests.accelerator.test_workers import reference_spec, score_spec
from tests.training.digits_job import Bench

CHANGES = """
method: {{images: {images}, batch: {batch}, loss_group: 4, generator_from: 0, adversarial_from: 0}}
evaluation: {{selection_images: {images}, selection_every: {images}, images: {images}, ranges: 1}}
execution: {{checkpoint_every: {batch}, sampling_batch: 2, micro_batch: 4}}
teacher: {{train: {{images: {images}, batch: {batch}}}, sampler: {{steps: 2}}}}
"""
CIFAR10 = """
method: {images: 512, batch: 256, loss_group: 32, generator_from: 0, adversarial_from: 0}
execution: {processes: 64, micro_batch: 2}
"""
RANKS = {8: (0, 1, 7), 256: (0, 255)}
GRADIENTS = 188_945  # of the tiny network


def messages(
    made: Bench,
    name: str,
    world: int,
    work: Callable[[Job[Any]], Any],
    spec: Spec[Any] | None = None,
    changes: str = "",
    ranks: Sequence[int] = (),
) -> list[Message]:
    """What every process of a job takes part in: those that are tried agree on it, and on what belongs on the device."""
    changes = changes or CHANGES.format(batch=4 * world, images=8 * world)
    said, expected = None, None
    for rank in ranks or RANKS[world]:
        with process_of(rank, world, said) as (processes, notes):
            job = made.job(changes, name, spec)
            work(Job(job.file, job.recipe, job.store, processes))
        said, expected = said or notes.said, expected or notes.messages
        assert notes.messages == expected, f"rank {rank} of {world}"
    assert expected
    assert {(m.group, m.device) for m in expected if m.group} <= {("tensors", NAME), ("part", NAME), ("talk", "cpu")}
    return expected


def sums(found: list[Message], group: str = "tensors") -> list[tuple[str, int]]:
    return [(m.dtype, m.elements) for m in found if m.what == "allreduce_" and m.group == group]


@pytest.mark.parametrize("world", RANKS)
def test_processes_of_a_distillation_agree(made: Bench, accelerator: Waits, world: int) -> None:
    found = messages(made, f"distill-{world}", world, distill)
    gradients = [message for message in sums(found) if message[0] == "float32"]
    assert gradients == [("float32", GRADIENTS)] * 3  # psi; psi and theta, each once an iteration
    first = next(n for n, m in enumerate(found) if m.elements == GRADIENTS)
    assert found[first - 1].what == "meet"  # before the first message of a network, which may have been compiled
    assert max(elements for _, elements in sums(found, "talk")) < 100


def test_processes_that_share_loss_groups_agree(made: Bench, accelerator: Waits) -> None:
    def train(job: Job[Any]) -> None:
        run = DistillRun(job)
        for seen in (0, 256):
            run.distillation.run(seen)
        run.writer.close()

    ranks = (0, 1, 15, 16, 63)  # a group of 32 is on 16 processes, in two rounds
    found = messages(made, "shared", 64, train, changes=CIFAR10, ranks=ranks)
    shared = [number for number, message in enumerate(found) if message.group == "part"]
    # Phase A twice and phase B once beyond its rehearsal (which has no logits): 2 rounds, real and fake, forward and backward.
    assert [found[number][2:] for number in shared] == [(NAME, "float32", 2)] * (2 * 8 + 4)
    # In a first iteration they meet before it: psi's 4 sums, and theta's 2.
    assert sum(found[number - 1].what == "meet" for number in shared) == 4 + 2
    gradients = [number for number, message in enumerate(found) if message.elements == GRADIENTS]
    assert len(gradients) == 3 and gradients[0] > shared[7]


def test_processes_that_continue_a_distillation_agree(made: Bench, accelerator: Waits) -> None:
    def stop(job: Job[Any]) -> None:
        run = DistillRun(job)
        with pytest.raises(SidaError, match="stopped at 32 images"):
            run.train(lambda: run.seen == 32)
        run.writer.close()

    messages(made, "continued", 8, stop)
    found = messages(made, "continued", 8, distill)
    assert sums(found).count(("float32", GRADIENTS)) == 2


@pytest.mark.parametrize("world", RANKS)
def test_processes_of_a_teacher_s_training_agree(made: Bench, accelerator: Waits, world: int) -> None:
    found = messages(made, f"teach-{world}", world, teach, TeachSpec(dataset=made.ref("dataset")))
    assert sums(found).count(("float32", GRADIENTS)) == 2


@pytest.mark.parametrize("world", RANKS)
def test_processes_of_a_score_and_of_a_reference_agree(made: Bench, accelerator: Waits, world: int) -> None:
    spec = score_spec(made, made.ref("teacher"), count=2 * world, extra_metrics=("kid",), floor=True)
    found = messages(made, f"score-{world}", world, measure, spec)
    assert not sums(found)  # parts are merged from the store, in their order
    assert not sums(messages(made, f"reference-{world}", world, reference, reference_spec(made)))


def test_more_processes_than_gpus_are_refused_with_what_to_set(
    accelerator: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with (
        pytest.raises(UserError, match=r"^8 processes .* has 1 GPU: set SIDA_WORKERS to 1"),
        joined(timedelta(seconds=5)),
    ):
        pass
    check_enough(1, devices.count())
    monkeypatch.undo()
    check_enough(8, devices.count())  # on a CPU
