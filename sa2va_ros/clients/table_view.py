# SPDX-License-Identifier: Apache-2.0
"""What stands on the table, in `world`: depth images, masks and the camera's place put together."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image

from sa2va_ros.messages.clouds import matrix_from_transform
from sa2va_ros.messages.images import array_from_image, depth_from_image, nanoseconds
from sa2va_ros.space.cameras import camera_from_info
from sa2va_ros.support.deadline import Deadline
from sa2va_ros.support.qos import NEWEST_IMAGE, reliable

if TYPE_CHECKING:
    from rclpy.node import Node

DEPTH_SECONDS = 5.0  # to wait for the first depth image
WORKSPACE = 0.5  # metres around the origin of `world`


class Refusal(Exception):  # noqa: N818
    """The attempt ends, with a cause: not found, unsure, lost, bad 3D, no room, slipped or error."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class TableView:
    """Listens to `depth`, `mask`, `camera_info` and `camera_transform`.

    Args:
        stop_requested: set when whoever waits should give up.
    """

    def __init__(self, node: Node, stop_requested: threading.Event) -> None:
        self._node, self._stop_requested = node, stop_requested
        self._depths: deque[Image] = deque(maxlen=10)
        self._masks: deque[Image] = deque(maxlen=10)
        self._info: Any = None
        self._transform: TransformStamped | None = None
        options = QoSOverridingOptions.with_default_policies()
        node.create_subscription(
            Image, "depth", self._on_depth, NEWEST_IMAGE, qos_overriding_options=options
        )
        node.create_subscription(Image, "mask", self._on_mask, reliable(2))
        node.create_subscription(CameraInfo, "camera_info", self._on_info, NEWEST_IMAGE)
        node.create_subscription(
            TransformStamped, "camera_transform", self._on_transform, reliable(5, latched=True)
        )

    def _on_depth(self, message: Image) -> None:
        self._depths.append(message)

    def _on_mask(self, message: Image) -> None:
        self._masks.append(message)

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_transform(self, message: TransformStamped) -> None:
        self._transform = message

    def world_from(self, frame: str) -> np.ndarray:
        """The transform [4, 4] from a frame to `world`.

        Raises:
            Refusal: it is not known.
        """
        known = self._transform
        if known is not None and frame == known.header.frame_id:
            return np.eye(4)
        if known is None or frame != known.child_frame_id:
            raise Refusal("error", f"where '{frame}' is was not told on camera_transform")
        return matrix_from_transform(known.transform)

    def scene_points(self) -> tuple[np.ndarray, np.ndarray]:
        """All points above the table on the newest depth image, [N, 3] in `world`, and the camera's place [3].

        Raises:
            Refusal: there is no depth image or no camera_info.
        """
        deadline = Deadline(self._node, DEPTH_SECONDS)
        while not self._depths or self._info is None:
            if deadline.passed or self._stop_requested.is_set():
                raise Refusal("error", "no depth image or no camera_info")
            time.sleep(0.02)
        points, eye = self._points(self._depths[-1], None)
        return points[points[:, 2] > 0.008], eye

    def mask_points(self, value: int) -> np.ndarray:
        """The points under one value of the newest `mask` that has a depth image, [N, 3] in `world`; maybe none."""
        depths = {nanoseconds(depth.header.stamp): depth for depth in list(self._depths)}
        for mask in reversed(list(self._masks)):
            depth = depths.get(nanoseconds(mask.header.stamp))
            if depth is not None and self._info is not None:
                inside = (array_from_image(mask) == value).astype(np.uint8)
                # Without the outermost pixels, which lie half on what is behind.
                return self._points(depth, cv2.erode(inside, np.ones((3, 3), np.uint8)) > 0)[0]
        return np.zeros((0, 3))

    def _points(self, depth: Image, inside: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        metres = depth_from_image(depth)
        camera = camera_from_info(self._info)
        world = self.world_from(depth.header.frame_id)
        measured = np.isfinite(metres) & (metres > 0.05) & (metres < 3.0)
        if inside is not None and inside.shape == metres.shape:
            measured &= inside
        rows, columns = np.nonzero(measured)
        points = camera.rays(columns, rows) * metres[rows, columns].astype(np.float64)[:, None]
        points = points @ world[:3, :3].T + world[:3, 3]
        return points[(np.abs(points[:, :2]) < WORKSPACE).all(1)], world[:3, 3]
