# SPDX-License-Identifier: Apache-2.0
"""Layer normalisation with what stands around it, in one pass over memory: the sum before it, the GELU behind it.

On CUDA a Triton kernel, for PyTorch's gives each row a block of threads, which is slow for few channels; PyTorch's
functions everywhere else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.segmentation.backends.fused.triton_kernels.jit import jit, tl, triton


def fused(*tensors: Tensor) -> bool:
    """The kernel takes these tensors."""
    return triton is not None and all(x.is_cuda and x.is_contiguous() for x in tensors)


def normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, gelu: bool = False) -> Tensor:
    """Over the last dimension, and the exact GELU of it if asked for.

    Args:
        x: [..., C]; `weight`, `bias`: float32 [C].

    Returns:
        float32, of the shape of `x`.
    """
    if fused(x):
        out = torch.empty_like(x, dtype=torch.float32)
        _launch(x, None, weight, bias, None, out, eps, gelu=gelu)
        return out
    out = F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps)
    return F.gelu(out) if gelu else out


def add_and_normalise(
    x: Tensor, more: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(x + more, its normalisation over the last dimension), both in the dtype of `x`; for tensors that are `fused`.

    Args:
        x, more: [..., C]; `weight`, `bias`: float32 [C].
    """
    total, normal = torch.empty_like(x), torch.empty_like(x)
    _launch(x, more, weight, bias, total, normal, eps, gelu=False)
    return total, normal


def _launch(
    x: Tensor,
    more: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    total: Tensor | None,
    normal: Tensor,
    eps: float,
    *,
    gelu: bool,
) -> None:
    width = x.shape[-1]
    rows, block = x.numel() // width, max(4, triton.next_power_of_2(width))
    height = max(1, 4096 // block)
    _kernel[(triton.cdiv(rows, height),)](
        x, x if more is None else more, weight, bias, normal if total is None else total, normal,
        rows, eps, C=width, BLOCK=block, ROWS=height, SUM=more is not None, GELU=gelu, num_warps=4,
    )  # fmt: skip


@jit("rows")
def _kernel(  # type: ignore[no-untyped-def]  # pragma: no cover
    x, more, weight, bias, total, normal, rows, eps,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, SUM: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """ROWS rows of C channels; sums are float32."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (channel < C)[None, :]
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if SUM:
        values += tl.load(more + place, mask=inside, other=0.0).to(tl.float32)
        kept = values.to(total.dtype.element_ty)
        tl.store(total + place, kept, mask=inside)
        values = kept.to(tl.float32)
    mean = tl.sum(values, 1) / C
    apart = tl.where(inside, values - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, 1) / C + eps)
    w = tl.load(weight + channel, mask=channel < C, other=0.0)
    b = tl.load(bias + channel, mask=channel < C, other=0.0)
    out = apart * scale[:, None] * w[None, :] + b[None, :]
    if GELU:
        out = 0.5 * out * (1.0 + tl.erf(out * 0.7071067811865476))
    tl.store(normal + place, out.to(normal.dtype.element_ty), mask=inside)
