# SPDX-License-Identifier: Apache-2.0
"""RepViT for inference, channels last: every normalisation is folded into the convolution before it.

What a pixel takes from its neighbours, from itself by a weight and from itself as it is are one 3 x 3 convolution.
1 x 1 convolutions are matrix products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, channels_last, nn

from sa2va_model.segmentation.backends.fused.kernels import Kernels
from sa2va_model.segmentation.edgetam.encoder import (
    Block,
    Channels,
    ConvNorm,
    Downsample,
    Gate,
    Mixer,
    RepVitStage,
    RepVitTrunk,
    Stem,
)

_Step = Callable[[Tensor], Tensor]
"""[B, h, w, C] to [B, h', w', C']."""


class FoldedRepVit:
    """Pixels to four levels of features, channels last.

    Args:
        image_size: not needed; as the other trunks.
    """

    def __init__(self, trunk: RepVitTrunk, image_size: int, kernels: Kernels) -> None:
        self._stages: list[list[_Step]] = []
        for name, part in trunk.body.items():
            if isinstance(part, Stem):
                self._stages.append([_stem(part, kernels)])
                continue
            assert isinstance(part, RepVitStage), name
            steps: list[_Step] = []
            if isinstance(part.downsample, Downsample):
                steps.append(_downsample(part.downsample, kernels))
            blocks = (block for block in part.blocks if isinstance(block, Block))
            steps += [_block(block, kernels) for block in blocks]
            self._stages.append(steps)

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """[B, 3, S, S] to [B, s, s, C] for s = S/4, S/8, S/16, S/32; float32 or the products' type."""
        x, levels = pixels.permute(0, 2, 3, 1), []
        for steps in self._stages:
            for step in steps:
                x = step(x)
            levels.append(x)
        return levels[1:]


def folded(layer: ConvNorm) -> tuple[Tensor, Tensor]:
    """Weight [C', C, k, k] and bias [C'] of the convolution that both are, float32."""
    norm = layer.bn
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.float() / (norm.running_var.float() + norm.eps).sqrt()
    bias = norm.bias.float() - norm.running_mean.float() * scale
    return layer.c.weight.float() * scale[:, None, None, None], bias


def mixed(mixer: Mixer) -> tuple[Tensor, Tensor]:
    """Its three ways as one 3 x 3 convolution of each channel."""
    weight, bias = folded(mixer.conv)
    own, more = folded(mixer.conv1)
    weight = weight.clone()
    weight[:, :, 1:2, 1:2] += own + 1
    return weight, bias + more


def _convolution(layer: ConvNorm, kernels: Kernels, *, gelu: bool = False) -> _Step:
    stride, groups = int(layer.c.stride[0]), layer.c.groups
    return _conv(*folded(layer), kernels, stride=stride, groups=groups, gelu=gelu)


def _conv(
    weight: Tensor,
    bias: Tensor,
    kernels: Kernels,
    *,
    stride: int = 1,
    groups: int = 1,
    gelu: bool = False,
) -> _Step:
    kind = kernels.dtype
    weight, bias = weight.detach().to(kind, memory_format=channels_last), bias.detach().to(kind)

    def step(x: Tensor) -> Tensor:
        x = x.to(kind).permute(0, 3, 1, 2)
        out = F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=groups)
        out = out.permute(0, 2, 3, 1)
        return F.gelu(out) if gelu else out

    return step


def _product(layer: ConvNorm, kernels: Kernels, *, gelu: bool = False) -> _Step:
    weight, bias = folded(layer)
    return kernels.dense(weight.flatten(1), bias, activation="gelu" if gelu else None)


def _stem(stem: Stem, kernels: Kernels) -> _Step:
    first = _convolution(stem.conv1, kernels, gelu=True)
    second = _convolution(stem.conv2, kernels)
    return lambda x: second(first(x))


def _channels(channels: Channels, kernels: Kernels) -> _Step:
    first = _product(channels.conv1, kernels, gelu=True)
    second = _product(channels.conv2, kernels)
    return lambda x: x + second(first(x))


def _gate(gate: nn.Module, kernels: Kernels) -> _Step:
    if not isinstance(gate, Gate):
        return lambda x: x
    first, second = (
        kernels.dense(layer.weight.flatten(1), layer.bias, rows=1) for layer in (gate.fc1, gate.fc2)
    )
    return lambda x: x * second(first(x.mean((1, 2), keepdim=True)).relu()).sigmoid()


def _block(block: Block, kernels: Kernels) -> _Step:
    near = _conv(*mixed(block.token_mixer), kernels, groups=block.token_mixer.conv.c.groups)
    gate, channels = _gate(block.se, kernels), _channels(block.channel_mixer, kernels)
    return lambda x: channels(gate(near(x)))


def _downsample(down: Downsample, kernels: Kernels) -> _Step:
    before = _block(down.pre_block, kernels)
    smaller = _convolution(down.spatial_downsample, kernels)
    wider, channels = _product(down.channel_downsample, kernels), _channels(down.ffn, kernels)
    return lambda x: channels(wider(smaller(before(x))))
