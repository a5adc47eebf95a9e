"""Of what type the fields of an answer are: what another program says is compared with a table where it comes in.

The tables stand where the answers do: Kubernetes' in ``sida.launch.shapes``, Kubeflow's in ``pipeline.engines.kubeflow_answers``,
S3's in ``sida.stores.s3_answers``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

# A text that matches; [of each item]; {name: of its value, "*": of any other}
Shape = type | tuple[type, ...] | re.Pattern[str] | list[Any] | dict[str, Any]
_WORDS = {str: "text", int: "number", bool: "yes or no"}


@dataclass(frozen=True)
class Needed:
    """Shape of a field that may not be missing; others may, or be null."""

    shape: Shape


def misshapen(value: Any, shape: Shape | Needed, path: str = "") -> str:
    """Return what is not as it must be, ``status.phase is no text``; empty where all is."""
    if isinstance(shape, Needed):
        return misshapen(value, shape.shape, path) if value is not None else f"{path or 'it'} is missing"
    if value is None:
        return ""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{path or 'it'} is no object"
        rest = shape.get("*")
        needed = {name: None for name, one in shape.items() if isinstance(one, Needed)}
        below = [(item, shape.get(name, rest), f"{path}.{name}".lstrip(".")) for name, item in (needed | value).items()]
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return f"{path or 'it'} is no list"
        if None in value:
            return f"{path} holds null"
        below = [(item, shape[0], path) for item in value]
    elif isinstance(shape, re.Pattern):
        return "" if isinstance(value, str) and shape.fullmatch(value) else f"{path} is malformed"
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        return "" if type(value) in kinds else f"{path} is no {_WORDS[kinds[0]]}"
    return next(filter(None, (misshapen(item, one, at) for item, one, at in below if one is not None)), "")
