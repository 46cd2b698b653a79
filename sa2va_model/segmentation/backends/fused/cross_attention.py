# SPDX-License-Identifier: Apache-2.0
"""Attention of N objects' queries to memories of different length: one head, keys wide and values narrow.

PyTorch's fused kernels want keys and values of one width, or fall to one of a quarter of the speed; and with a mask
they compute what is masked. On CUDA this is a Triton kernel of the flash kind that stops at each object's length. A
memory is cut into several splits, whose results are combined, where there are too few queries to fill the GPU.
Everywhere else, and where Triton is missing, it is PyTorch's attention with a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of PyTorch comes without it
    triton = None

LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Tiling:
    """How the kernel cuts its work.

    Attributes:
        queries: rows of a tile; `keys`: memory tokens per step.
        warps: of a program; `stages`: steps whose loads are under way.
        splits: of a memory; 0 = as many as fill the GPU.
    """

    queries: int = 128
    keys: int = 64
    warps: int = 8
    stages: int = 3
    splits: int = 0


DEFAULT = Tiling()
KERNEL = False
"""Whether the kernel below is taken where it can be; else PyTorch's attention is."""


def cross_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | None = None,
    bias: Tensor | None = None,
    tiling: Tiling = DEFAULT,
) -> Tensor:
    """softmax(query key^T + bias) value over the first tokens of each memory; the query is already scaled.

    Args:
        query: [N, M, D]; objects may share storage (stride 0).
        key: [N, L, D]; value: [N, L, E].
        lengths: int32 [N], how many tokens are used; None = all. Their order does not matter, so tokens that all
            objects use (pointers) come first.
        bias: float32 [N, L], added to the scores, -inf = not used; None = zero.
        tiling: of the kernel.

    Returns:
        [N, M, E] in the dtype of `value`; zero where an object has nothing to read.
    """
    if KERNEL and fused(query):
        return _attend_fused(query, key, value, lengths, bias, tiling)
    return attend_masked(query, key, value, lengths, bias)


def fused(query: Tensor) -> bool:
    """The kernel takes this tensor."""
    widths = query.shape[-1] in (16, 32, 64, 128, 256)
    return (
        triton is not None
        and query.device.type == "cuda"
        and query.dtype == torch.bfloat16
        and widths
    )


