# SPDX-License-Identifier: Apache-2.0
"""Masks that end where the picture's things do, though the decoder draws cells of several pixels.

The fast guided filter (He and Sun 2015, "Fast Guided Filter", arXiv 1505.00996): around each cell a mask's logits are
taken for a linear function of the picture's colours, fitted to the cells nearby; its coefficients, which vary slowly,
are then brought to the size of the picture and applied to its pixels. What a fit leaves over is drawn as it is where
colours explain little: a white cup on a white cloth keeps the outline that the decoder gave it. Nothing is learnt. On
the host, where the picture is: of a mask on a GPU only the cells cross over.

Letters: N masks, h = w cells, H and W the picture's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

TOP = 3.0
"""Logits beyond it say no more than it does."""
_NOISE = 3e-5
"""Variance of a colour, of 1, that tells nothing."""
_LITTLE = 0.05
"""Variance of logits, of `TOP` squared, that needs no explanation."""
_DRAWN = 0.2
"""A part of a mask was drawn by the decoder to this share; a hole was left out to this share."""
_SAMPLES = 2
"""Pixels that a cell's colour is the mean of, to the side, at least; more than twice as many are skipped."""
_NEAR = np.ones((5, 5), np.uint8)
"""Farther from a cell that was marked nothing is marked."""
_NOTHING = np.array([0.0, 0.0, 0.0, -TOP], np.float32)[:, None, None]


def guided_masks(logits: np.ndarray, picture: np.ndarray, radius: int) -> np.ndarray:
    """Masks at the size of the picture, along its edges.

    Args:
        logits: float32 [N, h, w].
        picture: RGB uint8 [H, W, 3].
        radius: cells to each side that a fit sees.

    Returns:
        bool [N, H, W].
    """
    guide = _Guide.of(picture, logits.shape[1], radius)
    masks = np.zeros((len(logits), *picture.shape[:2]), bool)
    for cells, mask in zip(np.clip(logits, -TOP, TOP), masks, strict=True):
        _draw(guide.fit(cells), cells, picture, mask)
    return masks


@dataclass(frozen=True)
class _Guide:
    """What a picture tells of masks of its cells.

    Attributes:
        means: [h, h]; between it and its transpose maps become means over windows.
        colours: [3, h, w], 0..1; middle: the same, of windows.
        inverse: [3, 3, h, w], of the covariance of colours in a window.
    """

    means: np.ndarray
    colours: np.ndarray
    middle: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, picture: np.ndarray, side: int, radius: int) -> _Guide:
        """Of a picture [H, W, 3] as side x side cells."""
        means, colours = _means(side, radius), _colours(picture, side)
        middle = means @ colours @ means.T
        products = means @ (colours[:, None] * colours) @ means.T
        return cls(means, colours, middle, _inverse(products - middle[:, None] * middle))

    def fit(self, cells: np.ndarray) -> np.ndarray:
        """Logits [h, w] as linear functions of colour: three slopes and an offset for each cell, [4, h, w]."""
        level = self._mean(cells)
        shared = self._mean(cells * self.colours) - level * self.middle
        slope = (self.inverse * shared).sum(1)
        offset = level - (slope * self.middle).sum(0)
        spread = self._mean(cells * cells) - level * level
        explained = (slope * shared).sum(0) / (spread + _LITTLE)
        fits = self._mean(np.stack([*slope, offset, explained]))
        fit, doubt = fits[:4], (1 - fits[4]).clip(0, 1)
        left = cells - (fit[:3] * self.colours).sum(0) - fit[3]
        fit[3] += doubt**2 * left
        return fit

    def _mean(self, maps: np.ndarray) -> np.ndarray:
        means: np.ndarray = self.means @ maps @ self.means.T
        return means


def _inverse(spread: np.ndarray) -> np.ndarray:
    """The inverse of symmetric [3, 3, h, w], with noise on the diagonal so that there is one."""
    a, b, c = spread + _NOISE * np.eye(3, dtype=np.float32)[:, :, None, None]
    pairs = (b, c), (c, a), (a, b)
    adjugate = np.stack([np.cross(*pair, axis=0) for pair in pairs])
    inverse: np.ndarray = adjugate / (a * adjugate[0]).sum(0)
    return inverse


def _colours(picture: np.ndarray, side: int) -> np.ndarray:
    """What each cell shows on average: float32 [3, h, w], 0..1."""
    down, right = (max(pixels // (_SAMPLES * side), 1) for pixels in picture.shape[:2])
    few = np.ascontiguousarray(picture[down // 2 :: down, right // 2 :: right])
    means = cv2.resize(few, (side, side), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(means.transpose(2, 0, 1), np.float32) / 255


def _draw(fit: np.ndarray, cells: np.ndarray, picture: np.ndarray, mask: np.ndarray) -> None:
    """Writes what a fit [4, h, w] says of the picture's pixels, near what was drawn, to `mask` [H, W]."""
    near = cv2.dilate((cells > 0).astype(np.uint8), _NEAR) > 0
    down, right = (_steps(pixels, len(cells)) for pixels in picture.shape[:2])
    y, x = _reach(near.max(1), down), _reach(near.max(0), right)
    if y.stop == 0:
        return
    fit = np.where(near, fit, _NOTHING)
    *slopes, shown, drawn = down[y] @ np.stack([*fit, cells]) @ right[x].T
    for colour, slope in enumerate(slopes):
        shown += slope * (picture[y, x, colour] * np.float32(1 / 255))
    kept = _agreed(shown > 0, drawn > 0)
    mask[y, x] = ~_agreed(~kept, drawn <= 0)  # holes are parts of what is not shown


def _agreed(shown: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The connected parts of a mask of which a share was drawn: grain that has the thing's colour is none of it."""
    count, parts = cv2.connectedComponents(shown.astype(np.uint8))
    sizes = np.bincount(parts.ravel(), minlength=count)
    good = np.bincount(parts[drawn], minlength=count) >= _DRAWN * sizes
    good[0] = False
    return good[parts]


def _reach(cells: np.ndarray, steps: np.ndarray) -> slice:
    """Pixels of a side that take anything of some cells: bool [h], [H, h]."""
    pixels = np.flatnonzero((steps[:, cells] > 0).any(1))
    return slice(int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else slice(0)


@lru_cache(maxsize=16)
def _means(side: int, radius: int) -> np.ndarray:
    """Means over windows, as a product: [side, side]; fewer cells at the ends."""
    place = np.arange(side)
    window = (np.abs(place[:, None] - place) <= radius).astype(np.float32)
    return window / window.sum(1, keepdims=True)


@lru_cache(maxsize=16)
def _steps(pixels: int, cells: int) -> np.ndarray:
    """Bilinear interpolation between the middles of cells, as a product: [pixels, cells]."""
    place = ((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5).clip(0, cells - 1)
    weights = 1 - np.abs(place[:, None] - np.arange(cells))
    return weights.clip(min=0).astype(np.float32)
