"""One process's iterations on the accelerator: every network and precision, the CPU's numbers, and no wait for the device."""

from __future__ import annotations

import pytest
import torch

from tests.accelerator.device import Waits, device
from tests.accelerator.made import distillation
from tests.training.tiny import largest_difference, run

CASES = [
    ("ddpmpp", "float32", {"augment": 0.15}),
    ("ddpmpp", "float16", {"augment": 0.15, "name": "sid"}),
    ("ncsnpp", "float16", {}),
    ("adm", "float16", {}),
    ("adm", "bfloat16", {}),
    ("edm2", "float32", {}),
    ("edm2", "float16", {"name": "sid"}),
    ("edm2 with head", "float16", {"forced_normalization": True}),
    ("edm2 with head", "bfloat16", {}),
]
# What two orders of summation may make of a step of Adam, which turns rounding of small gradients into whole steps.
ROUNDING = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.2}


@pytest.mark.parametrize(("network", "precision", "changes"), CASES)
def test_iterations_give_the_cpu_s_numbers_and_never_wait(
    accelerator: Waits, network: str, precision: str, changes: dict[str, object]
) -> None:
    expected = run(distillation(network, torch.device("cpu"), precision=precision, **changes), 1, seen=8)
    job = distillation(network, device(), precision=precision, **changes)
    accelerator.clear()
    losses = job.run(8)  # beyond the warm-ups: every term acts
    assert accelerator.count == 0, str(accelerator)
    assert {value.device for value in losses.values()} == {device()}
    found = {name: tensor.cpu() for name, tensor in run(job, 0).items()}
    assert largest_difference(expected, found) < ROUNDING[precision]
