# SPDX-License-Identifier: Apache-2.0
"""Which samples make up which batch: several datasets, each as often as it should count, as a pure function of
(seed, batch number).

An epoch is every dataset `repeats` times (fractions allowed), each pass in a new order, cut into batches of one
dataset each, and the batches shuffled. Batches of one dataset keep a forward pass homogeneous: text only, pictures or
clips. Nothing is remembered between calls, so a run that resumes at batch n sees what an uninterrupted one sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.data.sample import Dataset, Sample

TOGETHER = 4
"""Blocks of a dataset that are mixed among themselves."""


@dataclass(frozen=True)
class Draw:
    """One sample of a batch.

    Attributes:
        dataset: its number in the mixture.
        index: of the sample in it.
        number: counts all draws of the run; with the seed it feeds everything that is random about this one.
    """

    dataset: int
    index: int
    number: int

    def rng(self, seed: int) -> np.random.Generator:
        """Randomness of this draw alone, whichever process or thread makes it."""
        return np.random.default_rng([seed, self.number])


class Mixture:
    """The batches of a run."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        batch: int,
        *,
        repeats: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        """Plan nothing yet; an epoch is planned when its first batch is asked for.

        Args:
            datasets: what is mixed.
            batch: samples in a batch, over all processes together.
            repeats: how often each dataset counts in an epoch; default once.
            seed: of the order.

        Raises:
            InputError: no dataset, an empty one, or a repeat that is not above 0.
        """
        self.datasets = tuple(datasets)
        self.repeats = tuple(repeats) if repeats is not None else (1.0,) * len(self.datasets)
        self.batch, self.seed = batch, seed
        if not self.datasets:
            raise InputError("mixture: no dataset, expected at least one")
        if batch < 1:
            raise InputError(f"mixture: batch is {batch}, expected a whole number above 0")
        if len(self.repeats) != len(self.datasets):
            raise InputError(
                f"mixture: {len(self.repeats)} repeats for {len(self.datasets)} datasets"
            )
        for dataset, repeat in zip(self.datasets, self.repeats, strict=True):
            if not len(dataset):
                raise InputError(f"{dataset.name}: no sample, expected at least one")
            if not repeat > 0:
                raise InputError(f"{dataset.name}: repeats is {repeat}, expected more than 0")
        self.counts = tuple(
            max(1, round(len(d) * r)) for d, r in zip(self.datasets, self.repeats, strict=True)
        )
        self._epoch: tuple[int, np.ndarray] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch; each dataset's last one is filled up from its own beginning."""
        return sum(math.ceil(count / self.batch) for count in self.counts)

    def draws(self, number: int) -> tuple[Draw, ...]:
        """The samples of batch `number` (0, 1, …): `batch` draws from one dataset."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._plan(epoch))
        dataset, *indices = self._epoch[1][place].tolist()
        return tuple(
            Draw(dataset, index, number * self.batch + i) for i, index in enumerate(indices)
        )

    def sample(self, draw: Draw) -> Sample:
        """The drawn sample, not yet decoded."""
        return self.datasets[draw.dataset][draw.index]

    def _plan(self, epoch: int) -> np.ndarray:
        """All batches of an epoch: int64 [batches, 1 + batch], the dataset and its samples."""
        rows = []
        for number, (dataset, count) in enumerate(zip(self.datasets, self.counts, strict=True)):
            wanted = math.ceil(count / self.batch) * self.batch
            order = self._order(epoch, number, dataset, count)
            order = np.resize(order, wanted)  # the last batch is filled up with the first samples
            batches = order.reshape(-1, self.batch)
            rows.append(np.column_stack([np.full(len(batches), number), batches]))
        plan = np.concatenate(rows)
        rng = np.random.default_rng([self.seed, epoch])
        shuffled: np.ndarray = plan[rng.permutation(len(plan))]
        for number, dataset in enumerate(self.datasets):
            if hasattr(dataset, "blocks"):  # its batches keep their order
                shuffled[shuffled[:, 0] == number] = rows[number]
        return shuffled

    def _order(self, epoch: int, number: int, dataset: Dataset, count: int) -> np.ndarray:
        """`count` samples of a dataset: whole passes in new orders, and the start of another."""
        blocks = getattr(dataset, "blocks", None)
        passes = []
        for k in range(math.ceil(count / len(dataset))):
            rng = np.random.default_rng([self.seed, epoch, number, k])
            order = rng.permutation(len(dataset)) if blocks is None else by_blocks(blocks, rng)
            passes.append(order)
        return np.concatenate(passes)[:count]


def by_blocks(blocks: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """An order of samples that lie in blocks: a few blocks at a time, mixed among themselves; int64 [sum of blocks].

    Data that has to be fetched is then read through once, however much of it there is.
    """
    starts = np.concatenate([[0], np.cumsum(blocks)])
    order = rng.permutation(len(blocks))
    parts = []
    for first in range(0, len(order), TOGETHER):
        chosen = order[first : first + TOGETHER]
        inside = np.concatenate([np.arange(starts[b], starts[b + 1]) for b in chosen])
        parts.append(rng.permutation(inside))
    return np.concatenate(parts)


def repeats_for_shares(shares: Sequence[float], lengths: Sequence[int]) -> tuple[float, ...]:
    """Repeats that make each dataset a given share of all draws, none of them counting less than once.

    Args:
        shares: above 0; they need not add up to 1.
        lengths: samples of each dataset.
    """
    if any(not share > 0 for share in shares):
        raise InputError(f"mixture: weights are {list(shares)}, expected numbers above 0")
    each = [share / length for share, length in zip(shares, lengths, strict=True)]
    return tuple(value / min(each) for value in each)
