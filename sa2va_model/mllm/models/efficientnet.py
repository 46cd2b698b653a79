# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 without its classifier: features that were learnt from photographs, for a small ViT.

Tan and Le 2019, "EfficientNet"; the Lite variants leave out squeeze-and-excitation and use ReLU6. Normalisation is
folded into the convolutions. Layers pad as TensorFlow does, where the weights come from: an odd rest goes behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 16
"""Pixels of a token's side: features of this stride and of twice it are mixed into the tokens."""
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)


@dataclass(frozen=True)
class BlockRow:
    """A row of the architecture's table: `count` blocks, the first of which has the stride."""

    count: int
    kernel: int
    stride: int
    expand: int
    channels: int


LITE0 = (
    BlockRow(1, 3, 1, 1, 16),
    BlockRow(2, 3, 2, 6, 24),
    BlockRow(2, 5, 2, 6, 40),
    BlockRow(3, 3, 2, 6, 80),
    BlockRow(3, 5, 1, 6, 112),
    BlockRow(4, 5, 2, 6, 192),
    BlockRow(1, 3, 1, 6, 320),
)
_FIRST = 32
_DEVIATION = (6.0, 2.5)  # of both levels, on pictures of tables and rooms


class SameConv(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) cells; what padding is odd goes behind."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        step, kernel = self.stride[0], self.kernel_size[0]
        rests = [
            max((-(-size // step) - 1) * step + kernel - size, 0)
            for size in (x.shape[-2], x.shape[-1])
        ]
        # The convolution itself pads both sides alike, without a copy.
        inside, odd = [rest // 2 for rest in rests], [rest % 2 for rest in rests]
        if any(odd):
            x = F.pad(x, (inside[1], inside[1] + odd[1], inside[0], inside[0] + odd[0]))
            inside = [0, 0]
        return F.conv2d(x, self.weight, self.bias, step, inside, 1, self.groups)


class InvertedBlock(nn.Module):
    """Widen, look at neighbours channel by channel, narrow; added to the input where the shape stays."""

    def __init__(self, inputs: int, row: BlockRow, stride: int) -> None:
        super().__init__()
        wide = inputs * row.expand
        self.expand = SameConv(inputs, wide, 1) if row.expand > 1 else None
        self.depthwise = SameConv(wide, wide, row.kernel, stride, groups=wide)
        self.project = SameConv(wide, row.channels, 1)
        self._adds = stride == 1 and inputs == row.channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C', h / stride, w / stride]."""
        wide = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out: Tensor = self.project(F.relu6(self.depthwise(wide), inplace=True))
        return out.add_(x) if self._adds else out


class EfficientNet(nn.Module):
    """The convolutional part, seven stages."""

    def __init__(self, rows: tuple[BlockRow, ...] = LITE0) -> None:
        super().__init__()
        self.first = SameConv(3, _FIRST, 3, 2)
        stages, inputs = [], _FIRST
        for row in rows:
            blocks = []
            for index in range(row.count):
                blocks.append(InvertedBlock(inputs, row, 1 if index else row.stride))
                inputs = row.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features of stride 16 and 32.

        Args:
            pixels: [B, 3, S, S], normalised as InternVL does (ImageNet's mean and deviation).

        Returns:
            [B, 112, S / 16, S / 16] and [B, 320, S / 32, S / 32].
        """
        x = F.relu6(self.first(_renormalised(pixels)), inplace=True)
        for stage in self.stages[:5]:
            x = stage(x)
        fine = x
        for stage in self.stages[5:]:
            x = stage(x)
        return fine, x


def _renormalised(pixels: Tensor) -> Tensor:
    (mean, deviation), (own_mean, own_deviation) = _IMAGENET, _LITE
    triples = zip(mean, deviation, own_mean, own_deviation, strict=True)
    terms = [(d / o, (m - n) / o) for m, d, n, o in triples]
    gain, shift = (pixels.new_tensor(column)[:, None, None] for column in zip(*terms, strict=True))
    return pixels * gain + shift


class TokenMixer(nn.Module):
    """Both levels of features, brought to one size, as tokens.

    It begins with nothing, so that a trained model stays what it is; of their own size the features would shake it.
    """

    def __init__(self, width: int, rows: tuple[BlockRow, ...] = LITE0) -> None:
        super().__init__()
        self.fine = nn.Conv2d(rows[4].channels, width, 1)
        self.coarse = nn.Conv2d(rows[6].channels, width, 1, bias=False)
        for layer in (self.fine, self.coarse):
            nn.init.zeros_(layer.weight)
        assert self.fine.bias is not None
        nn.init.zeros_(self.fine.bias)

    def forward(self, features: tuple[Tensor, Tensor]) -> Tensor:
        """[B, width, h, w] from features of the same side, and of half of it."""
        fine, coarse = (level / d for level, d in zip(features, _DEVIATION, strict=True))
        near = F.interpolate(self.coarse(coarse), size=fine.shape[-2:], mode="bilinear")
        return torch.add(self.fine(fine), near)
