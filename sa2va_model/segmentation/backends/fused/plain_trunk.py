# SPDX-License-Identifier: Apache-2.0
"""SAM 3's plain vision transformer and its neck, channels last, by exact rewrites.

What differs from transformers' code and not from its result:

- Between blocks tokens stay in the windows of the last one; a block with the same windows copies nothing.
- Query, key and value are one product; codes of places are made once, and turn halves of a vector in place of pairs.
- A transposed convolution with kernel and stride 2 is a product, and the 1 x 1 convolution behind it is part of it.
- The decoder's 1 x 1 convolutions on the two fine levels are part of the 3 x 3 convolutions before them, which are
  an eighth and a quarter as large for it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, channels_last, nn
from transformers.models.sam3.modeling_sam3 import Sam3ViTLayer, Sam3ViTModel

from sa2va_model.segmentation.backends.fused.kernels import Kernels, scale_of
from sa2va_model.segmentation.backends.fused.trunk import Tokens, merge, split
from sa2va_model.segmentation.rotary_codes import square_codes
from sa2va_model.segmentation.sam3.encoder import PlainNeck


class PlainTrunk:
    """The image encoder's backbone: pixels to one map of features, channels last."""

    def __init__(self, trunk: Sam3ViTModel, image_size: int, kernels: Kernels) -> None:
        embed, own = trunk.embeddings, trunk.config
        proj = embed.patch_embeddings.projection
        self._embed = proj if proj.weight.dtype == torch.float32 else copy.deepcopy(proj).float()
        self._kind, side = kernels.residuals, image_size // own.patch_size
        table = embed._tile_position_embeddings(embed.position_embeddings, side, side)
        self._position = table.detach().float().unflatten(1, (side, side)).contiguous()
        self._first = kernels.norm(trunk.layer_norm)
        self._blocks = [_Block(layer, side, own.window_size, kernels) for layer in trunk.layers]

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """[B, 3, S, S] to one level [B, h, w, C]; float32 or the products' type."""
        x = self._first(self._embed(pixels).permute(0, 2, 3, 1) + self._position)
        tokens = Tokens(x.to(self._kind), None, x.shape[1], x.shape[1])
        for block in self._blocks:
            tokens = block(tokens)
        return [tokens.whole()]


