# SPDX-License-Identifier: Apache-2.0
"""Where the objects are now, between the images: predicted TF frames and poses, while `tf_predict` is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.time import Time
from std_msgs.msg import Header

from sa2va_ros.messages.clouds import fill_pose
from sa2va_ros.node.pipeline import Pipeline
from sa2va_ros.space.prediction import HORIZON, predicted
from sa2va_ros.space.tf import TrackFrames
from sa2va_ros.support.qos import reliable
from sa2va_ros.support.ticker import Ticker

if TYPE_CHECKING:
    from rclpy.node import Node

PERIOD = 0.04  # seconds; a lookup that tolerates 0.1 s always finds the next one


class Predictions:
    """Published by the executor's thread; what is not seen on the newest image is not predicted."""

    def __init__(self, node: Node, pipeline: Pipeline) -> None:
        self._node, self._pipeline = node, pipeline
        self._frames: TrackFrames | None = None
        self._pose = node.create_publisher(PoseWithCovarianceStamped, "predicted_pose", reliable(5))
        self._ticker = Ticker(node, PERIOD, self._tick, wanted=self._wanted)

    def observe(self) -> None:
        """An image was published, on the worker thread."""
        if self._wanted():
            self._ticker.wake()

    def _wanted(self) -> bool:
        latest = self._pipeline.latest
        if latest is None or latest.scene is None:
            return False
        return self._as_frames() or bool(self._pose.get_subscription_count())

    def _as_frames(self) -> bool:
        return bool(self._value("publish_tf") and self._value("tf_predict"))

    def _tick(self) -> None:
        latest = self._pipeline.latest
        if latest is None or latest.scene is None:
            return
        header, scene, now = latest.admitted.header, latest.scene, self._node.get_clock().now()
        if self._as_frames():
            self._frames = self._frames or TrackFrames(self._node)
            self._frames.predict(header, scene, now)
        if not self._pose.get_subscription_count():
            return
        ahead = (now - Time.from_msg(header.stamp, now.clock_type)).nanoseconds / 1e9
        located = scene.found.get(latest.tracks.target_id)
        if located is None or not 0 <= ahead <= HORIZON:
            return
        found = located.object_from_mask
        place, covariance = predicted(found.centroid, located.velocity, found.covariance, ahead)
        message = PoseWithCovarianceStamped()
        message.header = Header(stamp=now.to_msg(), frame_id=scene.place.frame)
        fill_pose(message.pose.pose, place, found.box.rotation)
        message.pose.covariance = covariance.ravel()
        self._pose.publish(message)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
