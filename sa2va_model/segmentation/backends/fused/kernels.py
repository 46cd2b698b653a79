# SPDX-License-Identifier: Apache-2.0
"""Matrix products and attention, each by the fastest way that this machine has.

On CPUs PyTorch's float32 `F.linear` goes to MKL, which takes AVX-512 on Intel's processors only: on AMD's it then
reaches less than half of what oneDNN does. Where AVX2 is all there is, MKL is the quicker one (docs/log.md). oneDNN is
reached by the operators that TorchInductor itself emits; they are tried once and `F.linear` serves where they are
missing or wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa2va_model.device import DeviceTraits
from sa2va_model.segmentation.backends.fused.rotation import PairRotation, Rotation
from sa2va_model.segmentation.backends.fused.triton_kernels import layer_norm

Activation = str | None


@cache
def onednn_linear(dtype: torch.dtype) -> bool:
    """PyTorch has oneDNN's fused linear operator for `dtype` on this processor, and it computes what it should.

    In bfloat16 it wants AVX-512; processors that have only AVX2 refuse.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x, weight = torch.randn(5, 8).to(dtype), torch.randn(16, 8).to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 5)
        fused = torch.ops.mkldnn._linear_pointwise(x, packed, None, "relu", [], "")
        plain = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    want, near = F.linear(x, weight), 1e-4 if dtype == torch.float32 else 0.05
    return torch.allclose(fused, want.relu(), atol=near) and torch.allclose(plain, want, atol=near)


def mkl_is_as_wide() -> bool:
    """MKL is there and uses the widest vectors that this processor has, whoever made it."""
    return torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2"


def onednn_pays(dtype: torch.dtype) -> bool:
    """Products in `dtype` go to oneDNN rather than to what `F.linear` takes."""
    return onednn_linear(dtype) and not (dtype == torch.float32 and mkl_is_as_wide())


class Dense:
    """A linear layer with its activation, prepared once.

    Args:
        weight: [out, in]; `bias`: [out] or None.
        dtype: of the product; the input is cast to it and the output stays in it.
        rows: how many rows an input typically has; a hint for the packed layout.
        activation: None, "relu" or "gelu" (exact, but in bfloat16 on a GPU: there the product's own end computes the
            tanh form, which differs by less than the type resolves).
        packed: oneDNN's layout is tried where it pays.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        *,
        rows: int = 1024,
        activation: Activation = None,
        packed: bool = False,
    ) -> None:
        self.dtype, self.activation = dtype, activation
        self.bias = None if bias is None else bias.detach().to(dtype).contiguous()
        self._weight = weight.detach().to(dtype).contiguous()
        self._fused = self._weight.is_cuda and dtype == torch.bfloat16
        self._packed = packed and onednn_pays(dtype)
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, rows)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in `dtype`."""
        x = x.to(self.dtype)
        if self._packed:
            kind = self.activation or "none"
            return torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self.bias, kind, [], "none" if kind == "gelu" else ""
            )
        if self._fused and self.activation is not None and self.bias is not None:
            rows = x.flatten(0, -2)
            gelu = self.activation == "gelu"
            out = torch._addmm_activation(self.bias, rows, self._weight.T, use_gelu=gelu)
            return out.unflatten(0, x.shape[:-1])
        out = F.linear(x, self._weight, self.bias)
        if self.activation == "relu":
            return out.relu_()
        return F.gelu(out) if self.activation == "gelu" else out


FEW_KEYS = 16
"""Tokens up to which products one after the other are quicker on a CPU than its fused attention."""
CUDNN_FROM = 1 << 30
"""Tokens from which on cuDNN's attention is asked."""


