"""One network of a file that may hold several: training states hold three, and optimizers beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from sida.foreign import Inert, Refused, TensorView
from sida.foreign.limits import Budget
from sida.printing import one_line
from sida.teachers.files import described

DEFAULT = "ema"  # what published files call the network to use
MOST_LISTED = 8
MOST_NAMES = 100_000  # of tensors and modules in all networks of a file, which may share their parts


def state_dicts(value: Any) -> dict[str, dict[str, Any]]:
    """Return what in a torch file's value maps names to tensors alone: itself under "", entries, and entries of entries by a.b."""
    budget = Budget(0, MOST_NAMES)
    if _is_state_dict(value, budget):
        return {"": value}
    found = {}
    for name, entry in _entries(value):
        if _is_state_dict(entry, budget):
            found[name] = entry
        else:
            found |= {f"{name}.{inner}": it for inner, it in _entries(entry) if _is_state_dict(it, budget)}
    return found


def optimizers(value: Any) -> tuple[str, ...]:
    """Return the names of the optimizers' states in a file's value."""
    return tuple(one_line(name, 60) for name, entry in _entries(value) if "param_groups" in dict(_entries(entry)))


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((name, entry) for name, entry in value.items() if isinstance(name, str))


def _is_state_dict(value: Any, budget: Budget) -> bool:
    from torch import Tensor

    budget.spend(1 + len(value) if isinstance(value, dict) else 1)
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(name, str) and isinstance(it, Tensor | TensorView) for name, it in value.items())


class Several(Refused):
    """A file of several networks, of which none was chosen: what is known of each, and the optimizers' states in it."""

    networks: Mapping[str, str] = {}  # never changed
    optimizers: tuple[str, ...] = ()


def choose(networks: Mapping[str, str], value: Any, key: str | None, label: str) -> str:
    """Return which of a file's networks to take: ``key``, or the only one, or the EMA as published files name it.

    Raises Refused, which lists what there is.
    """
    if key is not None:
        if key not in networks:
            raise Refused(
                f"{label}: holds no network {one_line(key, 60)!r}, it holds {_listed(networks)}: choose another"
            )
        return key
    if DEFAULT in networks:
        return DEFAULT
    if len(networks) > 1:
        error = Several(
            f"{label}: holds {len(networks)} networks: take one out by `sida convert FILE --key NAME`: {_listed(networks)}"
        )
        error.networks, error.optimizers = networks, optimizers(value)
        raise error
    return next(iter(networks))


def _listed(networks: Mapping[str, Any]) -> str:
    """Return the names of networks, for people."""
    names = [one_line(name, 40) or "one without a name" for name in list(networks)[:MOST_LISTED]]
    more = len(networks) - len(names)
    return (", ".join(names) or "none") + (f" and {more:,} more" if more else "")


def summary(name: str, tensors: Mapping[str, Any]) -> str:
    """Return what a network's name and tensors tell: averaged weights or not, how many, of which types."""
    kinds = [described(tensor) for tensor in tensors.values()]
    types = ", ".join(sorted({kind for kind, _ in kinds}))
    averaged = "EMA by its name, " if "ema" in name.lower() else ""
    return f"{averaged}{len(kinds):,} tensors, {sum(prod(shape) for _, shape in kinds):,} numbers, {types}"


def is_module(value: Any) -> bool:
    """Return whether a pickle's stand-in may be a network: a module that holds something."""
    state = value.state if isinstance(value, Inert) else None
    return isinstance(state, dict) and bool(state.get("_parameters") or state.get("_modules"))
