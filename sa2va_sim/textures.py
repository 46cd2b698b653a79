# SPDX-License-Identifier: Apache-2.0
"""Procedural surfaces: wood, noise, tiles, grids, gradients, photo-like blobs. Used by both painters."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

_EARTH = np.array(  # RGB; tables, walls and floors as rooms have them
    [[150, 105, 65], [190, 150, 105], [110, 75, 50], [215, 195, 165], [165, 165, 160], [225, 225, 220], [90, 92, 96],
     [60, 62, 66], [205, 180, 140], [130, 140, 135], [235, 232, 225], [175, 130, 90]], np.float32,
)  # fmt: skip


def backdrop_colour(rng: np.random.Generator, vivid: float = 0.15) -> np.ndarray:
    """A plausible surface colour, float32 [3] RGB; with probability `vivid` any colour, as of a table cloth."""
    if rng.random() < vivid:
        return rng.uniform(20, 235, 3).astype(np.float32)
    base = _EARTH[int(rng.integers(len(_EARTH)))] * rng.uniform(0.7, 1.15)
    return np.clip(base + rng.uniform(-14, 14, 3), 8, 250).astype(np.float32)


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cells: tuple[int, int], channels: int = 1
) -> np.ndarray:
    """Interpolated noise of standard deviation about one, float32 [height, width, channels]."""
    small = rng.standard_normal((max(2, cells[0]), max(2, cells[1]), channels), dtype=np.float32)
    big = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return big.reshape(height, width, channels)


def _plain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    cells = int(rng.choice((3, 6, 12, 24)))
    return backdrop_colour(rng) + rng.uniform(1, 10) * smooth_noise(
        rng, height, width, (cells, cells)
    )


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    first, second, angle = backdrop_colour(rng), backdrop_colour(rng), rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    along = (columns / width - 0.5) * np.cos(angle) + (rows / height - 0.5) * np.sin(angle) + 0.5
    weight = np.clip(along, 0, 1)[..., None].astype(np.float32)
    return first * (1 - weight) + second * weight


def _wood(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    base = _EARTH[int(rng.choice((0, 1, 2, 3, 8, 11)))] * rng.uniform(0.75, 1.15)
    across, along = int(rng.integers(20, 70)), int(rng.integers(2, 5))
    grain = smooth_noise(rng, height, width, (across, along)) + 0.7 * smooth_noise(
        rng, height, width, (7, 2)
    )
    image = base + rng.uniform(5, 16) * grain * np.array([1.0, 0.85, 0.65], np.float32)
    planks = int(rng.integers(0, 7))
    for edge in np.linspace(0, height, planks + 1)[1:-1] if planks > 1 else ():
        image[int(edge) : int(edge) + max(1, height // 160)] *= 0.7
    return (
        np.ascontiguousarray(image.transpose(1, 0, 2))
        if height == width and rng.random() < 0.4
        else image
    )


def _tiles(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    first = backdrop_colour(rng)
    second = first * rng.uniform(0.55, 0.9) if rng.random() < 0.7 else backdrop_colour(rng)
    cell = max(4, int(width * rng.uniform(0.04, 0.2)))
    rows, columns = np.arange(height)[:, None] // cell, np.arange(width)[None] // cell
    odd = ((rows + columns) % 2)[..., None].astype(np.float32)
    return first * (1 - odd) + second * odd


def _grid(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = np.empty((height, width, 3), np.float32)
    image[:] = backdrop_colour(rng)
    line = backdrop_colour(rng)
    cell = max(5, int(width * rng.uniform(0.03, 0.12)))
    thick = max(1, int(width * rng.uniform(0.003, 0.01)))
    for offset in range(thick):
        image[offset::cell] = line
        image[:, offset::cell] = line
    return image


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), width * rng.uniform(0.04, 0.16)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * (2 * np.pi / period))
    base = backdrop_colour(rng)
    return base * (1 + rng.uniform(0.05, 0.22) * np.sign(wave)[..., None])


def _blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coloured noise of falling amplitude: what a room out of focus looks like."""
    image = np.empty((height, width, 3), np.float32)
    image[:] = backdrop_colour(rng)
    strength = rng.uniform(15, 45)
    for cells in (2, 4, 9, 20):
        grey = smooth_noise(rng, height, width, (cells, cells))
        colour = smooth_noise(rng, height, width, (cells, cells), 3)
        image += strength * (0.8 * grey + 0.5 * colour)
        strength *= 0.55
    return image


_PATTERNS: tuple[tuple[Callable[[np.random.Generator, int, int], np.ndarray], float], ...] = (
    (_plain, 0.20), (_gradient, 0.12), (_wood, 0.26), (_tiles, 0.08), (_grid, 0.08), (_stripes, 0.06), (_blobs, 0.20),
)  # fmt: skip


def surface(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random surface, float32 [height, width, 3] RGB in 0..255."""
    weights = np.array([weight for _, weight in _PATTERNS])
    pattern = _PATTERNS[int(rng.choice(len(_PATTERNS), p=weights / weights.sum()))][0]
    image = np.broadcast_to(pattern(rng, height, width), (height, width, 3))
    return np.clip(image, 0, 255).astype(np.float32)
