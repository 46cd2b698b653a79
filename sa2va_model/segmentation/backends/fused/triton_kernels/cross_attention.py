# SPDX-License-Identifier: Apache-2.0
"""Attention of N objects' queries to memories of different length: one head, keys wide and values narrow.

There are several ways (`WAYS`), each the fastest somewhere: PyTorch's attention with a mask everywhere; cuDNN's, which
wants contiguous queries and computes what is masked; and a Triton kernel of the flash kind that stops at each object's
length, where a memory is cut into several splits, whose results are combined, if there are too few queries to fill the
GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.segmentation.backends.fused.kernels import cudnn_attention
from sa2va_model.segmentation.backends.fused.triton_kernels.jit import jit, tl, triton


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


def cross_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | None = None,
    bias: Tensor | None = None,
    way: str = "auto",
) -> Tensor:
    """softmax(query key^T + bias) value over the first tokens of each memory; the query is already scaled.

    Args:
        query: [N, M, D]; objects may share storage (stride 0).
        key: [N, L, D]; value: [N, L, E].
        lengths: int32 [N], how many tokens are used; None = all. Their order does not matter, so tokens that all
            objects use (pointers) come first.
        bias: float32 [N, B], added to the scores of the first B tokens, -inf = not used; None = zero.
        way: of `WAYS`, or `auto`.

    Returns:
        [N, M, E] in the dtype of `value`. The kernel gives zero where an object has nothing to read.
    """
    if way == "auto":
        way = pick_way(query)
    return WAYS[way](query, key, value, lengths, bias)


def pick_way(query: Tensor) -> str:
    """The fastest way for these queries, by name."""
    return "triton" if fused(query) else "masked"


def fused(query: Tensor) -> bool:
    """The kernel takes this tensor."""
    return (
        triton is not None
        and query.device.type == "cuda"
        and query.dtype == torch.bfloat16
        and query.shape[-1] in (16, 32, 64, 128, 256)
    )


def attend_masked(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The same by PyTorch's attention, with a mask [N, 1, 1, L]."""
    # cuDNN refuses an answer laid out like a query whose objects share storage.
    heads = (query.contiguous()[:, None], key[:, None], value[:, None])
    if lengths is None and bias is None:
        return F.scaled_dot_product_attention(*heads, scale=1.0)[:, 0]
    mask = _mask(key, lengths, bias)
    out = F.scaled_dot_product_attention(
        *heads, attn_mask=mask.to(query.dtype)[:, None, None], scale=1.0
    )[:, 0]
    empty = (mask == -torch.inf).all(1)
    return out.masked_fill(empty[:, None, None], 0)


def _mask(key: Tensor, lengths: Tensor | None, bias: Tensor | None) -> Tensor:
    """What is added to the scores, float32 [N, L]."""
    count, length = key.shape[:2]
    mask = torch.zeros(count, length, device=key.device)
    if bias is not None:
        mask[:, : bias.shape[1]] = bias
    if lengths is not None:
        beyond = torch.arange(length, device=key.device) >= lengths[:, None]
        mask.masked_fill_(beyond, -torch.inf)
    return mask


def attend_cudnn(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The same by cuDNN. It plans each new shape for up to a second, and refuses queries that share storage."""
    given = None if lengths is None and bias is None else _mask(key, lengths, bias)
    mask = None if given is None else given.to(query.dtype)[:, None, None]
    q, k, v = (x.contiguous()[:, None] for x in (query, key, value))
    return cudnn_attention(q, k, v, mask)[:, 0]


@cache
def _processors(device: int | None) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def split_count(objects: int, rows: int, length: int, processors: int, tiling: Tiling) -> int:
    """Into how many parts a memory is cut, so that all processors have work."""
    programs = objects * -(-rows // tiling.queries)
    # A split of fewer than eight steps is not worth its combining.
    most = -(-length // (8 * tiling.keys))
    return max(1, min(processors // programs, most, 16))


def attend_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | None,
    bias: Tensor | None,
    tiling: Tiling = DEFAULT,
) -> Tensor:
    """The same by the kernel below; bfloat16 on CUDA."""
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
        bias.shape[1] if bias is not None else 0,
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


Way = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
WAYS: dict[str, Way] = {
    "masked": attend_masked,
    "cudnn": attend_cudnn,
    "triton": attend_triton,
}


# Kernels. Scores are kept in base 2: the hardware has exp2 only.


@jit()
def _step(  # type: ignore[no-untyped-def]  # pragma: no cover
    q, k_rows, v_rows, bias_row, biased, start, end, acc, most, total,
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
        row = tl.load(bias_row + offset, mask=offset < biased, other=0.0)
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


@jit("count", "rows", "length", "splits", "biased")
def _attend_kernel(  # type: ignore[no-untyped-def]  # pragma: no cover
    query, key, value, lengths, bias, out, part, most_out, total_out,
    stride_qn, stride_qm, stride_kn, stride_kl, stride_vn, stride_vl, stride_bn,
    count, rows, length, splits, biased,
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
    plain = begin
    if BIASED:  # few tokens at the beginning
        plain = tl.minimum(tl.maximum(tl.cdiv(biased, BLOCK_N) * BLOCK_N, begin), full)
        for start in range(begin, plain, BLOCK_N):
            acc, most, total = _step(
                q, k_rows, v_rows, bias_row, biased, start, end, acc, most, total,
                stride_kl, stride_vl, BLOCK_N, True, False,
            )  # fmt: skip
    for start in range(plain, full, BLOCK_N):
        acc, most, total = _step(
            q, k_rows, v_rows, bias_row, biased, start, end, acc, most, total,
            stride_kl, stride_vl, BLOCK_N, False, False,
        )  # fmt: skip
    if full < end:
        acc, most, total = _step(
            q, k_rows, v_rows, bias_row, biased, full, end, acc, most, total,
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


@jit("count", "rows", "splits")
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
