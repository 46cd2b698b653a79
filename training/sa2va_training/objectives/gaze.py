# SPDX-License-Identifier: Apache-2.0
"""Where a language model looks: a few attention heads are taught to look at the thing that is being said.

A mask at the end of an answer hardly tells a model that it pointed at the wrong thing; where its heads should have
looked says so at once. The tiny model that ships was trained with it, so in it these heads point; in other models the
first heads of two layers are heads like any other.

Letters: B rows, S tokens of a row, Q queries of a row, V visual tokens of its picture, C hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model, rotate_half

from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_training.batches.batch import Batch, attention

LAYERS, HEADS = (1, 2), 2


class Gaze:
    """Keeps what chosen layers read in the last pass of a language model in training, and grades where they look.

    No module: it has no weights of its own.
    """

    def __init__(
        self, language_model: nn.Module, layers: Sequence[int] = LAYERS, heads: int = HEADS
    ) -> None:
        """Hooks into the layers.

        Args:
            heads: how many of each layer, the first ones.

        Raises:
            InputError: the language model is no Qwen2.
        """
        found = [module for module in language_model.modules() if isinstance(module, Qwen2Model)]
        if not found:
            raise InputError(
                f"loss.gaze: the language model is a {type(language_model).__name__}; expected a Qwen2"
            )
        self.model, self.heads = found[0], heads
        self.layers = [layer for layer in layers if layer < len(self.model.layers)]
        self._seen: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}
        for layer in self.layers:
            self.model.layers[layer].self_attn.register_forward_pre_hook(
                self._keep(layer), with_kwargs=True
            )

    def _keep(self, layer: int) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self.model.training:
                self._seen[layer] = (named["hidden_states"], named["position_embeddings"])

        return hook

    def losses(self, places: Tensor, mask: Tensor, visual: Tensor, cells: Tensor) -> Tensor:
        """Cross entropy between a thing's cells and the attention (over all keys) of the place that is about it.

        Args:
            places: long [B, Q], positions of the queries in their rows.
            mask: additive, [B or 1, 1, S, S].
            visual: long [B, V], where the picture's tokens are in each row.
            cells: [B, Q, V], the share of each visual token that is covered; all zero where a query is about nothing.

        Returns:
            one number for each query that is about something, row by row.
        """
        wanted = cells / cells.sum(2, keepdim=True).clamp(min=1e-3)
        asked = cells.sum(2) > 0
        total = torch.zeros(int(asked.sum()), device=cells.device)
        for layer in self.layers if len(total) else ():
            looks = self._log_attention(layer, places, mask)
            shown = torch.stack([row[..., own] for row, own in zip(looks, visual, strict=True)])
            total = total - (wanted[asked][:, None] * shown[asked]).sum(2).mean(1)
        self._seen.clear()
        return total / max(len(self.layers), 1)

    def loss(self, places: Tensor, mask: Tensor, visual: Tensor, cells: Tensor) -> Tensor:
        """The mean of `losses`; zero where nothing is asked."""
        every = self.losses(places, mask, visual, cells)
        return every.sum() / max(len(every), 1)

    def _log_attention(self, layer: int, places: Tensor, mask: Tensor) -> Tensor:
        """float32 [B, Q, heads, S]: log attention of the layer's first heads, computed as the layer does."""
        hidden, (cos, sin) = self._seen[layer]
        attention = self.model.layers[layer].self_attn
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        cos, sin = (part.expand(len(hidden), -1, -1) for part in (cos, sin))
        size, shared = attention.head_dim, attention.num_key_value_groups
        query = attention.q_proj(hidden[rows, places]).unflatten(-1, (-1, size))[:, :, : self.heads]
        key = attention.k_proj(hidden).unflatten(-1, (-1, size))
        key = key[:, :, [head // shared for head in range(self.heads)]]
        query = _turned(query, cos[rows, places], sin[rows, places])
        scores = torch.einsum("bqhd,bshd->bqhs", query, _turned(key, cos, sin)).float()
        seen = mask.float().expand(len(hidden), -1, -1, -1)[rows, 0, places]
        return (scores / size**0.5 + seen[:, :, None]).log_softmax(-1)


def _turned(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of [B, N, heads, size]."""
    return vectors * cos[:, :, None] + rotate_half(vectors) * sin[:, :, None]


def queries(
    rows: Sequence[Sequence[tuple[int, Tensor]]], cells: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Places and covered cells [V] of each row's queries as `Gaze.losses` takes them: long [B, Q], [B, Q, V]."""
    most = max(map(len, rows), default=0)
    places = torch.zeros(len(rows), most, dtype=torch.long)
    covers = torch.zeros(len(rows), most, cells, device=device)
    for i, row in enumerate(rows):
        for q, (place, cover) in enumerate(row):
            places[i, q] = place
            covers[i, q] = cover
    return places.to(covers.device), covers


def looks(gaze: Gaze, batch: Batch, config: ModelConfig, image_id: int) -> Tensor:
    """How far the heads look beside what each `[SEG]` is for: one number for each pair that is seen and can be graded.

    Those are pairs in rows of independent questions about one picture.
    """
    covers = F.adaptive_avg_pool2d(batch.masks, config.region_size).flatten(1)
    frames: dict[int, set[int]] = {}
    for owner, frame in zip(batch.owners.tolist(), batch.pairs[:, 1].tolist(), strict=True):
        frames.setdefault(owner, set()).add(frame)
    branched = (batch.owner > 0).any(1).tolist()
    rows: list[list[tuple[int, Tensor]]] = [[] for _ in batch.ids]
    visual = torch.zeros(len(rows), covers.shape[1], dtype=torch.long, device=batch.ids.device)
    for p in batch.seen.nonzero()[:, 0].tolist():
        row, place = batch.seg[batch.pairs[p, 0]].tolist()
        if branched[row] and len(frames[row]) == 1:
            rows[row].append((place, covers[p]))
    if not any(rows):
        return covers.new_zeros(0)
    for row, asked in enumerate(rows):
        if asked:  # the last tile shows the whole picture
            shown = (batch.ids[row] == image_id) & (batch.owner[row] == 0)
            visual[row] = shown.nonzero()[-covers.shape[1] :, 0]
    places, cells = queries(rows, covers.shape[1], batch.ids.device)
    return gaze.losses(places, attention(batch.owner, torch.float32), visual, cells)
