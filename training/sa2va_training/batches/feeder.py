# SPDX-License-Identifier: Apache-2.0
"""The batches of every step, prepared ahead on threads; which they are is a function of (seed, step) alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from sa2va_training.batches.asking import Asker
from sa2va_training.batches.batch import Batch
from sa2va_training.batches.collate import Collator
from sa2va_training.data.mixture import Mixture


class Feeder:
    """What this process computes at every step.

    Args:
        mixture: its batch is that of all processes together for one forward pass.
        batch: samples of this process for one forward pass.
        accumulate: forward passes per step.
        seed: of everything random about a sample; the order has the mixture's own.
        rehearsed: datasets of the mixture, by number, that the model knows already.
    """

    def __init__(
        self,
        mixture: Mixture,
        asker: Asker,
        collator: Collator,
        *,
        batch: int,
        accumulate: int,
        seed: int,
        rank: int = 0,
        workers: int = 2,
        rehearsed: Collection[int] = (),
    ) -> None:
        self.mixture, self.asker, self.collator = mixture, asker, collator
        self.batch, self.accumulate, self.seed, self.rank = batch, accumulate, seed, rank
        self.workers, self.rehearsed = workers, frozenset(rehearsed)

    def micro(self, step: int, number: int) -> Batch:
        """Forward pass `number` of a step."""
        draws = self.mixture.draws(step * self.accumulate + number)
        mine = draws[self.rank * self.batch : (self.rank + 1) * self.batch]
        asked = [self.asker(self.mixture.sample(draw), draw.rng(self.seed)) for draw in mine]
        seeds = [
            int(np.random.default_rng([self.seed, draw.number, 1]).integers(2**62)) for draw in mine
        ]
        return self.collator(asked, seeds, rehearsed=mine[0].dataset in self.rehearsed)

    def step(self, step: int) -> list[Batch]:
        """All forward passes of a step."""
        return [self.micro(step, number) for number in range(self.accumulate)]

    def steps(self, first: int, last: int) -> Iterator[list[Batch]]:
        """The steps `first` … `last` - 1, some of them prepared ahead."""
        if self.workers == 0:
            yield from map(self.step, range(first, last))
            return
        with ThreadPoolExecutor(self.workers, "feeder") as pool:
            queue: deque[list[Future[Batch]]] = deque()
            coming = iter(range(first, last))

            def ask(step: int) -> None:
                passes = range(self.accumulate)
                queue.append([pool.submit(self.micro, step, number) for number in passes])

            for _, step in zip(range(2), coming, strict=False):
                ask(step)
            while queue:
                ready = [future.result() for future in queue.popleft()]
                following = next(coming, None)
                if following is not None:
                    ask(following)
                yield ready
