"""The source that GPUs compile, compiled here for the CPU: C++ means the same on both."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.cuda.jiterator import _CodeParser

from sida.numerics.philox import MASKED, SOURCE, WORDS, philox_masks, philox_words

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
KEY = (0xDEADBEEF, 0xFFFFFFFF)
INDICES = torch.tensor([0, 1, 2**32 - 1, 2**32, 2**40 + 7, 2**62])
# What torch wraps around the functions, in short: each index with each block, results in row order.
LOOPS = """
typedef long long int int64_t;
extern "C" void words(const int64_t* index, const int64_t* block, int64_t n, int64_t m, int64_t k0, int64_t k1, int64_t* out) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) {
      int64_t* to = out + i * m + j;
      sida_words<int64_t>(index[i], block[j], k0, k1, to[0], to[n * m], to[2 * n * m], to[3 * n * m]);
    }
}
extern "C" void masks(const int64_t* index, const int64_t* group, int64_t n, int64_t m, int64_t k0, int64_t k1, int64_t least,
                      int64_t* out) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) out[i * m + j] = sida_masks<int64_t>(index[i], group[j], k0, k1, least);
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    folder: Path = tmp_path_factory.mktemp("kernel")
    (folder / "kernel.cpp").write_text(SOURCE + WORDS + MASKED + LOOPS)
    command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(folder / "kernel.so"), str(folder / "kernel.cpp")], check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def sizes(*numbers: int) -> list[ctypes.c_longlong]:
    return [ctypes.c_longlong(number) for number in numbers]


def test_the_kernel_s_words_are_the_operators_words(compiled: ctypes.CDLL) -> None:
    blocks = torch.arange(1000)
    out = torch.empty(4, len(INDICES), len(blocks), dtype=torch.int64)
    compiled.words(pointer(INDICES), pointer(blocks), *sizes(*out.shape[1:], *KEY), pointer(out))
    assert torch.equal(out, torch.stack(philox_words(INDICES, blocks, *KEY)))


@pytest.mark.parametrize("least", [0, 1, 838861, 2181038, 2**24 - 1, 2**24])
def test_the_kernel_s_masks_are_the_operators_masks(compiled: ctypes.CDLL, least: int) -> None:
    groups = torch.arange(1000)
    out = torch.empty(len(INDICES), len(groups), dtype=torch.int64)
    compiled.masks(pointer(INDICES), pointer(groups), *sizes(*out.shape, *KEY, least), pointer(out))
    assert torch.equal(out, philox_masks(INDICES, groups, *KEY, least))


@pytest.mark.parametrize(("entry", "name"), [(WORDS, "sida_words"), (MASKED, "sida_masks")])
def test_torch_finds_the_kernel_in_its_source(entry: str, name: str) -> None:
    assert _CodeParser(SOURCE + entry).function_name == name


def test_the_operators_are_registered_as_torch_wants_them() -> None:
    """Schema, shapes without numbers and autograd, by torch's own check: torch.compile relies on them."""
    torch.library.opcheck(philox_words, (INDICES, torch.arange(3), *KEY))
    torch.library.opcheck(philox_masks, (INDICES, torch.arange(3), *KEY, 5))
