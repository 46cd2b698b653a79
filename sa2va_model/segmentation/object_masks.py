# SPDX-License-Identifier: Apache-2.0
"""Masks of single objects: cut out of one mask that covers several, painted over to look for further ones."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

MARGIN = 9  # pixels by which an object is painted over beyond its mask
SURROUNDINGS = 25  # pixels around it, whose median colour it is given
REST = 0.3  # of the object cut out last: less of a mask than that is no further object
SAME = 0.5  # of the smaller of two masks, from which on they are one object


def objects_in(
    mask: np.ndarray,
    at_point: Callable[[float, float], np.ndarray | None],
    least: float,
    most: int,
) -> list[np.ndarray]:
    """Cut a mask into objects.

    An object is what the segmenter sees at the deepest point of what is left of the mask: parts of one object that
    something hides in the middle stay together, and things that touch come apart, as far as it knows better.

    Args:
        mask: bool [H, W].
        at_point: the object at x, y in pixels, bool [H, W].
        least: pixels of an object.
        most: objects.

    Returns:
        bool [H, W] each.
    """
    rest, found = mask.copy(), list[np.ndarray]()
    while len(found) < most and rest.sum() >= max(least, REST * found[-1].sum() if found else 1):
        blob, point = _largest_blob(rest)
        thing = at_point(*point)
        if thing is None or not _one_of(thing, blob):
            thing = blob
        if not any(same_object(thing, other) for other in found):
            found.append(thing)
        rest &= ~_grown(thing, MARGIN)
        rest[int(point[1]), int(point[0])] = False  # every turn takes something away
    return found


def _one_of(thing: np.ndarray, blob: np.ndarray) -> bool:
    """Whether a thing is what a part of a mask shows, or one of those that touch there."""
    return bool((thing & blob).sum() >= REST * min(thing.sum(), blob.sum()) > 0)


def painted_over(rgb: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """Return a copy of an image in which objects have the colour of what surrounds them."""
    picture = rgb.copy()
    for mask in masks:
        area = _grown(mask, MARGIN)
        around = _grown(area, SURROUNDINGS) & ~area
        picture[area] = np.median(picture[around], axis=0) if around.any() else 128
    return picture


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    grown: np.ndarray = cv2.dilate(mask.astype(np.uint8), np.ones((pixels, pixels), np.uint8)) > 0
    return grown


def _largest_blob(mask: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The largest connected part of a mask, and its point that is farthest from its edge."""
    _, labels, sizes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    blob: np.ndarray = labels == 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax())
    depth = cv2.distanceTransform(np.pad(blob, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return blob, (float(x), float(y))


def same_object(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two masks, bool [H, W], are of one object: the smaller lies on the other."""
    return bool((one & other).sum() > SAME * min(one.sum(), other.sum()))
