# SPDX-License-Identifier: Apache-2.0
"""Memory attention of N objects over one image, by exact rewrites.

What differs from the `sam2` package's code and not from its result:

- Rotary codes are real on a GPU: rows of the query and key weights are permuted once so that the two halves of a
  channel pair lie in the two halves of the vector; no complex numbers, no interleaving. On a CPU pairs stay together.
- One head: softmax(QK^T)(M Wv + bv) Wo + bo = (softmax(QK^T) M)(Wv Wo) + (bv Wo + bo), so that values stay in the
  memory's 64 channels instead of 256.
- Everything before the first cross-attention depends on the image only and is computed once for all objects.
- Query, key and value of self-attention are one product; query scale is folded into the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest

import torch
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from torch import Tensor

from sa2va_model.segmentation.backends.fused.kernels import Kernels, Norm, scale_of
from sa2va_model.segmentation.backends.fused.recording import Recording
from sa2va_model.segmentation.backends.fused.rotation import Rotation
from sa2va_model.segmentation.backends.fused.triton_kernels.cross_attention import cross_attention

_State = tuple[Tensor, Tensor | None]
"""[N, cells, C], and what has yet to be added to it."""


class _Layer:
    """One layer: self-attention, cross-attention to memory, two linear layers."""

    def __init__(
        self,
        layer: MemoryAttentionLayer,
        rotation: Rotation,
        reading: Rotation,
        rows: int,
        kernels: Kernels,
    ) -> None:
        self._rotation, self._reading, self._kernels = rotation, reading, kernels
        self._norms = (Norm(layer.norm1), Norm(layer.norm2), Norm(layer.norm3))
        own, cross = layer.self_attn, layer.cross_attn_image
        width = own.internal_dim
        order = rotation.order(width).to(own.q_proj.weight.device)
        scale = scale_of(width)

        def ordered(weight: Tensor, factor: float = 1.0) -> Tensor:
            return weight.float()[order] * factor

        self._qkv = kernels.dense(
            torch.cat(
                [
                    ordered(own.q_proj.weight, scale),
                    ordered(own.k_proj.weight),
                    own.v_proj.weight.float(),
                ]
            ),
            torch.cat(
                [
                    ordered(own.q_proj.bias, scale),
                    ordered(own.k_proj.bias),
                    own.v_proj.bias.float(),
                ]
            ),
            rows=rows,
        )
        self._own_out = kernels.dense_of(own.out_proj, rows=rows)
        self._query = kernels.dense(
            ordered(cross.q_proj.weight, scale),
            ordered(cross.q_proj.bias, scale),
            rows=rows,
        )
        self.key = kernels.dense(
            ordered(cross.k_proj.weight), ordered(cross.k_proj.bias), rows=7 * rows
        )
        out, value = cross.out_proj.weight.float(), cross.v_proj.weight.float()
        bias = out @ cross.v_proj.bias.float() + cross.out_proj.bias.float()
        self._cross_out = kernels.dense(out @ value, bias, rows=rows)
        self._mlp1 = kernels.dense_of(layer.linear1, rows=rows, activation="relu")
        self._mlp2 = kernels.dense_of(layer.linear2, rows=rows)

    def attend_self(self, state: _State) -> _State:
        """Self-attention of N objects, and what follows of it for all of them alike."""
        x, normal = self._norms[0].after(*state)
        query, key, value = self._qkv(normal).chunk(3, dim=-1)
        query, key = self._rotation.turn(query), self._rotation.turn(key)
        if self._kernels.traits.fused_attention:
            out = self._kernels.attend_many(query, key, value)
        else:
            each = zip(query, key, value, strict=True)
            out = torch.stack([self._kernels.attend_one(q, k, v) for q, k, v in each])
        return x, self._own_out(out)

    def query(self, state: _State) -> tuple[Tensor, Tensor]:
        """The sum so far, and rotated and scaled queries of it."""
        x, normal = self._norms[1].after(*state)
        return x, self._reading.turn(self._query(normal))

    def finish(self, x: Tensor, read: Tensor) -> _State:
        """Adds what was read from memory, [N, cells, memory_dim], and the linear layers."""
        x, normal = self._norms[2].after(x, self._cross_out(read))
        return x, self._mlp2(self._mlp1(normal))


class FastMemoryAttention:
    """Image features conditioned on each object's memory.

    Args:
        side: of the feature map, in cells.
        kernels: of matrix products.
        rotation: codes of the image and of memories alike, applied in its own way; None = the module's own codes.
    """

    def __init__(
        self,
        module: MemoryAttention,
        side: int,
        kernels: Kernels,
        rotation: Rotation | None = None,
    ) -> None:
        first, device = module.layers[0], module.norm.weight.device
        if rotation is not None:
            image = query = self._key = rotation
        else:
            codes = (*first.self_attn.codes(side)[:1], *first.cross_attn_image.codes(side))
            image, query, self._key = (kernels.rotation(code.to(device)) for code in codes)
        self._kernels = kernels
        self.norm = Norm(module.norm)
        rows = side * side
        self.layers = [_Layer(one, image, query, rows, kernels) for one in module.layers]
        self._start = self._recorded(self._prepare)
        self._reads = [self._recorded(partial(self._read, layer=layer)) for layer in self.layers]
        self._rests = [
            self._recorded(partial(self._between, layer=layer, following=following))
            for layer, following in zip_longest(self.layers, self.layers[1:])
        ]

    def _recorded(self, function: Callable[..., tuple[Tensor, ...]]) -> Recording:
        return Recording(function, active=self._kernels.traits.records)

    def begin(self, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """The part that depends on the image only.

        Args:
            tokens: float32 [1, cells, C]; `position`: the same shape.

        Returns:
            ([1, cells, C] after the first self-attention, its queries to memory).
        """
        x, query = self._start(tokens, position)
        return x, query

    def _prepare(self, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        x = (tokens + 0.1 * position).to(self._kernels.residuals)
        return self.layers[0].query(self.layers[0].attend_self((x, None)))

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
        values = [value.to(self._kernels.dtype) for value, _, _ in memory]
        x, query = (part.expand(count, -1, -1) for part in begun)
        for read, rest in zip(self._reads, self._rests, strict=True):
            found = [
                read(query[n], values[n], tokens, pointers=pointers)[0]
                for n, (_, tokens, pointers) in enumerate(memory)
            ]
            x, query = rest(x, torch.stack(found))
        return x

    def _read(
        self, query: Tensor, value: Tensor, tokens: Tensor, *, layer: _Layer, pointers: int
    ) -> tuple[Tensor]:
        """What queries [cells, C] read from one object's memory; its keys are rotated but for pointers."""
        keys = layer.key(tokens)
        spatial = keys[: len(keys) - pointers].view(-1, self._key.cells, keys.shape[-1])
        self._key.turn(spatial)
        return (self._kernels.attend_one(query, keys, value),)

    def _between(
        self, x: Tensor, read: Tensor, *, layer: _Layer, following: _Layer | None
    ) -> tuple[Tensor, Tensor]:
        """From what was read in a layer to the sum and the queries of the one that follows, or to the answer twice."""
        state = layer.finish(x, read)
        if following is not None:
            return following.query(following.attend_self(state))
        out = self.norm.after(*state)[1].float()
        return out, out

    def padded(
        self,
        begun: tuple[Tensor, Tensor],
        values: Tensor,
        tokens: Tensor,
        lengths: Tensor,
        bias: Tensor,
        pointers: int,
    ) -> Tensor:
        """Objects as one batch of one shape (GPU).

        Args:
            begun: from `begin`.
            values: [N, L, memory_dim]; `tokens`: values plus positions.
            lengths: int32 [N]; what lies behind is not read.
            bias: float32 [N, pointers], 0 or -inf, added to the scores of pointer tokens.
            pointers: how many of the first rows are pointer tokens.

        Returns:
            float32 [N, cells, C].
        """
        count, kind = len(values), self._kernels.dtype
        values, tokens = values.to(kind), tokens.to(kind)
        x, query = (part.expand(count, -1, -1) for part in begun)
        state: _State = (x, None)
        for index, layer in enumerate(self.layers):
            if index:
                x, query = layer.query(layer.attend_self(state))
            keys = self._key.turn(layer.key(tokens), pointers)
            state = layer.finish(x, cross_attention(query, keys, values, lengths, bias))
        return self.norm.after(*state)[1].float()
