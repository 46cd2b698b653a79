# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation inside the convolutional stems while they train, and none when they ship.

With it an encoder learns to see colours from some thousand pictures (94 % of tokens right after 4,000); with group
normalisation over all channels it takes ten times as many. Afterwards it is folded into the convolutions, so that the
shipped model is plain and fine-tuning it has no batch statistics to spoil.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sa2va_model.conv_stem import ResidualBlock, ResidualStem
from sa2va_model.sa2va import Sa2VA
from sa2va_training.run.precision import half_precision


class Normed(nn.Module):
    """A convolution followed by batch normalisation."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.conv = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w]."""
        normed: Tensor = self.norm(self.conv(x))
        return normed

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """One convolution that gives what this gives in evaluation mode."""
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert conv.bias is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        plain: nn.Conv2d = copy.deepcopy(conv)
        assert plain.bias is not None
        plain.weight.copy_(conv.weight * gain[:, None, None, None])
        plain.bias.copy_((conv.bias - norm.running_mean) * gain + norm.bias)
        return plain

    @torch.no_grad()
    def adopt(self, seen: Tensor) -> None:
        """Normalises by the statistics of `seen` [B, C, h, w], what the convolution gives, and undoes it again."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(seen.float(), dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)


class HalfStem(nn.Module):
    """A stem computed in bfloat16, 1.8 times as fast on CPUs with AVX512-BF16; weights and gradients stay float32."""

    def __init__(self, stem: ResidualStem) -> None:
        super().__init__()
        self.stem = stem

    @property
    def weight(self) -> Tensor:
        """As of the stem itself."""
        return self.stem.weight

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, C, h, w] float32."""
        with half_precision(self.training):
            tokens: Tensor = self.stem(pixels)
        return tokens.float()


def stems(model: Sa2VA) -> list[tuple[nn.Module, str]]:
    """Where the model keeps its stems: pairs of a parent and the name of its child."""
    paths = ("mllm.vision_model.embeddings.patch_embeddings.projection",
             "sam2.sam2_model.image_encoder.trunk.patch_embed.proj")  # fmt: skip
    pairs = (path.rsplit(".", 1) for path in paths)
    return [(model.get_submodule(parent), name) for parent, name in pairs]


def add_norms(model: Sa2VA) -> None:
    """Normalises every 3 x 3 convolution of the stems; a residual block starts as the identity."""
    for parent, name in stems(model):
        stem = getattr(parent, name)
        if not isinstance(stem, ResidualStem):
            continue
        for i, layer in enumerate(stem):
            if isinstance(layer, ResidualBlock):
                layer.first, layer.second = _normed(layer.first), _normed(layer.second)
                nn.init.zeros_(layer.second.get_parameter("norm.weight"))
            elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                stem[i] = Normed(layer)
        setattr(parent, name, HalfStem(stem))


def _normed(layer: nn.Module) -> Normed:
    assert isinstance(layer, nn.Conv2d)
    return Normed(layer)


def freeze_norms(model: Sa2VA) -> None:
    """Stems keep the statistics they have: for stages whose few pictures a step would only blur them."""
    for parent, name in stems(model):
        held = getattr(parent, name)
        if isinstance(held, HalfStem):
            held.stem.eval()


def fold_norms(model: Sa2VA) -> None:
    """Undoes `add_norms`; the model gives what it gave in evaluation mode."""
    for parent, name in stems(model):
        held = getattr(parent, name)
        if not isinstance(held, HalfStem):
            continue
        stem = held.stem
        for i, layer in enumerate(stem):
            if isinstance(layer, ResidualBlock):
                layer.first, layer.second = _folded(layer.first), _folded(layer.second)
            elif isinstance(layer, Normed):
                stem[i] = layer.folded()
        setattr(parent, name, stem)


@torch.no_grad()
def unfold_norms(model: Sa2VA, see: Callable[[], object]) -> None:
    """Undoes `fold_norms`: normalisation with statistics of its own, and the model gives what it gave.

    Args:
        see: shows pictures to the model, which is put into evaluation mode.
    """
    add_norms(model)
    model.eval()
    normed = [layer for layer in model.modules() if isinstance(layer, Normed)]
    hooks = [
        layer.conv.register_forward_hook(lambda _, given, seen, layer=layer: layer.adopt(seen))
        for layer in normed
    ]
    see()
    for hook in hooks:
        hook.remove()


def _folded(layer: nn.Module) -> nn.Conv2d:
    assert isinstance(layer, Normed)
    return layer.folded()
