"""The accelerator that is not there behaves as one does: numbers of its own, strict about devices, waits that are counted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sida.launch.spec import EncodeSpec, LeaseRef
from sida.settings import settings
from sida.stores import open_store
from sida.stores.lease import acquire
from tests.accelerator.device import device, shapes, values
from tests.conftest import ROOT
from tests.jobs import job_file
from tests.training.digits_job import recipe


def test_operators_give_the_cpu_s_numbers_and_stay_on_the_device() -> None:
    with values():
        x = torch.arange(6.0, device=device()).reshape(2, 3)
        x[0] += 1
        assert x.device == device() and not x.is_cpu
        assert (x @ x.T).cpu().tolist() == [[14.0, 26.0], [26.0, 50.0]]


def test_tensors_of_two_devices_do_not_meet_but_scalars_do() -> None:
    with values():
        x = torch.ones(3, device=device())
        assert (x * torch.tensor(2.0)).sum().item() == 6
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)


def test_networks_move_train_and_are_copied() -> None:
    with values():
        layer = torch.nn.Linear(3, 2).to(device())
        adam = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
        before = layer.weight.detach().cpu().clone()
        layer(torch.ones(4, 3, device=device())).sum().backward()
        adam.step()
        assert isinstance(layer.weight, torch.nn.Parameter) and layer.weight.device == device()
        assert torch.allclose(layer.weight.detach().cpu(), before - 0.1, atol=1e-4)


def test_waits_are_reads_copies_to_the_host_and_copies_from_pageable_memory() -> None:
    with values() as waits:
        x = torch.zeros(3, device=device())
        pinned = torch.ones(3).pin_memory()
        x.copy_(pinned, non_blocking=True)
        pinned.to(device(), non_blocking=True)
        torch.full((3,), 2.0, device=device())
        landing = torch.empty(3, pin_memory=True)
        landing.copy_(x, non_blocking=True)
        assert waits.count == 0, str(waits)
        for work in (x.sum().item, x.cpu, x.nonzero, lambda: torch.ones(2).to(device()), lambda: x[x > 0]):
            before = waits.count
            work()
            assert waits.count == before + 1, str(waits)


def test_shapes_alone_cost_no_memory() -> None:
    with shapes() as waits:
        x = torch.zeros(1 << 20, 1 << 20, device=device())
        assert (x @ x).shape == x.shape and (x @ x).device == device()
        with pytest.raises(Exception, match="device"):
            x + torch.ones(1 << 20)
        assert waits.count == 0


def test_only_one_place_asks_which_machine_this_is() -> None:
    files = [path for folder in ("sida", "components", "pipeline") for path in (ROOT / folder).rglob("*.py")]
    asking = re.compile(r"torch\.cuda\b|\.is_cuda\b|torch\.accelerator\b")
    assert [str(path.relative_to(ROOT)) for path in files if asking.search(path.read_text())] == ["sida/devices.py"]


DETERMINISTIC = """
import os, sys, torch
from sida.manifests import Part
from sida.worker import main
class Switches(Part):
    algorithms: bool
    cudnn: bool
    benchmark: bool
    cublas: str | None
main.work = lambda job: Switches(algorithms=torch.are_deterministic_algorithms_enabled(),
    cudnn=torch.backends.cudnn.deterministic, benchmark=torch.backends.cudnn.benchmark,
    cublas=os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
main._run(sys.argv[1])
"""


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_execution_sets_every_switch_of_a_worker(place: Path, wanted: bool) -> None:
    """In a process of its own: the switches are the process's."""
    made = recipe(place, f"execution: {{deterministic: {str(wanted).lower()}}}")
    store = open_store(settings().store)
    lease = acquire(store, "steps/x", ttl=600)
    held = LeaseRef(key=lease.key, number=lease.number)
    file = job_file(store, made, EncodeSpec(work="x", shard_bytes=1), "jobs/x", held)
    store.put("jobs/x/spec.json", file.to_json())
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    command = [sys.executable, "-c", DETERMINISTIC, "jobs/x/spec.json"]
    subprocess.run(command, cwd=ROOT, check=True, env=environment | {"PYTHONPATH": str(ROOT)})
    lease.release()
    found = json.loads(store.read("jobs/x/result.json"))
    del found["checksum"]
    cublas = ":4096:8" if wanted else None
    assert found == {"algorithms": wanted, "cudnn": wanted, "benchmark": False, "cublas": cublas}
