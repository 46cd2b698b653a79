# SPDX-License-Identifier: Apache-2.0
"""The box around points: how it stands, how large it is, how sure its axes are. NumPy and OpenCV only."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Box:
    """A box: `rotation` [3, 3] has its axes as columns, `size` [3] its edges along them."""

    centre: np.ndarray
    rotation: np.ndarray
    size: np.ndarray


def oriented_box(points: np.ndarray, up: np.ndarray | None = None) -> Box:
    """The box around points [N, 3]; its first axis is the longest (horizontal) one.

    Args:
        up: the last axis, and the other two give the smallest rectangle. Without it the axes are
            those of the points' spread.

    Axes point the way that agrees most with x, y and z of the frame, so that they do not flip.
    """
    axes = _principal_axes(points) if up is None else _upright_axes(points, up)
    along = (points - points.mean(axis=0)) @ axes
    low, high = np.percentile(along, [0.5, 99.5], axis=0)
    if up is not None and high[0] - low[0] < high[1] - low[1]:
        axes = np.column_stack([axes[:, 1], -axes[:, 0], axes[:, 2]])
        low, high = _quarter_turned(low), _quarter_turned(high)
        low, high = np.minimum(low, high), np.maximum(low, high)
    centre = points.mean(axis=0) + axes @ ((low + high) / 2)
    return Box(centre, _settled(axes, up is not None), high - low)


def grown(
    box: Box, eroded: int, centroid: np.ndarray, transform: np.ndarray | None, focal: float
) -> Box:
    """The box with the mask's edge given back, across the line of sight.

    Args:
        eroded: pixels that were taken off; `focal` in pixels.
        transform: [4, 4] from the camera's frame to the box's.
    """
    eye = np.zeros(3) if transform is None else transform[:3, 3]
    distance = np.linalg.norm(centroid - eye)
    ray = (centroid - eye) / distance
    across = np.sqrt(np.maximum(0.0, 1.0 - (ray @ box.rotation) ** 2))
    margin = eroded * distance / focal
    return Box(box.centre, box.rotation, box.size + 2 * margin * across)


def _quarter_turned(ends: np.ndarray) -> np.ndarray:
    return np.array([ends[1], -ends[0], ends[2]])


def _principal_axes(points: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(np.cov(points.T))
    axes: np.ndarray = vectors[:, np.argsort(values)[::-1]]
    return axes


def _upright_axes(points: np.ndarray, up: np.ndarray) -> np.ndarray:
    helper = np.eye(3)[int(np.argmin(np.abs(up)))]
    first = np.cross(helper, up)
    first /= np.linalg.norm(first)
    second = np.cross(up, first)
    flat = np.column_stack([points @ first, points @ second]).astype(np.float32)
    flat -= flat.mean(axis=0)
    angle = np.deg2rad(cv2.minAreaRect(flat)[2])
    turned = np.cos(angle) * first + np.sin(angle) * second
    return np.column_stack([turned, np.cross(up, turned), up])


def _settled(axes: np.ndarray, upright: bool) -> np.ndarray:
    """The same axes with signs that do not jump from frame to frame; right-handed."""
    first = axes[:, 0] * (1.0 if axes[np.argmax(np.abs(axes[:, 0])), 0] >= 0 else -1.0)
    last = axes[:, 2]
    if not upright:
        last = last * (1.0 if last[np.argmax(np.abs(last))] >= 0 else -1.0)
    return np.column_stack([first, np.cross(last, first), last])


def rotation_covariance(
    points: np.ndarray, axes: np.ndarray, samples: float, noise: float
) -> np.ndarray:
    """[3, 3] of the box's axes: var(j, k) = v_j v_k / (n (v_j - v_k)^2), Anderson 1963.

    Axes with the same spread say nothing about their angle; at most (pi / 2)^2.

    Args:
        samples: n, the number of independent points.
        noise: deviation of a point in metres; no surface is known to be flatter.
    """
    spread = np.var((points - points.mean(axis=0)) @ axes, axis=0) + noise**2
    most = (np.pi / 2) ** 2
    turned = np.empty(3)
    for axis in range(3):
        j, k = (axis + 1) % 3, (axis + 2) % 3
        gap = (spread[j] - spread[k]) ** 2
        turned[axis] = min(spread[j] * spread[k] / (samples * gap), most) if gap > 0 else most
    covariance: np.ndarray = axes @ np.diag(turned) @ axes.T
    return covariance
