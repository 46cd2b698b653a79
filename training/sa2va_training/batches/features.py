# SPDX-License-Identifier: Apache-2.0
"""Features of frozen encoders, computed once and kept in memory as far as it reaches.

What is kept is what comes right before the first trained layer: the vision model's tokens before the projector, and
SAM-2's pyramid before the decoder's own convolutions. A key names the picture and how it was disturbed, so that the
same key is the same pixels; a picture without a key is never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sa2va_training.batches.patches import Pictures

Features = tuple[Tensor, ...]


class FeatureStore:
    """Rows of features by key, in the CPU's memory.

    Args:
        limit: bytes; once they are used nothing more is kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.hits = 0
        self._rows: dict[str, Features] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def get(
        self, keys: Sequence[str], pixels: Pictures, compute: Callable[[Pictures], Features]
    ) -> Features:
        """Features of pictures [B, …], those that are known from memory.

        Rows are computed one by one where any is kept, so that a row is the same number for number whether it was
        computed just now, earlier, or beside others.

        Args:
            pixels: B pictures.
            compute: pictures to tensors whose rows are in their order.
        """
        if self.limit <= 0 or not all(keys):
            return compute(pixels)
        rows = [self._row(key, pixels[i : i + 1], compute) for i, key in enumerate(keys)]
        return tuple(
            torch.cat([row[n].to(pixels.device, non_blocking=True) for row in rows])
            for n in range(len(rows[0]))
        )

    def _row(self, key: str, pixels: Pictures, compute: Callable[[Pictures], Features]) -> Features:
        known = self._rows.get(key)
        if known is not None:
            self.hits += 1
            return known
        found = tuple(tensor.detach().to("cpu") for tensor in compute(pixels))
        size = sum(tensor.numel() * tensor.element_size() for tensor in found)
        if self.used + size <= self.limit:
            self._rows[key] = found
            self.used += size
        return found
