# SPDX-License-Identifier: Apache-2.0
"""Hiera and its feature pyramid, channels last, by exact rewrites.

What differs from the `sam2` package's code and not from its result:

- Between blocks tokens stay in the windows of the last one. A block whose windows are the same copies nothing, nor
  does one that attends to the whole image: it does not mind their order. Pooling halves a window.
- A window that overhangs the image is padded after the query-key-value product, with that product's bias (a padded
  token is zero), and cropped before the output product; the package multiplies the padding, too: 1764 rows instead of
  1024 in the third stage at 512 px.
- Query scale is folded into the weights. A sum and its normalisation are one pass.
- The pyramid's 1 x 1 convolutions of the two fine levels and the decoder's 1 x 1 convolutions behind them are
  one product. A top-down sum passes through them at the coarse size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock
from sam2.modeling.backbones.image_encoder import FpnNeck
from torch import Tensor, nn

from sa2va_model.segmentation.backends.fused.kernels import Kernels, scale_of
from sa2va_model.segmentation.backends.fused.stem import embedding


class Trunk:
    """The image encoder's backbone: pixels to four levels of features, channels last.

    Args:
        kernels: of matrix products; residuals are in their type, too, where the device wants that.
    """

    def __init__(self, trunk: Hiera, image_size: int, kernels: Kernels) -> None:
        self._kind = kernels.residuals
        side = image_size // 4
        with torch.no_grad():
            position = trunk._get_pos_embed((side, side)).float().contiguous()
        self._embed = embedding(trunk.patch_embed.proj, position, kernels)
        self._ends = frozenset(trunk.stage_ends)
        self._blocks: list[_Block] = []
        for block in trunk.blocks:
            self._blocks.append(_Block(block, side, kernels))
            if block.q_stride:
                side //= block.q_stride[0]

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """[B, 3, S, S] to [B, s, s, C] for s = S/4, S/8, S/16, S/32; float32 or the products' type."""
        x = self._embed(pixels)
        tokens = Tokens(x.to(self._kind), None, x.shape[1], x.shape[1])
        levels = []
        for index, block in enumerate(self._blocks):
            tokens = block(tokens)
            if index in self._ends:
                levels.append(tokens.whole())
        return levels


@dataclass(frozen=True)
class Tokens:
    """An image's tokens in windows.

    Attributes:
        x: [B * windows, w, w, C], windows in rows.
        rest: what has yet to be added to `x`, of the same shape.
        window: w; `side`: of the image.
    """

    x: Tensor
    rest: Tensor | None
    window: int
    side: int

    def whole(self) -> Tensor:
        """[B, s, s, C], with all added."""
        return merge(self.x if self.rest is None else self.x + self.rest, self.window, self.side)

    def cut(self, window: int) -> Tokens:
        """The same in other windows, which fit."""
        if window == self.window:
            return self
        return Tokens(split(self.whole(), window), None, window, self.side)


