# SPDX-License-Identifier: Apache-2.0
"""Where an object's box should be next (a Kalman filter after SAMURAI, arXiv 2411.11922), and whether the camera moves.

The filter takes constant velocity of centre, width and height, each for itself; all objects are one batch. It means
nothing while the camera moves, so it is switched off then.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

STABLE = 15  # frames in a row with a trusted mask before the filter is asked
_PROCESS, _SPEED, _MEASURED = 0.05, 0.00625, 0.05  # of the box's height, as in SORT and SAMURAI


def boxes(logits: Tensor) -> Tensor:
    """Boxes of masks.

    Args:
        logits: [N, 1, H, W].

    Returns:
        float32 [N, 4], x0, y0, x1, y1 as fractions of the image; zeros for an empty mask.
    """
    mask = (logits > 0)[:, 0]
    sides = []
    for axis in (1, 2):  # columns, then rows
        line = mask.any(dim=axis).float()
        count = line.shape[1]
        index = torch.arange(count, device=line.device, dtype=torch.float32)
        low = torch.where(line > 0, index, count).amin(1)
        high = torch.where(line > 0, index + 1, 0).amax(1)
        empty = high <= 0
        sides.append((torch.where(empty, 0, low / count), torch.where(empty, 0, high / count)))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=1)


def box_overlaps(one: Tensor, other: Tensor) -> Tensor:
    """IoU of N pairs of boxes: [..., 4] and [..., 4] to [...]."""
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    sizes = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, other)]
    return common / (sizes[0] + sizes[1] - common).clamp(min=1e-9)


class BoxFilter:
    """Kalman filters for the boxes of a fixed number of objects.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._mean = torch.zeros(rows, 4, 2, device=device)  # value and speed of cx, cy, w, h
        self._variance = torch.zeros(rows, 4, 2, 2, device=device)
        self._step = torch.tensor([[1.0, 1.0], [0.0, 1.0]], device=device)  # one frame on
        self._known = torch.zeros(rows, dtype=torch.bool, device=device)
        self._stable = torch.zeros(rows, dtype=torch.long, device=device)

    def forget(self, row: int) -> None:
        """The row belongs to another object, or the camera has moved."""
        self._known[row] = False
        self._stable[row] = 0

    def forget_all(self) -> None:
        """The camera moves."""
        self._known[:] = False
        self._stable[:] = 0

    def predict(self, rows: Tensor) -> Tensor:
        """One frame on; the boxes to expect, float32 [N, 4]."""
        step = self._step
        mean, variance = self._mean[rows], self._variance[rows]
        mean = mean @ step.T
        size = mean[:, 3, 0].clamp(min=0.01)
        noise = torch.stack([(_PROCESS * size) ** 2, (_SPEED * size) ** 2], dim=1)
        variance = step @ variance @ step.T + torch.diag_embed(noise)[:, None]
        self._mean[rows], self._variance[rows] = mean, variance
        return _corners(mean[..., 0])

    def ready(self, rows: Tensor) -> Tensor:
        """Which filters have followed their object for long enough to be asked: bool [N]."""
        return self._known[rows] & (self._stable[rows] >= STABLE)

    def update(self, rows: Tensor, box: Tensor, trusted: Tensor) -> None:
        """What was seen.

        Args:
            box: float32 [N, 4]; trusted: bool [N], others only lose their stability.
        """
        seen = torch.stack(
            [
                (box[:, 0] + box[:, 2]) / 2,
                (box[:, 1] + box[:, 3]) / 2,
                box[:, 2] - box[:, 0],
                box[:, 3] - box[:, 1],
            ],
            dim=1,
        )
        mean, variance, known = self._mean[rows], self._variance[rows], self._known[rows]
        size = seen[:, 3].clamp(min=0.01)
        noise = ((_MEASURED * size) ** 2)[:, None]  # [N, 1]
        gain = variance[..., 0] / (variance[..., 0, 0] + noise)[..., None]  # [N, 4, 2]
        new_mean = mean + gain * (seen - mean[..., 0])[..., None]
        new_variance = variance - gain[..., None] * variance[..., 0, :][..., None, :]
        first = torch.stack([seen, torch.zeros_like(seen)], dim=-1)
        wide = torch.stack([(2 * _PROCESS * size) ** 2, (10 * _SPEED * size) ** 2], dim=1)
        new_mean = torch.where(known[:, None, None], new_mean, first)
        fresh = torch.diag_embed(wide)[:, None].expand_as(variance)
        new_variance = torch.where(known[:, None, None, None], new_variance, fresh)
        keep = trusted[:, None, None]
        self._mean[rows] = torch.where(keep, new_mean, mean)
        self._variance[rows] = torch.where(keep[..., None], new_variance, variance)
        self._known[rows] = known | trusted
        self._stable[rows] = torch.where(trusted, self._stable[rows] + 1, 0)


def _corners(middle: Tensor) -> Tensor:
    """[N, 4] of centre and size to corners."""
    half = middle[:, 2:].clamp(min=0) / 2
    return torch.cat([middle[:, :2] - half, middle[:, :2] + half], dim=1)


class CameraMotion:
    """Whether the camera moves, from the median shift of corners between two frames.

    Args:
        limit: median shift in fractions of the image's width per frame from which on it counts as moving.
        calm: frames without a shift after which it counts as still again.
    """

    def __init__(self, limit: float = 0.004, calm: int = 3) -> None:
        self._limit, self._calm = limit, calm
        self._last: np.ndarray | None = None
        self._still = calm
        self.shift = 0.0

    def update(self, rgb: np.ndarray) -> bool:
        """One frame, uint8 [H, W, 3]; about a millisecond."""
        small = cv2.resize(rgb, (160, 120), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        last, self._last = self._last, grey
        self.shift = 0.0 if last is None else _median_shift(last, grey)
        self._still = 0 if self.shift > self._limit else self._still + 1
        return self._still < self._calm


def _median_shift(before: np.ndarray, after: np.ndarray) -> float:
    """Median length of the motion of corners, as a fraction of the image's width; 0 where there are too few."""
    # Spread over the image, so that one large moving object is not the majority.
    corners = cv2.goodFeaturesToTrack(before, 80, 0.01, 8)
    if corners is None or len(corners) < 8:
        return 0.0
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.empty_like(corners))
    kept = found.ravel() > 0
    if kept.sum() < 8:
        return 1.0  # nothing of the last image is found again
    steps = np.linalg.norm((moved - corners).reshape(-1, 2)[kept], axis=1)
    return float(np.median(steps)) / before.shape[1]
