"""The toy steps as `pipeline.dag` finds them."""

from __future__ import annotations

import importlib
from typing import Any


def component_of(name: str) -> Any:
    """The component of a toy step."""
    return getattr(importlib.import_module(f"toy_steps.{name}"), name)
