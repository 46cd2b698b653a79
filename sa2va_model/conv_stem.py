# SPDX-License-Identifier: Apache-2.0
"""A convolutional stem in place of a patch embedding, for encoders that are small and trained from nothing.

One large patch convolution leaves colour and shape to the attention layers, which need far more pictures to find them.
Published models have no such stem. There is no normalisation here: training adds it and folds it into the
convolutions afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """gelu(x + conv(gelu(conv(x)))), 3 x 3 kernels, channels and size unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first: nn.Module = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second: nn.Module = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        return F.gelu(x + self.second(F.gelu(self.first(x))))


class ResidualStem(nn.Sequential):
    """Convolutions of stride 2, each followed by residual blocks, then one 1 x 1 convolution.

    Args:
        channels: outputs of every stride-2 convolution.
        blocks: residual blocks after each of them.
        width: channels of the tokens.
    """

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], width: int) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, count in zip(channels, blocks, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GELU()]
            layers += [ResidualBlock(outputs) for _ in range(count)]
            inputs = outputs
        super().__init__(*layers, nn.Conv2d(inputs, width, 1))
        self._last = len(layers)

    @property
    def weight(self) -> Tensor:
        """The ViT's patch embedding asks its convolution for its dtype."""
        weight = self[self._last].weight
        assert isinstance(weight, Tensor)
        return weight
