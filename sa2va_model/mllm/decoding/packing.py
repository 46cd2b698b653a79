# SPDX-License-Identifier: Apache-2.0
"""Sequences that know nothing of each other in one forward: weights are read once, attention stays with each.

The tokens of all stand in one row, as in a packed batch, without padding; whatever works token by token (projections,
norms, rotary codes) sees them together. Attention alone is done sequence by sequence, each with its own cache.

Letters: L new tokens, P tokens read before, T tokens of a tree, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from sa2va_model.mllm.decoding.token_tree import tree_attention
from sa2va_model.mllm.layers import run_layers
from sa2va_model.mllm.types import Inputs


@dataclass(frozen=True)
class Passage:
    """What is read of one sequence in the next forward.

    Attributes:
        inputs: [1, L, C].
        positions: [1, L], or [3, 1, L] with M-RoPE.
        cache: P tokens; grows by L.
        mask: [1, 1, T, P + L], T <= L, see `tree_attention`; None = causal.
        replay: as a graph, where that works (see `Generator.graphs_serve`); then `mask` is given.
    """

    inputs: Inputs
    positions: Tensor
    cache: DynamicCache
    mask: Tensor | None
    replay: bool = False


class Packing:
    """The attention of several passages that stand in one row.

    Args:
        passages: of those that have a cache already, each has a mask.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._lengths = [len(passage.inputs) for passage in passages]

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> Tensor:
        """[1, L, heads, d] of all passages; query, key, value: [1, heads, L, d]."""
        out = []
        parts = (torch.split(states, self._lengths, dim=2) for states in (query, key, value))
        for passage, own, keys, values in zip(self._passages, *parts, strict=True):
            keys, values = passage.cache.update(keys, values, int(module.layer_idx))  # type: ignore[arg-type]
            seen, _ = tree_attention(module, own, keys, values, passage.mask, **options)
            out.append(seen)
        return torch.cat(out, dim=1)


def read_packed(body: nn.Module, passages: Sequence[Passage]) -> list[Tensor]:
    """Final-norm states of each passage's tokens, [L, C]; their caches grow.

    Args:
        body: transformers' model without its head, with `tree_attention`.
    """
    inputs = [passage.inputs for passage in passages]
    embeddings = torch.cat([one.embeddings for one in inputs], dim=1)
    positions = torch.cat([passage.positions for passage in passages], dim=-1)
    extra: dict[str, Any] = {"packing": Packing(passages)}
    if any(one.deep for one in inputs):
        extra |= _deep(inputs)
    given = embeddings.new_zeros(1, 1, 1, 1)  # so that no other mask is made
    states = run_layers(body, embeddings, positions, None, given, extra)
    return list(torch.split(states, [len(one) for one in inputs]))


def _deep(inputs: Sequence[Inputs]) -> dict[str, Any]:
    """DeepStack's levels of those that have visual tokens, and where these stand."""
    nowhere = [torch.zeros_like(one.embeddings[..., 0], dtype=torch.bool) for one in inputs]
    visual = [one.visual if one.deep else none for one, none in zip(inputs, nowhere, strict=True)]
    levels = zip(*(one.deep for one in inputs if one.deep), strict=True)
    return {
        "visual_pos_masks": torch.cat([v for v in visual if v is not None], dim=1),
        "deepstack_visual_embeds": [torch.cat(level) for level in levels],
    }
