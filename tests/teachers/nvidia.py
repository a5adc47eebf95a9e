"""Writes pickles as NVIDIA's persistence does, from a state dict: the form of the published EDM and EDM2 teachers."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = "# a stand-in: it leaves a mark if somebody executes it\nopen('PWNED', 'w').write('executed')\n"


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise AssertionError("only its name is written")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
_reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"


class Persistent:
    """An object of a class decorated by NVIDIA's persistence."""

    def __init__(self, class_name: str, **state: Any) -> None:
        self.__dict__.update(state)
        object.__setattr__(self, "_class_name", class_name)

    def __reduce__(self) -> Any:
        state = {key: value for key, value in vars(self).items() if key != "_class_name"}
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": vars(self)["_class_name"],
            "state": state,
        }
        return _reconstruct_persistent_obj, (meta,)


def module(class_name: str, state: Mapping[str, Tensor], args: tuple[Any, ...] = (), **kwargs: Any) -> Persistent:
    """A module with these tensors by path; ``enc`` and ``dec`` are ModuleDicts, as in the published networks."""
    parameters: dict[str, Any] = {}
    buffers: dict[str, Any] = {}
    children: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        head, dot, rest = name.partition(".")
        if dot:
            children.setdefault(head, {})[rest] = tensor
        elif name in ("resample_filter", "freqs", "phases"):
            buffers[name] = tensor
        else:
            parameters[name] = torch.nn.Parameter(tensor)
    return Persistent(
        class_name,
        training=False,
        _parameters=parameters,
        _buffers=buffers,
        _modules={name: _child(name, inner) for name, inner in children.items()},
        _forward_hooks=OrderedDict(),
        _init_args=args,
        _init_kwargs=kwargs,
    )


def _child(name: str, state: dict[str, Tensor]) -> Any:
    if name not in ("enc", "dec"):
        return module({"model": "SongUNet", "unet": "UNet"}.get(name, "Layer"), state)
    folder = torch.nn.ModuleDict()
    inner = module("", state)
    folder._modules.update(inner._modules)  # type: ignore[attr-defined]
    return folder


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    """``pickle.dump``, as the published files were written."""
    with persistence():
        path.write_bytes(pickle.dumps(value, protocol))
    return path


@contextmanager
def persistence() -> Iterator[None]:
    """Makes the function importable under NVIDIA's name while something is pickled."""
    package, inner = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")
    inner._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    sys.modules.update({"torch_utils": package, "torch_utils.persistence": inner})
    try:
        yield
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]
