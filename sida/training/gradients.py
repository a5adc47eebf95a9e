"""Updates of a network by gradients that are summed over all processes while the backward pass still runs.

Parameters are dealt to buckets in reverse order, as backward tends to finish them. A bucket is sent as soon as it and those before
it are complete, so that all processes send the same ones in the same order. Under accumulation only the last round is armed:
gradients travel once per optimizer step. In the first step, where processes may compile or choose kernels and take unequally
long, they meet before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from sida.numerics.losses import sanitize_gradients
from sida.training.division import divided, local
from sida.training.sharding import give_back, norm, send_gradients
from sida.training.state import State, assign
from sida.worker.ranks import BUCKET_ELEMENTS, Processes

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps of a parameter
WITHOUT = "without"  # the value that names the parameters without moments, so that a lost one is noticed


class GradientSum:
    """The sum over all processes of the gradients of parameters that each holds whole; with one process it does nothing."""

    def __init__(self, network: nn.Module, processes: Processes, bucket_elements: int = BUCKET_ELEMENTS) -> None:
        self._buckets: list[list[nn.Parameter]] = []
        self._bucket_of: dict[nn.Parameter, int] = {}
        self._armed, self._next = False, 0
        self._processes, self._met = processes, False
        self._missing: list[int] = []
        self._pending: list[Any] = []
        self.sent_early = 0  # buckets that were on their way before the last backward pass had ended
        if processes.world > 1:
            whole = [p for p in network.parameters() if p.requires_grad and not divided(p)]
            self._deal(reversed(whole), bucket_elements)
            for parameter in whole:
                parameter.register_post_accumulate_grad_hook(self._complete)

    def _deal(self, parameters: Iterable[nn.Parameter], bucket_elements: int) -> None:
        filled = 0
        for parameter in parameters:
            last = self._buckets[-1] if self._buckets else []
            if not last or filled + parameter.numel() > bucket_elements or parameter.dtype != last[0].dtype:
                self._buckets.append([])
                filled = 0
            self._buckets[-1].append(parameter)
            self._bucket_of[parameter] = len(self._buckets) - 1
            filled += parameter.numel()

    def arm(self, on: bool = True) -> None:
        """Call before the last backward pass of an optimizer step; before another one with False."""
        self._armed, self._next = on and bool(self._buckets), 0
        self._missing = [len(bucket) for bucket in self._buckets]

    def _complete(self, parameter: Tensor) -> None:
        if not self._armed or not self._met:
            return
        self._missing[self._bucket_of[parameter]] -= 1  # type: ignore[index]
        while self._next < len(self._buckets) and self._missing[self._next] == 0:
            self._send(self._next)
            self.sent_early += 1

    def _send(self, number: int) -> None:
        self._next = number + 1
        taking_part = [p for p in self._buckets[number] if p.grad is not None]
        if not taking_part:
            return
        flat = torch.cat([p.grad.reshape(-1) for p in taking_part if p.grad is not None])
        # The bucket takes the gradients' place, so that they are in memory once.
        for parameter, part in zip(taking_part, flat.split([p.numel() for p in taking_part]), strict=True):
            parameter.grad = part.view_as(parameter)
        self._pending.append(distributed.all_reduce(flat, async_op=True))

    def finish(self) -> None:
        """Call after the last backward pass: send what is left (parameters that took no part), and wait for all sums."""
        if self._armed:
            if not self._met:
                self._processes.meet()
                self._met = True
            while self._next < len(self._buckets):
                self._send(self._next)
            for work in self._pending:
                work.wait()
            self._pending.clear()
            self._armed = False


Outputs = TypeVar("Outputs", bound=tuple[Tensor | None, ...])  # of a network's forward passes in one round


def leaves_of(outputs: Outputs) -> Outputs:
    """Stand-ins for outputs, with which a loss knows nothing of the network."""
    return cast(Outputs, tuple(None if output is None else output.detach().requires_grad_() for output in outputs))


class Updates:
    """Adam on one network's gradients. A checkpoint holds its steps and moments, under the names of the network's parameters."""

    def __init__(self, network: nn.Module, processes: Processes, betas: tuple[float, float], eps: float = 1e-8) -> None:
        self.network = network
        self.parameters = dict(network.named_parameters())  # divided, even while the network has them gathered
        kinds = [
            [p for p in self.parameters.values() if divided(p) == apart] for apart in (False, True)
        ]  # which Adam cannot take together
        groups = [{"params": parameters} for parameters in kinds if parameters]
        self.adam = torch.optim.Adam(groups, betas=betas, eps=eps, fused=True)
        self.gradients = GradientSum(network, processes)
        self._last = True

    def train_weights(self, on: bool) -> None:
        """Let backward passes reach the weights, or not."""
        self.network.requires_grad_(on)  # as gathered, where they are
        for parameter in self.parameters.values():
            parameter.requires_grad_(on)

    def begin_round(self, last: bool) -> None:
        """Call before each backward pass of an optimizer step: gradients travel in the ``last`` one."""
        self._last = last
        send_gradients(self.network, last)
        self.gradients.arm(last)

    def backward_in_two(self, loss: Tensor, outputs: Outputs, leaves: Outputs) -> None:
        """The backward pass of the network's first output, then that of the others; ``leaves`` stand for them in the loss.

        In a common pass FSDP2 would reduce what earlier rounds have left of a block as soon as the first output is through with it,
        and then what is new.
        """
        there = [(output, leaf) for output, leaf in zip(outputs, leaves, strict=True) if output is not None]
        gradients = torch.autograd.grad(loss, [leaf for _, leaf in there if leaf is not None])
        send_gradients(self.network, False, more=True)
        self.gradients.arm(False)
        there[0][0].backward(gradients[0])
        self.begin_round(self._last)
        torch.autograd.backward([output for output, _ in there[1:]], gradients[1:])

    def step(self, rate: float, clip: float | None = None, loss_scale: float = 1.0) -> Tensor:
        """Take one step with the gradients of a loss times ``loss_scale``, summed and cleaned; returns their norm, float32 []."""
        self.gradients.finish()
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        here = [local(gradient) for gradient in gradients]
        if loss_scale != 1:
            torch._foreach_mul_(here, 1 / loss_scale)
        sanitize_gradients(here, clip)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        give_back(self.network)
        return norm(gradients)

    def zero_grad(self) -> None:
        """Give the gradients' memory back."""
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """``exp_avg/blocks.0.weight`` and so on, and the names of parameters without moments: they never had a gradient."""
        moments = {
            f"{field}/{name}": value
            for name, parameter in self.parameters.items()
            for field, value in self.adam.state.get(parameter, {}).items()
        }
        without = [name for name, parameter in self.parameters.items() if not self.adam.state.get(parameter)]
        return {**moments, WITHOUT: without}

    def load_state_dict(self, state: State, /) -> None:
        """Continue from these steps and moments. Raises ValueError for one that is missing, or of no parameter here."""
        known = {WITHOUT, *(f"{field}/{name}" for field in MOMENTS for name in self.parameters)}
        without = set(state.get(WITHOUT, self.parameters))  # older checkpoints do not say
        for key in state:
            if key not in known:
                raise ValueError(f"tensor {state.full_name(key)} belongs to nothing that is trained here")
        for name, parameter in self.parameters.items():
            if name in without and not any(f"{field}/{name}" in state for field in MOMENTS):
                continue
            for field in MOMENTS:
                like = parameter.detach() if field != "step" else torch.zeros((), device=parameter.device)
                self.adam.state[parameter][field] = assign(torch.zeros_like(like), state, f"{field}/{name}")
