# SPDX-License-Identifier: Apache-2.0
"""Several sentences and several possible answers in one sequence: a tree whose branches do not see each other.

All branches grow from one shared beginning. A token sees that beginning, its own ancestors and itself, which is all it
would see if its branch stood alone; so the states are those of separate forwards, for the price of one.

Letters: P tokens of the shared beginning, T tokens of the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from sa2va_model.mllm.decoding.packing import Packing

ATTENTION = "sa2va_tree"
"""Name of the attention function below, for `set_attn_implementation`."""
ROOT = -1
"""Parent of a token that stands right behind the shared beginning."""


class Tree:
    """Tokens behind a shared beginning, in the order in which they are read.

    Attributes:
        depths: of each token, 0 for those right behind the beginning.
        children: of each token, by token id; only of tokens that were grafted.
    """

    def __init__(self) -> None:
        self.depths: list[int] = []
        self.children: list[dict[int, int]] = []
        self.linear = True  # one branch so far: causal attention says it all
        self._seen = np.zeros((64, 64), bool)  # [row, column], grows

    def __len__(self) -> int:
        return len(self.depths)

    def add(self, parent: int) -> int:
        """A token behind `parent`; returns its number."""
        node = len(self.depths)
        if node == len(self._seen):
            grown = np.zeros((2 * node, 2 * node), bool)
            grown[:node, :node] = self._seen
            self._seen = grown
        if parent != ROOT:
            self._seen[node, :node] = self._seen[parent, :node]
        self._seen[node, node] = True
        self.linear = self.linear and parent == node - 1
        self.depths.append(0 if parent == ROOT else self.depths[parent] + 1)
        self.children.append({})
        return node

    def chain(self, count: int, parent: int = ROOT) -> list[int]:
        """`count` tokens in a row."""
        nodes: list[int] = []
        for _ in range(count):
            parent = self.add(parent)
            nodes.append(parent)
        return nodes

    def graft(self, parent: int, sentences: Sequence[Sequence[int]]) -> list[int]:
        """Sentences behind `parent`; equal beginnings are shared. Returns the ids of the new tokens in order."""
        ids: list[int] = []
        for sentence in sentences:
            node = parent
            for token in sentence:
                if token not in self.children[node]:
                    self.children[node][token] = self.add(node)
                    ids.append(token)
                node = self.children[node][token]
        return ids

    def mask(self, first: int, past: int, like: Tensor, *, explicit: bool = False) -> Tensor | None:
        """What the tokens from `first` on see of the beginning and the tree.

        Args:
            past: P.
            like: a tensor of the dtype and device wanted.
            explicit: also where causal attention is the same.

        Returns:
            Additive, [1, 1, T - first, P + T]; None where causal attention is the same.
        """
        if self.linear and not explicit:
            return None
        rows = torch.from_numpy(self._seen[first : len(self), : len(self)])
        hidden = torch.zeros(len(rows), past + len(self), dtype=like.dtype)
        hidden[:, past:].masked_fill_(~rows, torch.finfo(like.dtype).min)
        return hidden[None, None].to(like.device)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention; a mask with fewer rows than the query belongs to its last ones.

    The rows before it are causal. They are most of a prompt with images, and a causal kernel does half of the work
    of one with a mask.

    Args:
        query, key, value: [B, heads, L, d].
        attention_mask: as everywhere in transformers, or [1, 1, T, L] with T < L.
        packing: of several sequences, which has their masks.
    """
    if packing is not None:
        return packing.attend(module, query, key, value, **kwargs), None
    if attention_mask is None or attention_mask.shape[-2] in (1, query.shape[-2]):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    head = query.shape[-2] - attention_mask.shape[-2]
    upper, _ = sdpa_attention_forward(
        module, query[:, :, :head], key[:, :, :head], value[:, :, :head], None, **kwargs
    )
    lower, _ = sdpa_attention_forward(
        module, query[:, :, head:], key, value, attention_mask, **kwargs
    )
    return torch.cat([upper, lower], dim=1), None


AttentionInterface.register(ATTENTION, tree_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
