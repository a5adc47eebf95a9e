"""Fields of the layout of the work on machines."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sida.recipe.section import Batch, Count, Positive, Section


def _american(word: Any) -> Any:
    return "optimizer" if word == "optimiser" else word


Shard = Annotated[Literal["none", "optimizer", "full"], BeforeValidator(_american)]


class Execution(Section):
    """Settings that change no number: the layout of the work on machines."""

    LATER = ("shard", "shard_over", "keep_selections")
    GONE = MappingProxyType({"nodes": 1})

    processes: Batch = 1  # over all machines, one for each GPU
    threads: Batch = 1
    micro_batch: Batch | None = None  # per process: whole loss groups, or a part that several complete; None: the share
    sampling_batch: Batch | Literal["auto"] = 512  # images at once, at most; auto: the fastest, tried out
    checkpoint_every: Positive  # in images seen
    checkpoints_kept: Annotated[int, Field(ge=2, le=2**48)] = 2  # the newest; the best is kept besides
    keep_selections: bool = (
        False  # every scored generator stays in the store, named with its score in distill's manifest
    )
    non_finite_limit: Count = 100  # skipped samples and non-finite losses after which the run stops
    activation_checkpointing: bool = False  # less memory for more time: blocks are computed again in the backward pass
    deterministic: bool = False  # kernels that give the same bits each time, also on a GPU, for some of its speed
    channels_last: bool = False  # layout of the convolutions' tensors in memory; rounded otherwise, as with compile
    compile: bool = False  # torch.compile of each block; sums are rounded in another order, as on another machine
    shard: Shard = "none"  # divided among processes: Adam's moments and the EMA (optimizer), weights too (full)
    shard_over: Batch | None = None  # processes that hold one copy of what is divided; None: those of a machine

    @property
    def batch_limit(self) -> int:
        """Largest number of images at once if nothing is tried out."""
        return 512 if self.sampling_batch == "auto" else self.sampling_batch

    @model_validator(mode="before")
    @classmethod
    def _counts_all_machines(cls, fields: Any) -> Any:
        """Take ``nodes: 1`` of recipes that were stored before ``processes`` counted over all machines."""
        if isinstance(fields, dict) and "nodes" in fields:
            if fields["nodes"] != 1:
                raise ValueError("nodes: is not known any more: processes counts over all machines")
            return {name: value for name, value in fields.items() if name != "nodes"}
        return fields
