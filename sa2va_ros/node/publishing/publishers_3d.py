# SPDX-License-Identifier: Apache-2.0
"""What the tracker node publishes in space: target_pose, target_points, detections_3d, markers and TF.

Nothing is computed for a topic that nobody listens to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from sa2va_model.tracks import FrameResult, Track
from sa2va_ros.messages.clouds import fill_cloud, fill_pose
from sa2va_ros.node.publishing import vision_msgs as standard
from sa2va_ros.node.publishing.markers import marker_array
from sa2va_ros.node.publishing.track_poses import TrackPoses
from sa2va_ros.space.localizer import Located, Scene3D
from sa2va_ros.space.tf import TrackFrames
from sa2va_ros.support.qos import reliable

if TYPE_CHECKING:
    from rclpy.node import Node


class Outputs3D:
    """The publishers of one node that need depth."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pose = self._publisher(PoseStamped, "target_pose", 5)
        self._points = self._publisher(PointCloud2, "target_points", 1)
        self._markers = self._publisher(MarkerArray, "markers", 1)
        self._track_poses = TrackPoses(node)
        self._frames: TrackFrames | None = None
        self._detections: Any = None
        if standard.Detection3DArray is not None:
            self._detections = self._publisher(standard.Detection3DArray, "detections_3d", 5)

    def wanted(self) -> bool:
        """Whether anybody listens."""
        return any(
            publisher is not None and publisher.get_subscription_count()
            for publisher in (self._pose, self._points, self._detections, self._markers)
        )

    def publish(
        self,
        image: Header,
        result: FrameResult,
        scene: Scene3D,
        target: Track | None,
        *,
        centroid: bool = True,
        markers: bool = True,
        cloud: bool = True,
        poses: bool = False,
        tf: bool = False,
    ) -> None:
        """Everything that was found in space on one image.

        Args:
            target: the track that `target_pose` and `target_points` belong to.
            poses: `tracks/<id>/pose` of each track.
            centroid: `target_pose` is that of the visible surface's centroid; else of the box's centre.
        """
        header = Header(stamp=image.stamp, frame_id=scene.place.frame)
        located = scene.found.get(target.id) if target is not None else None
        if located is not None:
            message = PoseStamped(header=header)
            _fill_pose(message.pose, located, centroid=centroid)
            self._pose.publish(message)
            if cloud and self._points.get_subscription_count():
                points = fill_cloud(PointCloud2(), located.object_from_mask, header, PointField)
                self._points.publish(points)
        for name, one in scene.found.items() if poses else ():
            own = PoseWithCovarianceStamped(header=header)
            _fill_pose(own.pose.pose, one, centroid=centroid)
            own.pose.covariance = one.object_from_mask.covariance.ravel()
            self._track_poses.publish(name, own)
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(standard.detections_3d(header, result, scene))
        if markers and self._markers.get_subscription_count():
            self._markers.publish(marker_array(header, result, scene))
        if tf:
            self._frames = self._frames or TrackFrames(self._node)
            self._frames.send(image, scene)

    def keep_poses(self, track_ids: set[str]) -> None:
        """End the pose topics of all other tracks; from any thread."""
        self._track_poses.keep(track_ids)

    def _publisher(self, kind: type, topic: str, depth: int) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        return self._node.create_publisher(
            kind, topic, reliable(depth), qos_overriding_options=options
        )


def _fill_pose(message: Any, located: Located, *, centroid: bool) -> None:
    found = located.object_from_mask
    fill_pose(message, found.centroid if centroid else found.box.centre, found.box.rotation)
