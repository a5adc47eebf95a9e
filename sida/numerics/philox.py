"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter and a key to four 32-bit words.

The counter holds the image index (64 bits) and the number of the block inside the draw. On torch integers that takes some 120
operators, with the same bits on every device. A GPU takes one kernel instead, which torch compiles at first use with what its
builds for GPUs bring along (Triton would need a C compiler, which the image for GPUs has not).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from sida import devices

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_CACHED = 1 << 15  # blocks computed together on a CPU: intermediate values stay in its cache
MASKS = 8  # in an int64, one byte each


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten Philox rounds on four int64 tensors that hold 32-bit words and broadcast; returns four such words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap, yet both 32-bit halves are exact; the shift is arithmetic, hence the mask.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def words(indices: Tensor, blocks: Tensor, key: tuple[int, int]) -> tuple[Tensor, ...]:
    """The four words of each block: int64 [N] and [B] -> four times int64 [N, B]."""
    if torch.compiler.is_compiling():  # an exported program has torch's operators alone
        return _block(indices, blocks, key)
    return philox_words(indices, blocks, *key)


def _block(indices: Tensor, blocks: Tensor, key: tuple[int, int]) -> tuple[Tensor, ...]:
    return philox((indices[:, None] & _MASK, indices[:, None] >> 32, blocks, torch.zeros_like(blocks)), key)


@torch.library.custom_op(
    "sida::philox_words",
    mutates_args=(),
    schema="(Tensor indices, Tensor blocks, int key0, int key1) -> (Tensor, Tensor, Tensor, Tensor)",
)
def philox_words(indices: Tensor, blocks: Tensor, key0: int, key1: int) -> tuple[Tensor, ...]:
    """Compute ``words`` as one operator."""
    return _block(indices, blocks, (key0, key1))


@torch.library.custom_op(
    "sida::philox_masks",
    mutates_args=(),
    schema="(Tensor indices, Tensor groups, int key0, int key1, int least) -> Tensor",
)
def philox_masks(indices: Tensor, groups: Tensor, key0: int, key1: int, least: int) -> Tensor:
    """Return whether the upper 24 bits of a word are at least ``least``: int64 [N] and [G] -> int64 [N, G].

    Each holds eight bytes of 0 or 1: those of the blocks 2g and 2g + 1, in their order.
    """
    masks = torch.empty(len(indices), 2 * len(groups), 4, dtype=torch.bool, device=indices.device)
    blocks = torch.stack([2 * groups, 2 * groups + 1], dim=-1).flatten()
    rows = max(1, _CACHED // max(1, len(blocks)))
    for some, rows_out in zip(indices.split(rows), masks.split(rows), strict=True):
        for part, out in zip(blocks.split(_CACHED), rows_out.split(_CACHED, dim=1), strict=True):
            out.copy_(torch.stack([word >= least << 8 for word in _block(some, part, (key0, key1))], dim=-1))
    return masks.flatten(1).view(torch.int64)


@philox_words.register_fake
def _words_shape(indices: Tensor, blocks: Tensor, key0: int, key1: int) -> tuple[Tensor, ...]:
    return tuple(blocks.new_empty(indices.shape[0], blocks.shape[0]) for _ in range(4))


@philox_masks.register_fake
def _masks_shape(indices: Tensor, groups: Tensor, key0: int, key1: int, least: int) -> Tensor:
    return groups.new_empty(indices.shape[0], groups.shape[0])


SOURCE = """
template <typename T> void sida_philox(T index, T block, T key0, T key1, unsigned int* c) {
  c[0] = (unsigned int)index;
  c[1] = (unsigned int)((unsigned long long)index >> 32);
  c[2] = (unsigned int)block;
  c[3] = 0;
  unsigned int k0 = (unsigned int)key0, k1 = (unsigned int)key1;
  for (int round = 0; round < 10; ++round) {
    const unsigned long long p0 = 0xD2511F53ULL * c[0], p1 = 0xCD9E8D57ULL * c[2];
    c[0] = (unsigned int)(p1 >> 32) ^ c[1] ^ k0;
    c[1] = (unsigned int)p1;
    c[2] = (unsigned int)(p0 >> 32) ^ c[3] ^ k1;
    c[3] = (unsigned int)p0;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
}
"""
WORDS = """
template <typename T> void sida_words(T index, T block, T key0, T key1, T& w0, T& w1, T& w2, T& w3) {
  unsigned int c[4];
  sida_philox<T>(index, block, key0, key1, c);
  w0 = c[0];
  w1 = c[1];
  w2 = c[2];
  w3 = c[3];
}
"""
MASKED = """
template <typename T> T sida_masks(T index, T group, T key0, T key1, T least) {
  unsigned int c[4];
  unsigned long long packed = 0;
  for (int half = 0; half < 2; ++half) {
    sida_philox<T>(index, (T)(2 * group + half), key0, key1, c);
    for (int lane = 0; lane < 4; ++lane)
      packed |= (unsigned long long)((c[lane] >> 8) >= (unsigned int)least) << (8 * (4 * half + lane));
  }
  return (T)packed;
}
"""


@cache
def _kernel(entry: str, outputs: int, *numbers: str) -> Any:
    return devices.elementwise(SOURCE + entry, outputs, numbers)


@philox_words.register_kernel("cuda")
def _words_kernel(indices: Tensor, blocks: Tensor, key0: int, key1: int) -> tuple[Tensor, ...]:
    return tuple(_kernel(WORDS, 4, "key0", "key1")(indices[:, None], blocks, key0=key0, key1=key1))


@philox_masks.register_kernel("cuda")
def _masks_kernel(indices: Tensor, groups: Tensor, key0: int, key1: int, least: int) -> Tensor:
    kernel = _kernel(MASKED, 1, "key0", "key1", "least")
    return kernel(indices[:, None], groups, key0=key0, key1=key1, least=least)
