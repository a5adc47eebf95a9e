"""The table of where an iteration's time goes."""

from __future__ import annotations

import time

import torch

from sida.training.op_profile import REST, IterationProfile, kind_of
from tests.training.tiny import distillation, run


def test_the_kinds_add_up_to_the_time_that_passed() -> None:
    images, weights = torch.randn(4, 8, 32, 32), torch.randn(8, 8, 3, 3, requires_grad=True)
    record = IterationProfile(torch.device("cpu"))
    started = time.perf_counter()
    with record.recorded(3):
        time.sleep(0.05)
        torch.nn.functional.silu(torch.nn.functional.conv2d(images, weights)).sum().backward()
    with record.recorded(1):
        time.sleep(0.02)
    passed = 1000 * (time.perf_counter() - started)
    found = record.milliseconds
    assert {"convolutions", "activations", REST} <= found.keys()
    assert found[REST] >= 3 * 50 + 20  # it slept
    assert all(spent >= 0 for spent in found.values()) and 3 * 50 + 20 <= sum(found.values()) <= 3 * passed


def test_one_round_is_recorded_however_many_there_are_and_no_tensor_changes() -> None:
    events, outcomes = [], []
    for rounds in (2, 8):
        job = distillation(micro_batch=32 // rounds)
        record = IterationProfile(torch.device("cpu"))
        job.run(640, record)
        events.append(record.events)
        outcomes.append(run(job, 1, 672))
        plain = distillation(micro_batch=32 // rounds)
        plain.run(640)
        assert all(torch.equal(outcomes[-1][name], tensor) for name, tensor in run(plain, 1, 672).items())
        assert {"convolutions", "optimizer and EMA"} <= record.milliseconds.keys()
    assert 500 < events[1] < 1.1 * events[0]  # a smaller micro-batch may take other kernels


def test_every_operator_has_a_kind() -> None:
    assert kind_of("aten::mkldnn_convolution") == kind_of("ConvolutionBackward0") == "convolutions"
    assert (
        kind_of("aten::addmm")
        == kind_of("aten::_scaled_dot_product_flash_attention")
        == "matrix products and attention"
    )
    assert kind_of("aten::native_group_norm_backward") == "normalisation"
    assert kind_of("aten::_fused_adam_") == "optimizer and EMA"
    assert kind_of("gloo:all_reduce") == "exchange between processes"
    assert kind_of("sida::philox_masks") == "dropout masks and draws"
    assert kind_of("aten::copy_") == "sums, products and copies"
