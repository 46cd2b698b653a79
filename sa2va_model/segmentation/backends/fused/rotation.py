# SPDX-License-Identifier: Apache-2.0
"""Rotary position codes as real numbers: a pair of channels lies in the two halves of a vector."""

from __future__ import annotations

import torch
from torch import Tensor

from sa2va_model.segmentation.backends.fused.triton_kernels import rotate


class Rotation:
    """Rotary position codes; `order` is that of a vector's channels, here half-split.

    Args:
        codes: complex [cells, dim / 2] (see `rotary_codes`).
    """

    def __init__(self, codes: Tensor) -> None:
        self.cells = len(codes)
        self._cos, self._sin = codes.real.contiguous(), codes.imag.contiguous()  # [cells, dim / 2]

    def order(self, width: int) -> Tensor:
        """Which of the published channels, pairs of which lie side by side, stands where: int64 [width]."""
        return torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])

    def turn(self, x: Tensor, first: int = 0) -> Tensor:
        """[N, L, dim], rotated in place from row `first` on, square after square; returns it."""
        if rotate.fused(x):
            return rotate.rotate_(x, self._cos, self._sin, first)
        squares = x[:, first:].unflatten(1, (-1, len(self._cos)))
        squares.copy_(self(squares))
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """[..., cells, dim], rotated into a new tensor of the same dtype."""
        first, second = x.chunk(2, dim=-1)
        cos, sin = self._cos.to(x.dtype), self._sin.to(x.dtype)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        low, high = out.chunk(2, dim=-1)
        torch.mul(first, cos, out=low).addcmul_(second, sin, value=-1)
        torch.mul(first, sin, out=high).addcmul_(second, cos)
        return out


class PairRotation(Rotation):
    """The same as products of complex numbers, whose parts lie side by side: on a CPU one pass in place, not five."""

    def __init__(self, codes: Tensor) -> None:
        super().__init__(codes)
        self._codes = codes.to(torch.complex64).contiguous()

    def order(self, width: int) -> Tensor:
        """As published."""
        return torch.arange(width)

    def turn(self, x: Tensor, first: int = 0) -> Tensor:
        """[N, L, dim], float32."""
        squares = x[:, first:].unflatten(1, (-1, self.cells))
        torch.view_as_complex(squares.unflatten(-1, (-1, 2))).mul_(self._codes)
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """[..., cells, dim], float32."""
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * self._codes).flatten(-2)
