# SPDX-License-Identifier: Apache-2.0
"""Pixels to tokens with their position codes: the image encoder's first layer.

A `ResidualStem` is computed channels last, in which convolutions of 32 channels are an eighth quicker on CPUs. GELU
sees the tensor as rows of channels: the other view of the same memory takes PyTorch half as long again. The last
convolution is a product whose sum begins with the codes, so that tokens come out as the blocks want them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, channels_last, nn

from sa2va_model.conv_stem import ResidualBlock, ResidualStem
from sa2va_model.segmentation.backends.fused.kernels import Kernels

Embedding = Callable[[Tensor], Tensor]
"""Pixels [B, 3, S, S] to float32 [B, s, s, C]."""


def embedding(proj: nn.Module, position: Tensor, kernels: Kernels) -> Embedding:
    """What turns pixels into tokens.

    Args:
        proj: the patch embedding's convolution or stem.
        position: float32 [1, s, s, C].
    """
    if kernels.traits.layouts and isinstance(proj, ResidualStem) and _plain(proj):
        return FastStem(proj, position)
    return Convolution(proj, position)


def _plain(stem: ResidualStem) -> bool:
    """All of its layers are convolutions; in training normalisations stand behind them."""
    blocks = [layer for layer in stem if isinstance(layer, ResidualBlock)]
    layers = [layer for layer in stem if not isinstance(layer, ResidualBlock)]
    layers += [part for block in blocks for part in (block.first, block.second)]
    return all(isinstance(layer, nn.Conv2d | nn.GELU) for layer in layers)


class Convolution:
    """Any layer, in float32."""

    def __init__(self, proj: nn.Module, position: Tensor) -> None:
        weight = next(proj.parameters())
        proj = proj if weight.dtype == torch.float32 else copy.deepcopy(proj).float()
        self.proj = _without_gradients(proj) if isinstance(proj, nn.Conv2d) else proj
        self._position = position

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels to tokens."""
        out: Tensor = self.proj(pixels).permute(0, 2, 3, 1) + self._position
        return out


def _without_gradients(source: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with the same weights, which want no gradients here."""
    twin = copy.copy(source)
    twin._parameters = {
        name: None if part is None else nn.Parameter(part.detach(), requires_grad=False)
        for name, part in source._parameters.items()
    }
    return twin


class FastStem:
    """A `ResidualStem`."""

    def __init__(self, stem: ResidualStem, position: Tensor) -> None:
        *body, last = stem
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        self._body: list[_Rows] = []
        for layer in body:
            if isinstance(layer, nn.Conv2d):
                self._body.append(_Rows(layer))
            elif isinstance(layer, ResidualBlock):
                assert isinstance(layer.first, nn.Conv2d)
                assert isinstance(layer.second, nn.Conv2d)
                self._body.append(_Rows(layer.first, layer.second))
        self._weight = last.weight.detach().float().flatten(1).T.contiguous()[None]
        self._start = (position + last.bias.detach().float()).flatten(1, 2)  # [1, cells, C]
        self._shape = position.shape[1:]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels to tokens."""
        x = pixels.permute(0, 2, 3, 1).contiguous()
        for step in self._body:
            x = step(x)
        count = len(x)
        start, weight = (part.expand(count, -1, -1) for part in (self._start, self._weight))
        return torch.baddbmm(start, x.flatten(1, 2), weight).view(count, *self._shape)


class _Rows:
    """gelu(first(x)), or gelu(x + second(gelu(first(x)))), on [B, h, w, C]."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d | None = None) -> None:
        self._first = _Layer(first)
        self._second = None if second is None else _Layer(second)

    def __call__(self, x: Tensor) -> Tensor:
        out = F.gelu(self._first(x))
        return out if self._second is None else F.gelu(self._second(out).add_(x))


class _Layer:
    """A convolution of rows of channels."""

    def __init__(self, source: nn.Conv2d) -> None:
        assert source.bias is not None
        self._weight = source.weight.detach().float().contiguous(memory_format=channels_last)
        self._bias = source.bias.detach().float()
        self._stride, self._padding = source.stride, source.padding

    def __call__(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        out = F.conv2d(x, self._weight, self._bias, self._stride, self._padding)
        return out.permute(0, 2, 3, 1)
