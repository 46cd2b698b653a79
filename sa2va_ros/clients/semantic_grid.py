# SPDX-License-Identifier: Apache-2.0
"""A map of classes on the floor, from what the tracker finds: the recipe for semantic costmaps, as a normal ROS client.

    semantic_grid   nav_msgs/OccupancyGrid in `frame`, 0..100: how sure something that has a class stands there

It takes in what Nav2's semantic_segmentation_layer takes in, in the same way: `class_mask`, `class_confidence` and the
points of the same stamp (here from `depth`, there from a PointCloud2); of one cell the surest pixel of an image counts,
and a cell is forgotten after `decay` seconds. With Nav2 use that layer: config/nav2/semantic_costmap.yaml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from sa2va_model.errors import InputError
from sa2va_ros.clients.message_filters import synchronise
from sa2va_ros.messages.clouds import matrix_from_transform
from sa2va_ros.messages.images import array_from_image, depth_from_image, nanoseconds
from sa2va_ros.space.cameras import camera_from_info
from sa2va_ros.support.parameter import Parameter, declare
from sa2va_ros.support.qos import SENSOR_QUEUE, reliable
from sa2va_ros.support.spinning import serve

if TYPE_CHECKING:
    from sa2va_ros.space.cameras import Camera

TABLE = (
    Parameter(
        "size", 2.0, "Side of the map around the origin of its frame, metres.", span=(0.1, 100.0)
    ),
    Parameter("resolution", 0.02, "Side of a cell, metres.", span=(0.005, 1.0)),
    Parameter(
        "decay",
        5.0,
        "Seconds after which a cell that is not seen again is free.",
        span=(0.1, 3600.0),
    ),
    Parameter(
        "class_number", 0, "Value of `class_mask` that is marked; 0 = any but 0.", span=(0, 255)
    ),
    Parameter("min_height", 0.01, "Points below are the floor, metres.", span=(-10.0, 10.0)),
)


class Grid:
    """Cells [N, N] around an origin; no ROS.

    Args:
        size, resolution: of the map and of a cell, metres.
        decay: seconds for which a cell is remembered.
    """

    def __init__(self, size: float, resolution: float, decay: float) -> None:
        self.cells = max(1, round(size / resolution))
        self.resolution, self._decay = resolution, decay
        self._value = np.zeros((self.cells, self.cells))
        self._seen = np.full((self.cells, self.cells), -np.inf)

    def add(self, points: np.ndarray, confidence: np.ndarray, time: float) -> None:
        """Points [N, 2] or [N, 3] in the map's frame with their confidence [N] in 0..1, at a time in seconds."""
        places = np.floor(points[:, :2] / self.resolution + self.cells / 2).astype(int)
        inside = ((places >= 0) & (places < self.cells)).all(1)
        columns, rows = places[inside].T
        newest = np.zeros_like(self._value)
        np.maximum.at(newest, (rows, columns), confidence[inside])
        marked = newest > 0
        self._value[marked], self._seen[marked] = newest[marked], time

    def values(self, time: float) -> np.ndarray:
        """Int8 [N, N] in 0..100, as an OccupancyGrid has it, at a time in seconds."""
        kept = np.where(time - self._seen <= self._decay, self._value, 0.0)
        return np.rint(100 * kept).astype(np.int8)


class SemanticGrid(Node):
    """One camera, whose place is told on `camera_transform` (with tf2: a lookup at the stamp)."""

    def __init__(self) -> None:
        super().__init__("semantic_grid")
        declare(self, TABLE)
        self._grid = Grid(*(self._value(name) for name in ("size", "resolution", "decay")))
        self._info: Any = None
        self._place: TransformStamped | None = None
        self._publisher = self.create_publisher(OccupancyGrid, "semantic_grid", reliable(1))
        self.create_subscription(CameraInfo, "camera_info", self._on_info, SENSOR_QUEUE)
        self.create_subscription(
            TransformStamped, "camera_transform", self._on_place, reliable(5, latched=True)
        )
        topics = ("class_mask", "class_confidence", "depth")
        self._paired = synchronise(
            self, [(Image, topic, reliable(30)) for topic in topics], self._take
        )

    def close(self) -> None:
        """Nothing is at work beside the executor."""

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_place(self, message: TransformStamped) -> None:
        self._place = message

    def _take(self, mask: Image, confidence: Image, depth: Image) -> None:
        if self._info is None or self._place is None:
            return
        time = nanoseconds(mask.header.stamp) / 1e9
        try:
            camera = camera_from_info(self._info)
            points, sure = marked_points(
                array_from_image(mask),
                array_from_image(confidence),
                depth_from_image(depth),
                camera,
                self._value("class_number"),
            )
        except InputError as error:
            self.get_logger().warning(f"images not used: {error}", throttle_duration_sec=1.0)
            return
        world = matrix_from_transform(self._place.transform)
        points = points @ world[:3, :3].T + world[:3, 3]
        above = points[:, 2] >= self._value("min_height")
        self._grid.add(points[above], sure[above], time)
        self._publisher.publish(self._message(mask, time))

    def _message(self, mask: Image, time: float) -> OccupancyGrid:
        message = OccupancyGrid()
        assert self._place is not None
        message.header.stamp, message.header.frame_id = (
            mask.header.stamp,
            self._place.header.frame_id,
        )
        info, grid = message.info, self._grid
        info.resolution, info.width, info.height = grid.resolution, grid.cells, grid.cells
        info.origin.position.x = info.origin.position.y = -grid.cells * grid.resolution / 2
        info.origin.orientation.w = 1.0
        message.data = grid.values(time).ravel().tolist()
        return message


def marked_points(
    mask: np.ndarray, confidence: np.ndarray, metres: np.ndarray, camera: Camera, number: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The points [N, 3] of a class (0: of any) in the camera's frame, and how sure each is, 0..1.

    Args:
        mask, confidence: uint8 [H, W].
        metres: float32 [H, W], NaN = not measured.

    Raises:
        InputError: they are of different sizes.
    """
    if not mask.shape == confidence.shape == metres.shape:
        raise InputError(
            f"class_mask is {mask.shape}, class_confidence {confidence.shape}, depth {metres.shape}; "
            "expected one size"
        )
    marked = mask == number if number else mask > 0
    rows, columns = np.nonzero(marked & np.isfinite(metres))
    points = camera.rays(columns, rows) * metres[rows, columns].astype(np.float64)[:, None]
    return points, confidence[rows, columns] / 255.0


def main(args: list[str] | None = None) -> int:
    """Run the node until it is asked to stop; the exit status is 2 if it could not start."""
    return serve("semantic_grid", lambda _: SemanticGrid(), args)


if __name__ == "__main__":
    raise SystemExit(main())
