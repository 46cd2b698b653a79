# SPDX-License-Identifier: Apache-2.0
"""SAM-2's own prompts for objects: a click on it, or a box around it, as a careless user makes them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sa2va_training.tiny.data.batches import PictureBatch
from sa2va_training.tiny.data.scenes import BOX


def native_prompts(
    batch: PictureBatch, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Points [N, 2, 2] in pixels of a square of side `size`, and labels int32 [N, 2], for every target.

    A box, or one click and padding.

    Targets that are not there get a click anywhere; nothing should be learnt from their masks.
    """
    meant = batch.meant
    points = torch.zeros(len(meant), 2, 2)
    labels = torch.full((len(meant), 2), -1, dtype=torch.int32)
    masks = batch.masks(size).cpu().numpy()
    for i, row in enumerate(meant):
        if rng.random() < 0.5:
            centre, extent = row[BOX][:2].numpy(), row[BOX][2:].numpy()
            extent = extent * (1 + 0.08 * rng.standard_normal(2))
            centre = centre + 0.04 * extent * rng.standard_normal(2)
            corners = np.stack([centre - extent / 2, centre + extent / 2])
            points[i] = torch.from_numpy(corners * size)
            labels[i] = torch.tensor([2, 3], dtype=torch.int32)
            continue
        inside = np.argwhere(masks[i])
        spot = inside[int(rng.integers(len(inside)))] if len(inside) else rng.integers(0, size, 2)
        points[i, 0] = torch.tensor([float(spot[1]) + 0.5, float(spot[0]) + 0.5])
        labels[i, 0] = 1
    return points, labels
