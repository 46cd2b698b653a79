# SPDX-License-Identifier: Apache-2.0
"""Depth images and camera_info that wait for the colour image they belong to. No ROS.

Messages are kept as they came and decoded only when an image asks for its partner. Depth must be
aligned to colour: same size, same frame. Nothing here ever stops the 2D side.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_ros.messages.clouds import camera_from_info
from sa2va_ros.messages.images import depth_from_image, nanoseconds
from sa2va_ros.space.mask_to_object import Camera

KEPT = 8  # depth images; more than a tracker's step takes at any camera's rate
RECENT = 1.0  # seconds without a depth image after which nobody waits for one any more


@dataclass(frozen=True)
class DepthFrame:
    """What belongs to one colour image.

    Attributes:
        metres: float32 [H, W], NaN = not measured.
    """

    metres: np.ndarray
    camera: Camera


class DepthBuffer:
    """The newest depth images and the newest camera_info; filled and asked from different threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._depths: deque[tuple[int, Any]] = deque(maxlen=KEPT)
        self._info: Any = None
        self._cameras: dict[bool, Camera] = {}  # of the info, by whether images are rectified
        self._arrived = float("-inf")
        self.received = 0

    def add_depth(self, message: Any) -> None:
        """Keep a depth image."""
        with self._changed:
            self.received += 1
            self._arrived = time.monotonic()
            self._depths.append((nanoseconds(message.header.stamp), message))
            self._changed.notify_all()

    def add_info(self, message: Any) -> None:
        """Keep a camera_info; a camera repeats the same one with every image."""
        with self._changed:
            same = self._info is not None and _content(message) == _content(self._info)
            self._info = message
            if not same:
                self._cameras = {}
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget the depth images, as when time jumps back."""
        with self._changed:
            self._depths.clear()

    def match(
        self,
        header: Any,
        size: tuple[int, int],
        *,
        slop: float = 0.0,
        wait: float = 0.0,
        rectified: bool = False,
    ) -> DepthFrame:
        """The depth of the colour image with that header and size (height, width).

        Args:
            slop: seconds by which stamps may differ; an equal stamp is preferred.
            wait: seconds to wait for a depth image that is on its way.
            rectified: the images are; see `camera_from_info`.

        Raises:
            InputError: there is none, it is of another size or frame, or it cannot be decoded.
        """
        stamp = nanoseconds(header.stamp)
        end = time.monotonic() + wait
        with self._changed:
            found = self._nearest(stamp, slop)
            while found is None and self._expected(stamp):
                if not self._changed.wait(end - time.monotonic()):
                    break
                found = self._nearest(stamp, slop)
            info, cameras = self._info, self._cameras
            if found is None:
                raise InputError(self._missing(stamp, slop))
        if info is None:
            raise InputError("no camera_info yet; expected one on the camera_info topic")
        _check_frames(header, found, info)
        if rectified not in cameras:
            cameras[rectified] = camera_from_info(info, rectified=rectified)
        camera = cameras[rectified]
        metres = depth_from_image(found)
        for what, (height, width) in (
            ("depth", metres.shape),
            ("camera_info", (camera.height, camera.width)),
        ):
            if (height, width) != size:
                raise InputError(
                    f"{what} is {width}x{height}; expected {size[1]}x{size[0]} as the image "
                    "(depth aligned to colour)"
                )
        return DepthFrame(metres, camera)

    def _nearest(self, stamp: int, slop: float) -> Any:
        best = min(self._depths, key=lambda kept: abs(kept[0] - stamp), default=None)
        return best[1] if best is not None and abs(best[0] - stamp) <= slop * 1e9 else None

    def _expected(self, stamp: int) -> bool:
        """Whether the depth of that stamp may still come: depth flows, and has not passed it."""
        flows = time.monotonic() - self._arrived < RECENT
        return flows and all(kept < stamp for kept, _ in self._depths)

    def _missing(self, stamp: int, slop: float) -> str:
        if not self._depths:
            return "no depth image; expected one on the depth topic"
        nearest = min((abs(kept - stamp), kept - stamp) for kept, _ in self._depths)[1]
        return (
            f"no depth image of the image's stamp; the nearest is {nearest / 1e9:+.3f} s away, "
            f"sync_slop is {slop:g} s"
        )


def _content(info: Any) -> tuple[Any, ...]:
    numbers = (tuple(info.k), tuple(info.d), tuple(info.p))
    return info.header.frame_id, info.height, info.width, info.distortion_model, *numbers


def _check_frames(header: Any, depth: Any, info: Any) -> None:
    """An empty frame says nothing and passes."""
    for what, other in (("depth", depth), ("camera_info", info)):
        frame = other.header.frame_id
        if frame and header.frame_id and frame != header.frame_id:
            raise InputError(
                f"{what} is in frame '{frame}'; expected '{header.frame_id}' as the image "
                "(depth aligned to colour)"
            )
