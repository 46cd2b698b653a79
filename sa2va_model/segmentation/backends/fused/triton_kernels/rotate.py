# SPDX-License-Identifier: Apache-2.0
"""Rotary position codes in one pass over memory: a Triton kernel (CUDA)."""

from __future__ import annotations

from torch import Tensor

from sa2va_model.segmentation.backends.fused.triton_kernels.jit import jit, tl, triton


def fused(x: Tensor) -> bool:
    """The kernel takes this tensor."""
    half = x.shape[-1] // 2
    return triton is not None and x.is_cuda and x.stride(-1) == 1 and half & (half - 1) == 0


def rotate_(x: Tensor, cos: Tensor, sin: Tensor, first: int = 0) -> Tensor:
    """Turns rows in place, which may be slices of longer ones; returns `x`.

    Args:
        x: [N, L, C], half-split channels.
        cos, sin: float32 [cells, C / 2]; row `first` has the codes of cell 0, and cells repeat.
        first: rows before it stay as they are.
    """
    count, length, width = x.shape
    _kernel[(triton.cdiv(length - first, 16), count)](
        x, cos, sin, x.stride(0), x.stride(1), length, first, len(cos),
        HALF=width // 2, ROWS=16, num_warps=4,
    )  # fmt: skip
    return x


@jit("length", "first", "cells")
def _kernel(  # type: ignore[no-untyped-def]  # pragma: no cover
    x, cos, sin, stride_n, stride_l, length, first, cells, HALF: tl.constexpr, ROWS: tl.constexpr
):
    """ROWS rows of one object."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, HALF)
    inside = (row < length - first)[:, None]
    codes = (row % cells)[:, None] * HALF + channel[None, :]
    place = (first + row).to(tl.int64)[:, None] * stride_l + channel[None, :]
    here = x + tl.program_id(1).to(tl.int64) * stride_n + place
    c = tl.load(cos + codes, mask=inside, other=0.0)
    s = tl.load(sin + codes, mask=inside, other=0.0)
    low = tl.load(here, mask=inside, other=0.0)
    high = tl.load(here + HALF, mask=inside, other=0.0)
    a, b = low.to(tl.float32), high.to(tl.float32)
    tl.store(here, (a * c - b * s).to(low.dtype), mask=inside)
    tl.store(here + HALF, (a * s + b * c).to(low.dtype), mask=inside)