class _Block:
    """One multi-scale block."""

    def __init__(self, block: MultiScaleBlock, side: int, kernels: Kernels) -> None:
        self._kernels, attention = kernels, block.attn
        self._norm1, self._norm2 = kernels.norm(block.norm1), kernels.norm(block.norm2)
        self._heads = attention.num_heads
        self._window = block.window_size or side
        self._pool = block.q_stride[0] if block.q_stride else 1
        self._side = side
        rows = side * side
        scale = torch.ones(3, 1, device=attention.qkv.weight.device)
        scale[0] = scale_of(block.dim_out // self._heads)
        scale = scale.expand(3, block.dim_out).reshape(-1, 1)
        weight, bias = attention.qkv.weight.float(), attention.qkv.bias.float()
        self._qkv = kernels.dense(weight * scale, bias * scale[:, 0], rows=rows)
        self._out = kernels.dense_of(attention.proj, rows=rows)
        first, second = block.mlp.layers
        self._mlp1 = kernels.dense_of(first, rows=rows, activation="gelu")
        self._mlp2 = kernels.dense_of(second, rows=rows)
        self._shortcut = None
        if block.dim != block.dim_out:
            self._shortcut = kernels.dense_of(block.proj, rows=rows)

    def __call__(self, tokens: Tokens) -> Tokens:
        """Of a side to the same, or to half of it; the type of `x`, or the products' where channels widen."""
        window, side = self._window, self._side
        overhang = side % window != 0
        if overhang:
            tokens = tokens.cut(side)
        elif window < side or self._pool > 1:
            tokens = tokens.cut(window)
        x, normal = self._norm1.after(tokens.x, tokens.rest)
        if self._shortcut is not None:
            x = _max_pool(self._shortcut(normal), self._pool)
        qkv = self._qkv(normal)
        read = self._attend_padded(qkv) if overhang else self._attend(qkv, tokens.window)
        x, normal = self._norm2.after(x, self._out(read))
        rest = self._mlp2(self._mlp1(normal))
        return Tokens(x, rest, tokens.window // self._pool, side // self._pool)

    def _attend(self, qkv: Tensor, window: int) -> Tensor:
        """[B * windows, w, w, 3 C'] to [B * windows, w / pool, w / pool, C']; `window` is how they lie."""
        area = self._window**2
        cut = qkv.view(-1, area, 3, self._heads, qkv.shape[-1] // (3 * self._heads))
        query, key, value = cut.transpose(1, 3).unbind(2)  # [windows, heads, tokens, channels]
        if self._pool > 1:
            query = cut[:, :, 0].flatten(2).unflatten(1, (self._window, self._window))
            query = _max_pool(query, self._pool)
            window //= self._pool
            query = query.reshape(len(cut), -1, *cut.shape[3:]).transpose(1, 2)
        out = self._kernels.attend_many(query, key, value)
        return out.transpose(1, 2).reshape(-1, window, window, out.shape[1] * out.shape[-1])

    def _attend_padded(self, qkv: Tensor) -> Tensor:
        """[B, s, s, 3 C'] to [B, s / pool, s / pool, C'], in windows that overhang the image."""
        side, window = self._side, self._window
        count = -(-side // window)
        padded = count * window
        assert self._qkv.bias is not None
        whole = self._qkv.bias.expand(len(qkv), padded, padded, -1).contiguous()
        whole[:, :side, :side] = qkv
        read = self._attend(split(whole, window), window)
        side, window = side // self._pool, window // self._pool
        return merge(read, window, count * window)[:, :side, :side]


def split(x: Tensor, window: int) -> Tensor:
    """[B, s, s, C] to windows [B * windows, w, w, C]."""
    side, channels = x.shape[1], x.shape[-1]
    if window == side:
        return x
    count = side // window
    cut = x.view(-1, count, window, count, window, channels).transpose(2, 3)
    return cut.reshape(-1, window, window, channels)


def merge(x: Tensor, window: int, side: int) -> Tensor:
    """Windows [B * windows, w, w, C] to [B, s, s, C]."""
    if window == side:
        return x
    count = side // window
    cut = x.view(-1, count, count, window, window, x.shape[-1]).transpose(2, 3)
    return cut.reshape(-1, side, side, x.shape[-1])


def _max_pool(x: Tensor, size: int) -> Tensor:
    """[B, h, w, C] to [B, h / size, w / size, C]."""
    if size == 1:
        return x
    return F.max_pool2d(x.permute(0, 3, 1, 2), size, size).permute(0, 2, 3, 1)


class Pyramid:
    """The feature pyramid, with the decoder's own projections of the two fine levels.

    Args:
        fine: `conv_s0` and `conv_s1` of the mask decoder.
    """

    def __init__(self, neck: FpnNeck, fine: Sequence[nn.Conv2d], kernels: Kernels) -> None:
        lateral = [convolution.conv for convolution in reversed(neck.convs)]  # finest first
        weights = [c.weight.flatten(1).float() for c in lateral]
        biases = [c.bias.float() for c in lateral]
        after = [c.weight.flatten(1).float() for c in fine]
        self._down = frozenset(neck.fpn_top_down_levels)
        self._coarse = [kernels.dense(weights[i], biases[i]) for i in (2, 3)]
        self._fine = [
            kernels.dense(after[i] @ weights[i], after[i] @ biases[i] + _bias(fine[i]))
            for i in (0, 1)
        ]
        # What comes down from level 2 (for both) and from level 1 (for the finest) has yet to be projected.
        self._sum = [kernels.dense(after[0] @ weights[1], after[0] @ biases[1])]
        self._after = [kernels.dense(after[i], None) for i in (0, 1)]

    def __call__(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Four levels [B, s, s, C], finest first, to (top [B, h, w, 256], [B, 4h, 4w, 32], [B, 2h, 2w, 64])."""
        third = self._coarse[1](levels[3]).float()
        top = self._coarse[0](levels[2]).float()
        if 2 in self._down:
            top = top + _double(third)
        one = self._fine[1](levels[1]).float()
        zero = self._fine[0](levels[0]).float()
        if 1 in self._down:
            one = one + _double(self._after[1](top).float())
        if 0 in self._down:
            down = self._sum[0](levels[1]).float()
            if 1 in self._down:
                down = down + _double(self._after[0](top).float())
            zero = zero + _double(down)
        return top, zero, one


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias.float()


def _double(x: Tensor) -> Tensor:
    """Nearest neighbour: [B, h, w, C] to [B, 2h, 2w, C]."""
    batch, height, width, channels = x.shape
    out = x[:, :, None, :, None].expand(batch, height, 2, width, 2, channels)
    return out.reshape(batch, 2 * height, 2 * width, channels)
