"""Speed of the whole iteration on CPU in float32: `python -m benchmarks.iteration [--repeats N]`.

Three things in turn, pair by pair, so that a busy machine disturbs them alike: the project's iteration; a plain eager one, which
does the same twelve forwards with textbook attention, unfused Adam, loops over parameters, torch's own random numbers, and EDM2
weights normalized at every use; and the bare convolutions and matrix products of the iteration, replayed on tensors of the same
shapes and strides. Times are this process's CPU seconds (--threads 1), medians; the ratios are medians of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sida.numerics.draws import Draws
from sida.numerics.networks import layers
from sida.numerics.networks.build import build_network
from sida.numerics.networks.magnitude import MPConv
from sida.recipe import Method
from sida.training import iteration
from sida.training.iteration import Distillation, Networks
from sida.worker.ranks import Processes

BATCH = 16
NETWORKS: dict[str, dict[str, Any]] = {
    "SongUNet, 5.0 M parameters": {
        "architecture": "ddpmpp",
        "resolution": 32,
        "channels": 3,
        "label_dim": 10,
        "augment_dim": 9,
        "model_channels": 64,
        "channel_mult": (1, 2, 2),
        "num_blocks": 1,
        "attn_resolutions": (16,),
    },
    "EDM2 UNet": {
        "architecture": "edm2",
        "resolution": 32,
        "channels": 4,
        "label_dim": 10,
        "model_channels": 64,
        "channel_mult": (1, 2, 2),
        "num_blocks": 1,
        "attn_resolutions": (16, 8),
        "logvar_channels": 64,
    },
}
OPERATORS = {
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
}


class Noise:
    """Images of the right shape; the numbers do not matter here."""

    def __init__(self, network: dict[str, Any]) -> None:
        self.shape = (network["channels"], network["resolution"], network["resolution"])
        self.classes = network["label_dim"]

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        labels = nn.functional.one_hot(positions % self.classes, self.classes).float()
        return torch.zeros(len(positions), *self.shape), labels


class TorchDraws:
    """torch's own random numbers."""

    def normal(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return torch.randn(len(indices), *shape, dtype=dtype, device=indices.device)

    def uniform(
        self, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return torch.rand(len(indices), *shape, dtype=dtype, device=indices.device)

    def keep(self, purpose: str, indices: Tensor, shape: Sequence[int], p: float) -> Tensor:
        return self.uniform(purpose, indices, shape) >= p


def distillation(network: dict[str, Any], draws: Any) -> Distillation:
    """SiDA beyond its warm-ups, fresh networks without silent layers."""
    method = Method(
        name="sida",
        images=10**6,
        batch=BATCH,
        loss_group=BATCH,
        alpha=1.0,
        fake_score_rate=1e-5,
        generator_rate=1e-5,
        generator_from=0,
        adversarial_from=0,
        clip_fake_score=network["architecture"] != "edm2",
    )
    torch.manual_seed(0)
    teacher = build_network(network, method.dropout)
    for parameter in teacher.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return Distillation(Networks.start(teacher), method, draws, Noise(network), Processes(0, 1, torch.device("cpu")))


# The plain iteration.


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scores, softmax, weighted sum."""
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1) @ value


def plain_ema(ema: nn.Module, network: nn.Module, beta: float) -> None:
    """Parameter by parameter."""
    with torch.no_grad():
        for average, value in zip(ema.parameters(), network.parameters(), strict=True):
            average.copy_(value.lerp(average, beta))


def plain_adam(parameters: Any, **settings: Any) -> torch.optim.Adam:
    """Neither fused nor over lists of tensors."""
    return _ADAM(parameters, **(settings | {"fused": False, "foreach": False}))


_ADAM = torch.optim.Adam


@contextmanager
def plain() -> Iterator[None]:
    """The project's iteration with its fast parts replaced."""
    with (
        patch.object(layers, "scaled_dot_product_attention", plain_attention),
        patch.object(iteration, "update_ema", plain_ema),
        patch.object(torch.optim, "Adam", plain_adam),
        patch.object(MPConv, "_frozen_fold", MPConv._fold),
    ):
        yield


# The bare operators.


class Recorder(TorchDispatchMode):
    """Counts the heavy operators by shapes and strides."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OPERATORS:
            self.calls[func, _frozen(args), _frozen(tuple(sorted((kwargs or {}).items())))] += 1
        return func(*args, **(kwargs or {}))


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return "tensor", tuple(value.shape), tuple(value.stride())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple) and value[:1] == ("tensor",):
        shape, strides = value[1:]
        reach = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        return torch.randn(max(reach, 1)).as_strided(shape, strides)  # also of expanded tensors, whose strides are 0
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value


def bare_operators(job: Distillation) -> Callable[[], float]:
    """A function that runs the operators of one iteration of ``job`` once and returns its CPU seconds."""
    recorder = Recorder()
    with recorder:
        job.run(10**5)

    def run() -> float:
        seconds = 0.0
        for (func, args, kwargs), count in recorder.calls.items():
            given, named = _thawed(args), dict(_thawed(kwargs))
            started = time.process_time()
            for _ in range(count):
                func(*given, **named)
            seconds += time.process_time() - started
        return seconds

    return run


def _timed(job: Distillation) -> float:
    started = time.process_time()
    job.run(10**5)
    return time.process_time() - started


def main() -> int:
    """A table per network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="rounds of the three; default: 7")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, network in NETWORKS.items():
        if args.only not in name:
            continue
        ours = distillation(network, Draws(0))
        with plain():
            textbook = distillation(network, TorchDraws())
            textbook.run(10**5)
        bare = bare_operators(ours)  # warms ours up
        rows = []
        for _ in range(args.repeats):
            fast = _timed(ours)
            with plain():
                slow = _timed(textbook)
            rows.append((fast, slow, bare()))
        size = sum(p.numel() for p in ours.networks.theta.parameters()) / 1e6
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"{name}: {size:.1f} M parameters, batch {BATCH}, {args.threads} thread(s), {args.repeats} rounds")
        print(f"  ours {medians[0]:.3f} s, plain {medians[1]:.3f} s, bare operators {medians[2]:.3f} s (CPU, medians)")
        print(f"  plain / ours {statistics.median(s / f for f, s, _ in rows):.2f}", end="")
        print(f", ours / bare operators {statistics.median(f / b for f, _, b in rows):.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
