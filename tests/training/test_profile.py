"""The table of where an iteration's time goes."""

from __future__ import annotations

import time

import torch

from sida.training.profile import REST, kind_of, profiled


def test_the_kinds_add_up_to_the_time_that_passed_and_the_result_is_unchanged() -> None:
    images, weights = torch.randn(4, 8, 32, 32), torch.randn(8, 8, 3, 3, requires_grad=True)

    def work() -> torch.Tensor:
        time.sleep(0.05)
        loss = torch.nn.functional.silu(torch.nn.functional.conv2d(images, weights)).sum()
        loss.backward()
        return loss.detach()

    expected = work()
    started = time.perf_counter()
    result, found = profiled(work, torch.device("cpu"))
    passed = 1000 * (time.perf_counter() - started)
    assert torch.equal(result, expected)
    assert {"convolutions", "activations", REST} <= found.keys()
    assert found[REST] >= 50  # it slept
    assert all(spent >= 0 for spent in found.values()) and 50 <= sum(found.values()) <= passed


def test_every_operator_has_a_kind() -> None:
    assert kind_of("aten::mkldnn_convolution") == kind_of("ConvolutionBackward0") == "convolutions"
    assert (
        kind_of("aten::addmm")
        == kind_of("aten::_scaled_dot_product_flash_attention")
        == "matrix products and attention"
    )
    assert kind_of("aten::native_group_norm_backward") == "normalisation"
    assert kind_of("aten::_fused_adam_") == "optimiser and EMA"
    assert kind_of("gloo:all_reduce") == "exchange between processes"
    assert kind_of("aten::copy_") == "sums, products and copies"
