# SPDX-License-Identifier: Apache-2.0
"""Memory attention of N objects over one image, by exact rewrites.

What differs from the `sam2` package's code and not from its result:

- Rotary codes are real: rows of the query and key weights are permuted once so that the two halves of a channel pair
  lie in the two halves of the vector; no complex numbers, no interleaving.
- One head: softmax(QK^T)(M Wv + bv) Wo + bo = (softmax(QK^T) M)(Wv Wo) + (bv Wo + bo), so that values stay in the
  memory's 64 channels instead of 256.
- Everything before the first cross-attention depends on the image only and is computed once for all objects.
- Query, key and value of self-attention are one product; query scale is folded into the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.position_encoding import compute_axial_cis
from torch import Tensor

from sa2va_model.segmentation.backends.fused.kernels import (
    Dense,
    Norm,
    attend_many,
    attend_one,
    scale_of,
)


class Rotation:
    """Rotary position codes of a square of cells, for vectors in half-split order."""

    def __init__(self, dim: int, side: int, device: torch.device) -> None:
        codes = compute_axial_cis(dim, side, side).to(device)
        self._cos, self._sin = codes.real.contiguous(), codes.imag.contiguous()  # [cells, dim / 2]

    def __call__(self, x: Tensor) -> Tensor:
        """[..., cells, dim], rotated into a new tensor of the same dtype."""
        first, second = x.chunk(2, dim=-1)
        cos, sin = self._cos, self._sin
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        low, high = out.chunk(2, dim=-1)
        torch.mul(first, cos.to(x.dtype), out=low).addcmul_(second, sin.to(x.dtype), value=-1)
        torch.mul(first, sin.to(x.dtype), out=high).addcmul_(second, cos.to(x.dtype))
        return out


class _Layer:
    """One layer: self-attention, cross-attention to memory, two linear layers."""

    def __init__(
        self, layer: MemoryAttentionLayer, rotation: Rotation, rows: int, dtype: torch.dtype
    ) -> None:
        self._rotation = rotation
        self._norms = (Norm(layer.norm1), Norm(layer.norm2), Norm(layer.norm3))
        own, cross = layer.self_attn, layer.cross_attn_image
        width = own.internal_dim
        order = torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])
        order = order.to(own.q_proj.weight.device)
        scale = scale_of(width)

        def half_split(weight: Tensor, factor: float = 1.0) -> Tensor:
            return weight.float()[order] * factor

        self._qkv = Dense(
            torch.cat(
                [
                    half_split(own.q_proj.weight, scale),
                    half_split(own.k_proj.weight),
                    own.v_proj.weight.float(),
                ]
            ),
            torch.cat(
                [
                    half_split(own.q_proj.bias, scale),
                    half_split(own.k_proj.bias),
                    own.v_proj.bias.float(),
                ]
            ),
            dtype,
            rows=rows,
        )
        self._own_out = Dense.of(own.out_proj, dtype, rows=rows)
        self._query = Dense(
            half_split(cross.q_proj.weight, scale),
            half_split(cross.q_proj.bias, scale),
            dtype,
            rows=rows,
        )
        self.key = Dense(
            half_split(cross.k_proj.weight), half_split(cross.k_proj.bias), dtype, rows=7 * rows
        )
        out, value = cross.out_proj.weight.float(), cross.v_proj.weight.float()
        bias = out @ cross.v_proj.bias.float() + cross.out_proj.bias.float()
        self._cross_out = Dense(out @ value, bias, dtype, rows=rows)
        self._mlp1 = Dense.of(layer.linear1, dtype, rows=rows, activation="relu")
        self._mlp2 = Dense.of(layer.linear2, dtype, rows=rows)

    def attend_self(self, x: Tensor) -> Tensor:
        """[N, cells, C] to the same, and what follows of it for all objects alike."""
        query, key, value = self._qkv(self._norms[0](x)).chunk(3, dim=-1)
        query, key = self._rotation(query), self._rotation(key)
        if x.device.type == "cpu":
            rows = [attend_one(q, k, v) for q, k, v in zip(query, key, value, strict=True)]
            out = torch.stack(rows)
        else:
            out = attend_many(query, key, value)
        return x + self._own_out(out)

    def query(self, x: Tensor) -> Tensor:
        """[N, cells, C] to rotated and scaled queries."""
        return self._rotation(self._query(self._norms[1](x)))

    def finish(self, x: Tensor, read: Tensor) -> Tensor:
        """Adds what was read from memory, [N, cells, memory_dim], and the linear layers."""
        x = x + self._cross_out(read)
        return x + self._mlp2(self._mlp1(self._norms[2](x)))


class FastMemoryAttention:
    """Image features conditioned on each object's memory.

    Args:
        side: of the feature map, in cells.
        dtype: of matrix products; residuals and normalisations are float32.
    """

    def __init__(self, module: MemoryAttention, side: int, dtype: torch.dtype) -> None:
        width = module.layers[0].self_attn.internal_dim
        device = module.norm.weight.device
        self._rotation = Rotation(width, side, device)
        self._cells, self._norm = side * side, Norm(module.norm)
        self._layers = [_Layer(one, self._rotation, side * side, dtype) for one in module.layers]
        self.dtype = dtype

    def begin(self, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """The part that depends on the image only.

        Args:
            tokens: float32 [1, cells, C]; `position`: the same shape.

        Returns:
            ([1, cells, C] after the first self-attention, its queries to memory).
        """
        x = self._layers[0].attend_self(tokens + 0.1 * position)
        return x, self._layers[0].query(x)

    def ragged(
        self, begun: tuple[Tensor, Tensor], memory: Sequence[tuple[Tensor, Tensor, int]]
    ) -> Tensor:
        """Objects with memories of any length: linear layers as one batch, attention one after the other (CPU).

        Args:
            begun: from `begin`.
            memory: for each object: values [L, memory_dim], keys before projection (values plus positions)
                [L, memory_dim], and how many of the last rows are pointers.

        Returns:
            float32 [N, cells, C].
        """
        count = len(memory)
        x = begun[0].expand(count, -1, -1)
        values = [value.to(self.dtype) for value, _, _ in memory]
        for index, layer in enumerate(self._layers):
            if index:
                x = layer.attend_self(x)
            query = layer.query(x) if index else begun[1].expand(count, -1, -1)
            read = [
                attend_one(query[n], self._keys(layer, memory[n]), values[n]) for n in range(count)
            ]
            x = layer.finish(x, torch.stack(read))
        return self._norm(x)

    def _keys(self, layer: _Layer, memory: tuple[Tensor, Tensor, int]) -> Tensor:
        """Projected keys [L, C]; spatial rows are rotated in place, pointers are not."""
        _, tokens, pointers = memory
        keys = layer.key(tokens)
        spatial = keys[: len(keys) - pointers].view(-1, self._cells, keys.shape[-1])
        spatial.copy_(self._rotation(spatial))
        return keys

    def padded(
        self,
        begun: tuple[Tensor, Tensor],
        values: Tensor,
        tokens: Tensor,
        bias: Tensor,
        pointers: int,
    ) -> Tensor:
        """Objects as one batch of one shape, with a mask of unused slots (GPU).

        Args:
            begun: from `begin`.
            values: [N, L, memory_dim]; `tokens`: values plus positions.
            bias: [N, 1, L], 0 or -inf, added to the scores.
            pointers: how many of the last rows are pointer tokens.

        Returns:
            float32 [N, cells, C].
        """
        count, length = values.shape[:2]
        x = begun[0].expand(count, -1, -1)
        values, bias = values.to(self.dtype), bias.to(self.dtype)
        for index, layer in enumerate(self._layers):
            if index:
                x = layer.attend_self(x)
            query = layer.query(x) if index else begun[1].expand(count, -1, -1)
            keys = layer.key(tokens)
            spatial = keys[:, : length - pointers].unflatten(1, (-1, self._cells))
            keys = torch.cat(
                [self._rotation(spatial).flatten(1, 2), keys[:, length - pointers :]], 1
            )
            read = F.scaled_dot_product_attention(
                query[:, None], keys[:, None], values[:, None], attn_mask=bias[:, None], scale=1.0
            )
            x = layer.finish(x, read[:, 0])
        return self._norm(x)