class _Block:
    """One layer: attention in windows or to the whole image, two linear layers."""

    def __init__(self, layer: Sam3ViTLayer, side: int, window: int, kernels: Kernels) -> None:
        self._kernels, self._side = kernels, side
        self._norm1, self._norm2 = kernels.norm(layer.layer_norm1), kernels.norm(layer.layer_norm2)
        self._window = layer.window_size or side
        attention, rows = layer.attention, side * side
        self._heads, width = attention.num_attention_heads, attention.head_dim
        # Places of the whole image are squeezed to the range of one window's.
        step = 1.0 if layer.window_size else window / side
        device = attention.q_proj.weight.device
        self._rotation = kernels.rotation(square_codes(width, self._window, step).to(device))
        inner = self._rotation.order(width)
        order = (torch.arange(self._heads)[:, None] * width + inner).flatten().to(device)
        factors = (scale_of(width), 1.0)
        turned = [
            (part.weight.float()[order] * f, part.bias.float()[order] * f)
            for part, f in zip((attention.q_proj, attention.k_proj), factors, strict=True)
        ]
        value = (attention.v_proj.weight.float(), attention.v_proj.bias.float())
        weights, biases = zip(*turned, value, strict=True)
        self._qkv = kernels.dense(torch.cat(weights), torch.cat(biases), rows=rows)
        self._out = kernels.dense_of(attention.o_proj, rows=rows)
        self._mlp1 = kernels.dense_of(layer.mlp.fc1, rows=rows, activation="gelu")
        self._mlp2 = kernels.dense_of(layer.mlp.fc2, rows=rows)

    def __call__(self, tokens: Tokens) -> Tokens:
        window, side = self._window, self._side
        overhang = side % window != 0
        tokens = tokens.cut(side if overhang else window)
        x, normal = self._norm1.after(tokens.x, tokens.rest)
        qkv = self._qkv(normal)
        read = self._attend_padded(qkv) if overhang else self._attend(qkv)
        x, normal = self._norm2.after(x, self._out(read))
        return Tokens(x, self._mlp2(self._mlp1(normal)), tokens.window, side)

    def _attend(self, qkv: Tensor) -> Tensor:
        """Windows [B * windows, w, w, 3 C] to [B * windows, w, w, C]."""
        cut = qkv.view(len(qkv), self._window**2, 3, self._heads, -1)
        turned = cut[:, :, :2].permute(0, 2, 3, 1, 4).contiguous()  # [windows, 2, heads, cells, d]
        turned = self._rotation.turn(turned.view(-1, *turned.shape[3:])).view_as(turned)
        value = cut[:, :, 2].transpose(1, 2)
        out = self._kernels.attend_many(turned[:, 0], turned[:, 1], value)
        return out.transpose(1, 2).reshape(len(qkv), self._window, self._window, -1)

    def _attend_padded(self, qkv: Tensor) -> Tensor:
        """[B, s, s, 3 C] to [B, s, s, C], in windows that overhang the image: what is padded is zero before `qkv`."""
        side, window = self._side, self._window
        padded = -(-side // window) * window
        assert self._qkv.bias is not None
        whole = self._qkv.bias.expand(len(qkv), padded, padded, -1).contiguous()
        whole[:, :side, :side] = qkv
        return merge(self._attend(split(whole, window)), window, padded)[:, :side, :side]


class PlainPyramid:
    """The neck, with the decoder's own projections of the two fine levels.

    Args:
        fine: `conv_s0` and `conv_s1` of the mask decoder.
    """

    def __init__(self, neck: PlainNeck, fine: Sequence[nn.Conv2d], kernels: Kernels) -> None:
        layers: Sequence[Any] = list(neck.layers)
        quarter, half, whole = layers
        self._first = _Upscale(quarter.scale_layers[0], None, kernels, gelu=True)
        self._second = _Upscale(quarter.scale_layers[2], quarter.proj1, kernels)
        self._half = _Upscale(half.scale_layers[0], half.proj1, kernels)
        self._whole = kernels.dense(whole.proj1.weight.flatten(1), whole.proj1.bias)
        self._smooth = [
            _Smooth.behind(quarter.proj2, fine[0], kernels),
            _Smooth.behind(half.proj2, fine[1], kernels),
            _Smooth.behind(whole.proj2, None, kernels),
        ]

    def __call__(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """One level [B, h, w, C] to (top [B, h, w, 256], [B, 4h, 4w, 32], [B, 2h, 2w, 64])."""
        [x] = levels
        zero = self._smooth[0](self._second(self._first(x)))
        one = self._smooth[1](self._half(x))
        return self._smooth[2](self._whole(x)), zero, one


class _Upscale:
    """A transposed convolution to twice the side, and a 1 x 1 convolution or GELU behind it."""

    def __init__(
        self,
        convolution: nn.ConvTranspose2d,
        after: nn.Conv2d | None,
        kernels: Kernels,
        *,
        gelu: bool = False,
    ) -> None:
        assert convolution.bias is not None
        blocks = convolution.weight.float().permute(2, 3, 1, 0)  # [2, 2, C', C]
        bias = convolution.bias.float()
        if after is not None:
            weight = after.weight.flatten(1).float()
            blocks, bias = weight @ blocks, weight @ bias + _bias(after)
        self._dense = kernels.dense(
            blocks.flatten(0, 2), bias.repeat(4), rows=4096, activation="gelu" if gelu else None
        )

    def __call__(self, x: Tensor) -> Tensor:
        """[B, h, w, C] to [B, 2h, 2w, C']."""
        batch, height, width, _ = x.shape
        out = self._dense(x).view(batch, height, width, 2, 2, -1).transpose(2, 3)
        return out.reshape(batch, 2 * height, 2 * width, -1)


@dataclass(frozen=True)
class _Smooth:
    """A 3 x 3 convolution, channels last.

    Attributes:
        weight: [C', C, 3, 3]; `bias`: [C'].
    """

    weight: Tensor
    bias: Tensor

    @staticmethod
    def behind(convolution: nn.Conv2d, after: nn.Conv2d | None, kernels: Kernels) -> _Smooth:
        """A convolution and a 1 x 1 convolution behind it as one."""
        weight, bias = convolution.weight.detach().float(), _bias(convolution)
        if after is not None:
            factor = after.weight.detach().flatten(1).float()
            weight = torch.einsum("oc,cikl->oikl", factor, weight)
            bias = factor @ bias + _bias(after)
        kind = kernels.dtype
        return _Smooth(weight.to(kind, memory_format=channels_last), bias.to(kind))

    def __call__(self, x: Tensor) -> Tensor:
        """[B, h, w, C] to float32 [B, h, w, C']."""
        x = x.to(self.weight.dtype).permute(0, 3, 1, 2)
        out = F.conv2d(x, self.weight, self.bias, padding=1)
        return out.permute(0, 2, 3, 1).float()


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias.detach().float()
