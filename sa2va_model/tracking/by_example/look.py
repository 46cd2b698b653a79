# SPDX-License-Identifier: Apache-2.0
"""ObjectLook: what a thing looks like, wherever it stands; two of them tell whether it may be the same thing.

A thing is cut out with what is around it, so that near and far ones compare. Its look is the mean of the language
model's visual tokens on it, against the rest of the cut, and its colours. What each is worth is in docs/benchmarks.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.object_check import cut_out

SIDES = 2.0  # of the thing that the cut shows
COLOUR_WEIGHT = 0.3
_BINS = 16  # of each of the two chroma axes, over the middle half of their range


@dataclass(frozen=True)
class ObjectLook:
    """What a thing looks like.

    Attributes:
        tokens: float32 [C], of length 1.
        colours: [256], shares of its pixels by chroma.
    """

    tokens: Tensor
    colours: np.ndarray

    def likeness(self, other: ObjectLook) -> float:
        """Return how alike two are: at most 1.3; the same thing has .85 and more, others mostly less."""
        shared = float(np.sqrt(self.colours * other.colours).sum())
        return float(self.tokens @ other.tokens) + COLOUR_WEIGHT * shared


@torch.inference_mode()
def look_of(model: Sa2VA, rgb: np.ndarray, mask: np.ndarray) -> ObjectLook:
    """Describe what is under a mask, bool [H, W], that is not empty."""
    cut, inside = cut_out(rgb, mask, SIDES)
    tokens = model.visual_tokens(cut).float()
    side = round(len(tokens) ** 0.5)
    grid = tokens[: side * side].T.reshape(-1, side, side)
    share = cv2.resize(inside.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    centred = grid - grid.mean((1, 2), keepdim=True)
    vector = (centred * torch.from_numpy(share).to(grid.device)).sum((1, 2))
    return ObjectLook(F.normalize(vector, dim=0).cpu(), _colours(rgb, mask))


def _colours(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[core if core.sum() >= 20 else mask]
    counts, _, _ = np.histogram2d(
        pixels[:, 1], pixels[:, 2], bins=_BINS, range=[[64, 192], [64, 192]]
    )
    shares: np.ndarray = (counts / max(counts.sum(), 1)).ravel()
    return shares
