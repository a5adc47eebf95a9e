"""A training state as SiDA's authors' runs save it (torch.save): three networks' state dicts and two states of Adam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sida.numerics.networks.build import build_network

NETWORKS = ("fake_score_state", "G_state", "G_ema_state")


def training_state(network: dict[str, Any], **saved: Any) -> dict[str, Any]:
    """Networks with weights of their own, and Adam after one step of each; ``saved`` replaces entries."""
    made: dict[str, Any] = {}
    for seed, name in enumerate(NETWORKS):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = build_network(network)
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        made[name] = module.state_dict()
        if name != "G_ema_state":
            adam = torch.optim.Adam(module.parameters(), lr=1e-5, betas=(0.0, 0.999))
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            adam.step()
            made[f"{'fake_score' if name.startswith('fake') else 'g'}_optimizer_state"] = adam.state_dict()
    return made | saved


def write(path: Path, value: Any, old: bool = False) -> Path:
    """``torch.save``, also as before torch 1.6."""
    torch.save(value, path, _use_new_zipfile_serialization=not old)
    return path


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether names, types and bits are the same."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )
