"""Jobs and steps on the accelerator that is not there, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sida import devices
from sida.launch.spec import Spec
from sida.steps import StepRun
from sida.worker.ranks import Processes
from tests.accelerator import device as fake
from tests.accelerator.device import Waits, device
from tests.jobs import run_here
from tests.training.digits_job import Bench, bench

MODULES = (
    "sida.launch.job",
    "sida.scoring.reference",
    "sida.scoring.score",
    "sida.training.distill_step",
    "sida.training.teach_step",
)

# When tests are collected: the first backward pass of a process counts the kinds of devices, and knows of no later one.
device()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Store and inputs, made once by the CPU."""
    folder = tmp_path_factory.mktemp("accelerator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDA_STORE", f"file://{folder / 'store'}")
        patch.setenv("SIDA_RUNS", str(folder / "runs"))
        patch.setenv("SIDA_CACHE", str(folder / "cache"))
        yield bench(folder)


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """This machine has the device, whose tensors hold numbers; gives the count of waits for it."""
    monkeypatch.setattr(devices, "kind", lambda: fake.NAME)
    monkeypatch.setitem(devices.BACKENDS, fake.NAME, "gloo")
    with fake.values() as waits:
        yield waits


@pytest.fixture
def here(made: Bench, accelerator: Waits) -> Bench:
    """The same inputs, for jobs on the device."""
    return Bench(made.folder, made.store, made.inputs, device())


@pytest.fixture
def workers_here(accelerator: Waits, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Jobs of steps run in this process, on the device, in place of torchrun's."""

    def run_job(run: StepRun, spec: Spec[Any], *_: Any) -> Any:
        return run_here(run, spec, Processes(0, 1, devices.claim()))

    for module in MODULES:
        monkeypatch.setattr(f"{module}.run_job", run_job)
    return run_job
