# SPDX-License-Identifier: Apache-2.0
"""Which colour words fit a surface: wider ranges than the toy world's, brown and grey, and none where none is sure."""

from __future__ import annotations

import cv2
import numpy as np

from sa2va_sim.catalogue.meshes import Surface
from sa2va_sim.words.vocabulary import COLOURS

EXTRA_COLOURS = ("brown", "grey")
NAMES = (*COLOURS, *EXTRA_COLOURS)
MAIN, SOME = 0.6, 0.1  # shares of the area: the object's colour, and one that some would name
# (first hue, last hue, least saturation, least value, most value), hue in degrees; the first that fits.
_HUES: tuple[tuple[str, float, float, float, float, float], ...] = (
    ("brown", 8, 42, 0.25, 0.15, 0.66),
    ("pink", 325, 372, 0.15, 0.75, 1.01),
    ("pink", 295, 330, 0.2, 0.5, 1.01),
    ("red", 345, 370, 0.55, 0.2, 1.01),
    ("orange", 14, 40, 0.6, 0.66, 1.01),
    ("yellow", 42, 66, 0.4, 0.5, 1.01),
    ("green", 70, 165, 0.2, 0.12, 1.01),
    ("cyan", 168, 195, 0.3, 0.4, 1.01),
    ("blue", 198, 252, 0.25, 0.15, 1.01),
    ("purple", 255, 294, 0.2, 0.15, 1.01),
)


def colour_names(rgb: np.ndarray) -> np.ndarray:
    """Index in `NAMES` of colours uint8 [N, 3]; -1 = no word is sure."""
    hsv = cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0]
    hue, saturation, value = hsv.T
    found = np.full(len(rgb), -1)

    def put(name: str, where: np.ndarray) -> None:
        found[where & (found < 0)] = NAMES.index(name)

    put("black", (value < 0.2) & (saturation * value < 0.1))
    put("white", (value > 0.8) & (saturation < 0.12))
    put("grey", (saturation < 0.12) & (value > 0.25) & (value < 0.72))
    put("red", ((hue > 345) | (hue < 10)) & (saturation > 0.6) & (value > 0.25))
    for name, first, last, least, dark, bright in _HUES:
        inside = ((hue >= first) & (hue <= last)) | (hue + 360 <= last)
        put(name, inside & (saturation >= least) & (value >= dark) & (value < bright))
    return found


def shares(surfaces: tuple[Surface, ...]) -> dict[str, float]:
    """How much of the area has which colour; what has none is left out."""
    total, area_of = 0.0, dict.fromkeys(NAMES, 0.0)
    for surface in surfaces:
        corners = surface.vertices[surface.faces]
        area = 0.5 * np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
        )
        height, width = surface.texture.shape[:2]
        total += float(area.sum())
        for weights in ((1 / 3, 1 / 3, 1 / 3), (0.6, 0.2, 0.2), (0.2, 0.6, 0.2), (0.2, 0.2, 0.6)):
            at = np.einsum("fkc,k->fc", surface.places[surface.faces], weights)
            columns = np.floor(at[:, 0] * width).astype(int) % width
            rows = np.floor((1 - at[:, 1]) * height).astype(int) % height
            names = colour_names(surface.texture[rows, columns])
            for k in np.unique(names[names >= 0]):
                area_of[NAMES[k]] += float(area[names == k].sum()) / 4
    return {name: area / max(total, 1e-12) for name, area in area_of.items() if area > 0}


def spoken(surfaces: tuple[Surface, ...]) -> tuple[str, tuple[str, ...]]:
    """The colour that everybody would say ("" = none), and those that somebody might."""
    found = shares(surfaces)
    best = max(found, key=lambda name: found[name], default="")
    main = best if best and found[best] >= MAIN else ""
    return main, tuple(name for name, share in found.items() if share >= SOME and name != main)
