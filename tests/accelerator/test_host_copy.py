"""Copies of a device's tensors for checkpoints: right whatever the sizes, in one piece of memory and one small pinned block."""

from __future__ import annotations

import pytest
import torch

from sida.training import host_copy
from sida.training.host_copy import HostCopy
from tests.accelerator.device import Waits, device


def tensors(seed: int, where: torch.device) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {f"{n}": torch.randn(n, 3, generator=generator) for n in (1, 5, 40, 0, 7)}
    made["step"] = torch.tensor(float(seed))
    made["half"] = torch.randn(11, generator=generator).to(torch.float16)
    made["long"] = torch.arange(13) + seed
    return {name: tensor.to(where) for name, tensor in made.items()}


@pytest.mark.parametrize("stage_bytes", [64, 200, 2**16])
def test_copies_from_a_device_are_exact_in_one_memory_that_is_used_again(accelerator: Waits, stage_bytes: int) -> None:
    host = HostCopy(stage_bytes)
    for seed in (1, 2):
        given = tensors(seed, device())
        accelerator.clear()
        copies = host.take(given)
        assert {reason for _, reason in accelerator.places} == {"synchronize"}  # never through pageable memory
        assert list(copies) == list(given)
        for name, tensor in tensors(seed, torch.device("cpu")).items():
            assert torch.equal(copies[name], tensor) and copies[name].dtype == tensor.dtype
        storages = {copy.untyped_storage().data_ptr() for copy in copies.values()}
        assert len(storages) == 1
        if seed == 1:
            first = storages
    assert storages == first
    size = sum(tensor.nbytes for tensor in given.values())
    assert copies["1"].untyped_storage().nbytes() <= size + len(given) * host_copy.ALIGNED


def test_another_set_of_tensors_takes_another_memory() -> None:
    host = HostCopy()
    host.take({"a": torch.ones(3)})
    copies = host.take({"a": torch.ones(3), "best/a": torch.zeros(2)})
    assert copies["best/a"].tolist() == [0, 0] and copies["a"].tolist() == [1, 1, 1]
