# SPDX-License-Identifier: Apache-2.0
"""What things look like, taught directly: the words of every object's name, read from the mean of its visual tokens.

A mask at the end of an answer tells the vision model little about why it is wrong. One linear layer on the tokens that
the language model is given says it at once, for all objects of a picture. It is dropped after training.

Letters: N tiles, V visual tokens of a tile, C channels, T things, W words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa2va_training.batches.collage import content
from sa2va_training.data.sample import Dataset

_LEAST = 0.5
"""Visual tokens that a thing has to cover, in all; less says nothing."""


@dataclass(frozen=True)
class NamedThings:
    """Things with names in the pictures of a batch.

    Attributes:
        tiles: long [T], the tile each of them is in.
        covers: float32 [T, V], the share of each visual token's cell.
        words: float32 [T, W], equal shares of the words of its name, 0 elsewhere.
    """

    tiles: Tensor
    covers: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.tiles)

    def to(self, device: torch.device) -> NamedThings:
        """The same on another device."""
        return NamedThings(*(t.to(device) for t in (self.tiles, self.covers, self.words)))


def vocabulary(datasets: Iterable[Dataset]) -> tuple[str, ...]:
    """All words of all names, in order. Pictures are not opened; very many samples take long."""
    names = {
        thing.name
        for dataset in datasets
        for index in range(len(dataset))
        for thing in dataset[index].objects
    }
    return tuple(sorted(frozenset().union(*map(content, names))))


def no_things(cells: int = 0, words: int = 0) -> NamedThings:
    """Nothing that has a name."""
    return NamedThings(
        torch.zeros(0, dtype=torch.long), torch.zeros(0, cells), torch.zeros(0, words)
    )


def named_things(
    rows: Sequence[tuple[int, Tensor, str]], words: Sequence[str], cells: int
) -> NamedThings:
    """Rows of tile, cover [V] and name as tensors; without those that are too small or have no known word."""
    places = {word: n for n, word in enumerate(words)}
    kept: list[tuple[int, Tensor, Tensor]] = []
    for tile, cover, name in rows:
        said = [places[word] for word in sorted(content(name)) if word in places]
        if not said or float(cover.sum()) < _LEAST:
            continue
        shares = torch.zeros(len(words))
        shares[said] = 1 / len(said)
        kept.append((tile, cover, shares))
    if not kept:
        return no_things(cells, len(words))
    tiles, covers, shares_of = zip(*kept, strict=True)
    return NamedThings(torch.tensor(tiles), torch.stack(covers), torch.stack(shares_of))


class NameHead(nn.Module):
    """Reads names off visual tokens; begins knowing nothing.

    Args:
        hidden: channels of the projected visual tokens.
    """

    def __init__(self, hidden: int, words: Sequence[str]) -> None:
        super().__init__()
        self.words = tuple(words)
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.read = nn.Linear(hidden, len(self.words))
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, tokens: Tensor, things: NamedThings) -> Tensor:
        """Cross entropy of each thing's words, less what even the right answer would cost: [T].

        Args:
            tokens: [N, V, C].
        """
        covers = things.covers / things.covers.sum(1, keepdim=True)
        means = torch.einsum("tvc,tv->tc", tokens[things.tiles].float(), covers)
        chances = F.log_softmax(self.read(self.norm(means)).float(), dim=1)
        sure = torch.xlogy(things.words, things.words).sum(1)
        return sure - (things.words * chances).sum(1)
