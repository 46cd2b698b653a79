# SPDX-License-Identifier: Apache-2.0
"""Memories that are lent and come back, so that what was captured with one serves the next clip as well."""

from __future__ import annotations

import weakref
from collections import defaultdict
from typing import TYPE_CHECKING

from sa2va_model.segmentation.backends.fused.cuda_graphs import bucket
from sa2va_model.segmentation.memory_bank import MemoryBank

if TYPE_CHECKING:
    from sa2va_model.segmentation.sam2 import Sam2

KEPT = 2
"""Banks of one size that wait for the next user."""


class BankPool:
    """Lends the memories of one segmenter.

    Args:
        segmenter: that reads and writes them; it owns the pool.
    """

    def __init__(self, segmenter: Sam2) -> None:
        self._segmenter = weakref.ref(segmenter)
        self._free: dict[tuple[int, int, int], list[MemoryBank]] = defaultdict(list)

    def lend(
        self, user: object, rows: int, max_conditioning: int, distractor_slots: int
    ) -> MemoryBank:
        """An empty memory for at least so many objects, until `user` is no more."""
        segmenter = self._segmenter()
        assert segmenter is not None, "the pool belongs to a segmenter"
        size = (bucket(rows), max_conditioning, distractor_slots)
        free = self._free[size]
        try:
            bank = free.pop()
        except IndexError:
            bank = MemoryBank(segmenter, *size)
        else:
            bank.reset()
        weakref.finalize(user, _give_back, free, bank).atexit = False
        return bank


def _give_back(free: list[MemoryBank], bank: MemoryBank) -> None:
    if len(free) < KEPT:
        free.append(bank)