def attend_masked(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The same by PyTorch's attention, with a mask [N, 1, 1, L]."""
    mask = None if bias is None else bias.float()
    if lengths is not None:
        beyond = torch.arange(key.shape[1], device=key.device) >= lengths[:, None]
        row = query.new_zeros(beyond.shape, dtype=torch.float32) if mask is None else mask
        mask = row.masked_fill(beyond, -torch.inf)
    # cuDNN refuses an answer laid out like a query whose objects share storage.
    heads = (query.contiguous()[:, None], key[:, None], value[:, None])
    if mask is None:
        return F.scaled_dot_product_attention(*heads, scale=1.0)[:, 0]
    out = F.scaled_dot_product_attention(
        *heads, attn_mask=mask.to(query.dtype)[:, None, None], scale=1.0
    )[:, 0]
    empty = (mask == -torch.inf).all(1)
    return out.masked_fill(empty[:, None, None], 0)


@cache
def _processors(device: int | None) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def split_count(objects: int, rows: int, length: int, processors: int, tiling: Tiling) -> int:
    """Into how many parts a memory is cut, so that all processors have work."""
    programs = objects * -(-rows // tiling.queries)
    most = -(
        -length // (8 * tiling.keys)
    )  # a split of fewer than eight steps is not worth its combining
    return max(1, min(processors // programs, most, 16))


def _attend_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | None,
    bias: Tensor | None,
    tiling: Tiling,
) -> Tensor:
    count, rows, width = query.shape
    length, narrow = value.shape[1:]
    splits = tiling.splits
    if not splits:
        splits = split_count(count, rows, length, _processors(query.device.index), tiling)
    # Rows are read as they lie; only the channels of one must be together.
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    out = torch.empty(count, rows, narrow, dtype=value.dtype, device=value.device)
    if splits == 1:
        part, most, total = out, out, out  # not touched
    else:
        part = torch.empty(splits, count, rows, narrow, dtype=torch.float32, device=value.device)
        most = torch.empty(splits, count, rows, dtype=torch.float32, device=value.device)
        total = torch.empty_like(most)
    grid = (triton.cdiv(rows, tiling.queries), count, splits)
    _attend_kernel[grid](
        query,
        key,
        value,
        lengths if lengths is not None else out,
        bias if bias is not None else out,
        out,
        part,
        most,
        total,
        *query.stride()[:2],
        *key.stride()[:2],
        *value.stride()[:2],
        bias.stride(0) if bias is not None else 0,
        count,
        rows,
        length,
        splits,
        D=width,
        E=narrow,
        BLOCK_M=tiling.queries,
        BLOCK_N=tiling.keys,
        RAGGED=lengths is not None,
        BIASED=bias is not None,
        SPLIT=splits > 1,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    if splits > 1:
        _combine_kernel[(triton.cdiv(rows, 64), count)](
            part, most, total, out, count, rows, splits, E=narrow, BLOCK_M=64, num_warps=4
        )
    return out


def _jit(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


# Kernels. Scores are kept in base 2: the hardware has exp2 only.


@_jit
def _step(  # type: ignore[no-untyped-def]  # pragma: no cover
    q, k_rows, v_rows, bias_row, start, end, acc, most, total,
    stride_k, stride_v,
    BLOCK_N: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Takes BLOCK_N more tokens into a running softmax."""
    offset = start + tl.arange(0, BLOCK_N)
    if MASKED:
        inside = offset < end
        k = tl.load(k_rows + offset[None, :] * stride_k, mask=inside[None, :], other=0.0)
        v = tl.load(v_rows + offset[:, None] * stride_v, mask=inside[:, None], other=0.0)
    else:
        k = tl.load(k_rows + offset[None, :] * stride_k)
        v = tl.load(v_rows + offset[:, None] * stride_v)
    scores = tl.dot(q, k) * 1.4426950408889634
    if BIASED:
        row = tl.load(bias_row + offset, mask=offset < end, other=0.0)
        scores += (row * 1.4426950408889634)[None, :]
    if MASKED:
        scores = tl.where(inside[None, :], scores, float("-inf"))
    higher = tl.maximum(most, tl.max(scores, 1))
    base = higher
    if BIASED or MASKED:  # a row may have met nothing but -inf so far
        base = tl.where(higher == float("-inf"), 0.0, higher)
    p = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(most - base)
    total = total * shrink + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
    return acc, higher, total


@_jit
def _attend_kernel(  # type: ignore[no-untyped-def]  # pragma: no cover
    query, key, value, lengths, bias, out, part, most_out, total_out,
    stride_qn, stride_qm, stride_kn, stride_kl, stride_vn, stride_vl, stride_bn,
    count, rows, length, splits,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    RAGGED: tl.constexpr, BIASED: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one object against one split of its memory."""
    n, split = tl.program_id(1), tl.program_id(2)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d, e = tl.arange(0, D), tl.arange(0, E)
    if RAGGED:
        length = tl.minimum(tl.load(lengths + n), length)
    begin, end = 0, length
    if SPLIT:
        chunk = tl.cdiv(tl.cdiv(length, BLOCK_N), splits) * BLOCK_N
        begin = tl.minimum(split * chunk, length)
        end = tl.minimum(begin + chunk, length)
    wide = n.to(tl.int64)
    here = m < rows
    q = tl.load(
        query + wide * stride_qn + m[:, None] * stride_qm + d[None, :],
        mask=here[:, None],
        other=0.0,
    )
    k_rows = key + wide * stride_kn + d[:, None]
    v_rows = value + wide * stride_vn + e[None, :]
    bias_row = bias + wide * stride_bn
    acc = tl.zeros([BLOCK_M, E], dtype=tl.float32)
    most = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    full = begin + (end - begin) // BLOCK_N * BLOCK_N
    for start in range(begin, full, BLOCK_N):
        acc, most, total = _step(
            q, k_rows, v_rows, bias_row, start, end, acc, most, total,
            stride_kl, stride_vl, BLOCK_N, BIASED, False,
        )  # fmt: skip
    if full < end:
        acc, most, total = _step(
            q, k_rows, v_rows, bias_row, full, end, acc, most, total,
            stride_kl, stride_vl, BLOCK_N, BIASED, True,
        )  # fmt: skip
    if SPLIT:
        place = (split * count + wide) * rows + m
        tl.store(part + place[:, None] * E + e[None, :], acc, mask=here[:, None])
        tl.store(most_out + place, most, mask=here)
        tl.store(total_out + place, total, mask=here)
    else:
        acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        place = wide * rows + m
        tl.store(
            out + place[:, None] * E + e[None, :], acc.to(out.dtype.element_ty), mask=here[:, None]
        )


@_jit
def _combine_kernel(  # type: ignore[no-untyped-def]  # pragma: no cover
    part, most_in, total_in, out, count, rows, splits, E: tl.constexpr, BLOCK_M: tl.constexpr
):
    """The splits of one tile of queries, each weighted by its share of the softmax."""
    n = tl.program_id(1).to(tl.int64)
    m, e = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, E)
    here = m < rows
    acc = tl.zeros([BLOCK_M, E], dtype=tl.float32)
    most = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    for split in range(0, splits):
        place = (split * count + n) * rows + m
        this = tl.load(most_in + place, mask=here, other=float("-inf"))
        higher = tl.maximum(most, this)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        old, new = tl.exp2(most - base), tl.exp2(this - base)
        total = total * old + tl.load(total_in + place, mask=here, other=0.0) * new
        more = tl.load(part + place[:, None] * E + e[None, :], mask=here[:, None], other=0.0)
        acc = acc * old[:, None] + more * new[:, None]
        most = higher
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    place = n * rows + m
    tl.store(
        out + place[:, None] * E + e[None, :], acc.to(out.dtype.element_ty), mask=here[:, None]
    )
