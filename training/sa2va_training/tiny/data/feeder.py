# SPDX-License-Identifier: Apache-2.0
"""Batches made ahead by processes of their own, for devices that are quicker than one processor prepares pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

AHEAD = 4
"""Batches that each process keeps ready."""

T = TypeVar("T")


class BatchSource(Protocol):
    """Batches by their number."""

    def at(self, step: int) -> Any:
        """The batch of that number, a function of it alone."""


class _Numbered(IterableDataset[Any]):
    """`first`, `first + stride`, … for ever; every process makes each n-th of them."""

    def __init__(self, source: BatchSource, first: int, stride: int) -> None:
        self._source, self._first, self._stride = source, first, stride

    def __iter__(self) -> Iterator[Any]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        own, count = (worker.id, worker.num_workers) if worker else (0, 1)
        number = self._first + own * self._stride
        with torch.device("cpu"):
            while True:
                yield self._source.at(number)
                number += count * self._stride


class BatchLoader:
    """The batches of a run in their order.

    Args:
        processes: that prepare ahead; 0 = each batch is made when it is asked for.
        stride: between the numbers that are asked for.
    """

    def __init__(self, source: BatchSource, processes: int = 0, stride: int = 1) -> None:
        self._source, self._processes, self._stride = source, processes, stride
        self._ready: Iterator[Any] | None = None
        self._next = -1

    def at(self, number: int) -> Any:
        """The batch of that number, on the CPU. Numbers are asked for in their order; another one starts anew."""
        if not self._processes:
            with torch.device("cpu"):
                return self._source.at(number)
        if self._ready is None or number != self._next:
            # Processes come back in turns, so that the order is that of the numbers.
            self._ready = iter(
                DataLoader(
                    _Numbered(self._source, number, self._stride),
                    batch_size=None,
                    num_workers=self._processes,
                    prefetch_factor=AHEAD,
                )
            )
        self._next = number + self._stride
        return next(self._ready)


def moved(batch: T, device: torch.device) -> T:
    """A batch (a dataclass, tuples and lists of tensors) with its tensors on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)  # type: ignore[return-value]
    if is_dataclass(batch) and not isinstance(batch, type):
        parts = {f.name: moved(getattr(batch, f.name), device) for f in fields(batch) if f.init}
        return replace(batch, **parts)
    if type(batch) in (tuple, list):
        return type(batch)(moved(item, device) for item in batch)  # type: ignore[return-value, call-arg, attr-defined]
    return batch
