"""How the networks are run, where that changes no result: layout, recomputed activations, compiled blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sida.numerics.networks.layers import Conv2d, Dropout, UNetBlock
from sida.numerics.networks.magnitude import Block, MPConv
from sida.recipe import Execution
from sida.training.iteration import Networks


def apply_execution(networks: Networks, execution: Execution) -> None:
    """Set the recipe's options on the networks that take part in a backward pass."""
    for network in (networks.phi, networks.psi, networks.theta):
        if execution.channels_last:
            convolve_channels_last(network)
        if execution.compile:
            compile_blocks(network)
        if execution.activation_checkpointing:
            recompute_activations(network)


def convolve_channels_last(network: nn.Module) -> None:
    """Give convolutions their weights with the channels last in memory: what comes out of them lies so too, as cuDNN likes it.

    Parameters, gradients, Adam's moments and files lie as before.
    """
    for module in network.modules():
        if isinstance(module, Conv2d | MPConv) and module.weight is not None and module.weight.ndim == 4:
            module.weight_format = torch.channels_last


def recompute_activations(network: nn.Module) -> None:
    """Keep only what goes into each residual block; what is inside is computed again in the backward pass, to the same bits.

    Dropout masks are a function of layer and image.
    """
    for module in network.modules():
        if isinstance(module, UNetBlock | Block):
            module.forward = _recomputing(module, module.forward)  # type: ignore[method-assign]


def _recomputing(block: nn.Module, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _as_it_was(block)

    @wraps(forward)
    def run(*arguments: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

    return run


def _as_it_was(block: nn.Module) -> AbstractContextManager[None]:
    """A context in which the block computes what it does now: called in the forward pass, entered in the backward pass."""
    masks = [(module, module.keep_mask) for module in block.modules() if isinstance(module, Dropout)]

    @contextmanager
    def restored() -> Iterator[None]:
        later = [module.keep_mask for module, _ in masks]  # of another pass
        for module, mask in masks:
            module.keep_mask = mask
        try:
            yield
        finally:
            for (module, _), mask in zip(masks, later, strict=True):
                module.keep_mask = mask

    return restored()


def compile_blocks(network: nn.Module) -> None:
    """torch.compile for each residual block of a network: those of one shape share what is compiled.

    Dropout stays outside, because its masks change hands in every iteration. Call before ``recompute_activations``.
    """
    # All blocks share one forward, compiled anew for each shape of block; at dynamo's own limit of 8 the rest would run eagerly.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    for module in network.modules():
        if isinstance(module, Dropout):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
        elif isinstance(module, UNetBlock | Block):
            module.forward = torch.compile(module.forward, dynamic=False)  # type: ignore[method-assign]