def cudnn_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax(query key^T + mask) value by cuDNN, which plans each new shape for up to a second.

    Not through PyTorch's choice among its ways, which is one for all threads.

    Args:
        query: [N, heads, Q, d], no rows of which share storage; key: [N, heads, L, d], value: [N, heads, L, e].
        mask: [N, 1, 1, L] in the same type.
    """
    operator = torch.ops.aten._scaled_dot_product_cudnn_attention
    out: Tensor = operator(query, key, value, mask, False, 0.0, False, False, scale=1.0)[0]
    return out


@dataclass(frozen=True)
class Kernels:
    """Products and attention in one type on one kind of device."""

    dtype: torch.dtype
    traits: DeviceTraits

    def dense(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        rows: int = 1024,
        activation: Activation = None,
    ) -> Dense:
        """A linear layer; arguments as in `Dense`."""
        packed = self.traits.packed_products
        return Dense(weight, bias, self.dtype, rows=rows, activation=activation, packed=packed)

    def dense_of(
        self, layer: nn.Linear, *, rows: int = 1024, activation: Activation = None
    ) -> Dense:
        """The same layer, prepared."""
        return self.dense(layer.weight, layer.bias, rows=rows, activation=activation)

    def norm(self, module: nn.LayerNorm) -> Norm:
        """A layer normalisation."""
        return Norm(module)

    @property
    def residuals(self) -> torch.dtype:
        """In which long sums are kept: on a GPU, whose kernels sum in float32, as the products are."""
        return self.dtype if self.traits.fused_attention else torch.float32

    def attend_one(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(query key^T) value for one head of one object; the query is already scaled.

        Args:
            query: [Q, d], key: [L, d], value: [L, e]; e may differ from d.
        """
        return self._product(self._product(query, key).softmax(-1), value.contiguous().T)

    def _product(self, x: Tensor, other: Tensor) -> Tensor:
        """x @ other.T for two matrices [M, K] and [N, K] that are both data."""
        if self.traits.packed_products and x.dtype == torch.float32 and onednn_pays(x.dtype):
            # oneDNN falls back to a loop a hundred times slower where rows are a slice of longer rows.
            x, other = _dense_rows(x), _dense_rows(other)
            return torch.ops.mkldnn._linear_pointwise(x, other, None, "none", [], "")
        return x @ other.T

    def rotation(self, codes: Tensor) -> Rotation:
        """Complex codes [cells, dim / 2]."""
        pairs = self.traits.layouts and self.dtype == torch.float32
        return PairRotation(codes) if pairs else Rotation(codes)

    def attend_many(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(query key^T) value over leading batch dimensions; the query is already scaled.

        Args:
            query: [..., Q, d], key: [..., L, d], value: [..., L, e].
        """
        few = self.traits.layouts and key.shape[-2] <= FEW_KEYS
        if few or (not self.traits.fused_attention and query.dtype == torch.bfloat16):
            if query.shape[-2] > key.shape[-2]:
                # PyTorch's softmax over short rows takes ten times as long as one over short columns.
                return (key @ query.transpose(-1, -2)).softmax(-2).transpose(-1, -2) @ value
            return (query @ key.transpose(-1, -2)).softmax(-1) @ value
        if query.ndim == 3:  # PyTorch's fused kernels want a dimension of heads
            return self.attend_many(query[:, None], key[:, None], value[:, None])[:, 0]
        if query.is_cuda and query.dtype == torch.bfloat16 and key.shape[2] >= CUDNN_FROM:
            return cudnn_attention(query, key, value)
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)


class Norm:
    """Layer normalisation over the last dimension.

    Sums are float32 inside the kernel, whatever the input is. Weights are kept in the input's dtype, too: CUDA's kernel
    refuses float32 weights beside bfloat16 input.
    """

    def __init__(self, module: nn.LayerNorm) -> None:
        self._shape, self._eps = module.normalized_shape, module.eps
        weight, bias = module.weight.detach().float(), module.bias.detach().float()
        self._affine = {t: (weight.to(t), bias.to(t)) for t in (torch.float32, torch.bfloat16)}

    def __call__(self, x: Tensor) -> Tensor:
        """[..., C] to the same, in the dtype of `x`: float32 or bfloat16."""
        weight, bias = self._affine[x.dtype]
        return F.layer_norm(x, self._shape, weight, bias, self._eps)

    def after(self, x: Tensor, more: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sum of two tensors [..., C] in the dtype of `x`, and its normalisation; `more` may be nothing."""
        if more is None:
            return x, self(x)
        if layer_norm.fused(x, more):
            weight, bias = self._affine[torch.float32]
            return layer_norm.add_and_normalise(x, more, weight, bias, self._eps)
        x = x + more
        return x, self(x)


def scale_of(width: int) -> float:
    """What queries of one head of this width are multiplied with."""
    return 1.0 / math.sqrt(width)


def _dense_rows(matrix: Tensor) -> Tensor:
    """The matrix without gaps between its rows, or its columns."""
    gaps = not (matrix.is_contiguous() or matrix.T.is_contiguous())
    return matrix.contiguous() if gaps else matrix
