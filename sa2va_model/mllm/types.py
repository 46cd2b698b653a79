# SPDX-License-Identifier: Apache-2.0
"""What goes into the language model and what comes out: plain values between prompts, decoder and tasks.

Letters: P tokens of a shared beginning, L tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

Choice = Callable[[int, Tensor], int]
"""Picks the next token id from (step, logits [V])."""
Stops = Callable[[Sequence[int]], bool]
"""Whether an answer that has these token ids so far is complete."""


@dataclass(frozen=True)
class Inputs:
    """What the language model reads at once.

    Attributes:
        embeddings: [1, L, C].
        positions: [3, 1, L] where images have rows and columns (M-RoPE); None = one after the other.
        visual: bool [1, L], the visual tokens; only with `deep`.
        deep: [K, C] for each of the first layers, added to the K visual tokens behind it (DeepStack of Qwen3-VL).
        ids: the token ids, if the embeddings are theirs alone; questions that begin alike then share more.
    """

    embeddings: Tensor
    positions: Tensor | None = None
    visual: Tensor | None = None
    deep: tuple[Tensor, ...] = ()
    ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return int(self.embeddings.shape[1])

    @property
    def shift(self) -> int:
        """By how much the position after these inputs differs from their number."""
        if self.positions is None:
            return 0
        return int(self.positions.max()) + 1 - len(self)

    def deep_everywhere(self) -> tuple[Tensor, ...]:
        """`deep` as [1, L, C] each, zero where no visual token is."""
        if not self.deep:
            return ()
        assert self.visual is not None
        places = self.visual[0].nonzero()[:, 0]
        zero = torch.zeros_like(self.embeddings[0])
        return tuple(zero.index_copy(0, places, level.to(zero.dtype))[None] for level in self.deep)

    def split(self, count: int) -> tuple[Inputs, Inputs]:
        """The first `count` tokens, and the rest, which must be text."""
        positions = None if self.positions is None else self.positions[..., :count]
        visual = None if self.visual is None else self.visual[:, :count]
        first = Inputs(self.embeddings[:, :count], positions, visual, self.deep)
        return first, Inputs(self.embeddings[:, count:], ids=self.ids[count:])


@dataclass(frozen=True)
class Generated:
    """A greedy answer.

    Attributes:
        ids: the new tokens, the stop token included.
        logits: float [new, V], raw, one row for each new token; [0, V] if they were not wanted.
        shared: [P, C], after the final norm, the states of the shared beginning.
        own: [L + new - 1, C], those of every other token that was an input.
        forwards: how often the language model ran for it.
    """

    ids: tuple[int, ...]
    logits: Tensor
    shared: Tensor
    own: Tensor
    forwards: int

    @classmethod
    def nothing(cls, hidden: int) -> Generated:
        """Where nothing was asked."""
        none = torch.zeros(0, hidden)
        return cls((), torch.zeros(0, 0), none, none, 0)

    @property
    def states(self) -> Tensor:
        """[prompt + new - 1, C]."""
        return torch.cat([self.shared, self.own])

    def runs_of(self, tokens: Sequence[int]) -> list[Tensor]:
        """States at each run of some tokens that were fed back, [n, C] each."""
        fed = self.ids[:-1]
        own = self.own[len(self.own) - len(fed) :]
        found: list[list[int]] = []
        for n, token in enumerate(fed):
            if token not in tokens:
                continue
            if found and found[-1][-1] == n - 1:
                found[-1].append(n)
            else:
                found.append([n])
        return [own[places] for places in found]

    def states_at(self, token: int) -> Tensor:
        """States at the new tokens equal to `token` that were fed back: [K, C].

        A token that ends the answer was never an input and has no state.
        """
        fed = torch.tensor(self.ids[:-1], dtype=torch.long, device=self.own.device)
        if not len(fed):
            return self.own[:0]
        return self.own[-len(fed) :][fed == token]


@dataclass(frozen=True)
class UnreadPrefix:
    """The beginning of a prompt, not read yet; it is read together with the first questions.

    Attributes:
        ids: its tokens.
        inputs: the same as the model reads them.
    """

    ids: tuple[int, ...]
    inputs: Inputs


@dataclass(frozen=True)
class CachedPrefix:
    """A part of a prompt that was read already; many questions can share it.

    Attributes:
        ids: its tokens.
        cache: keys and values; never changed.
        states: [P, C].
        shift: the next token's position is P + shift; 0 without M-RoPE.
    """

    ids: tuple[int, ...]
    cache: DynamicCache
    states: Tensor
    shift: int = 0

    def extended(self) -> DynamicCache:
        """A cache that begins with this prefix, whose keys and values are shared until the cache grows."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return cache
