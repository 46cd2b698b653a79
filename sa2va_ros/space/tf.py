# SPDX-License-Identifier: Apache-2.0
"""TF, where `tf2_ros` is installed: the camera at an image's stamp, and a frame for each track.

Without it (the PyPI wheels have none) results stay in the camera's optical frame, and asking for
another frame is refused when the node starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.time import Time
from std_msgs.msg import Header

from sa2va_model.errors import InputError
from sa2va_ros.messages.clouds import fill_point, matrix_from_transform
from sa2va_ros.space.localizer import Place, Scene3D
from sa2va_ros.space.mask_to_object import quaternion
from sa2va_ros.space.prediction import HORIZON, predicted

if TYPE_CHECKING:
    from rclpy.node import Node

UP = np.array([0.0, 0.0, 1.0])  # of every frame that is not optical (REP 103)


def require_tf2(what: str) -> Any:
    """The module `tf2_ros`.

    Raises:
        InputError: it is not installed; `what` says what it is needed for.
    """
    try:
        import tf2_ros
    except ImportError as error:
        raise InputError(
            f"{what} needs tf2_ros, which is not installed ({error}); expected a ROS 2 distribution, "
            "or results in the camera's frame"
        ) from error
    return tf2_ros


class Frames:
    """Looks transforms up at the stamp of an image, never at the latest time.

    Args:
        target_frame: "" = results stay in the camera's frame, and TF is not touched.
        timeout: seconds to wait for a transform of that stamp.

    Raises:
        InputError: a target frame is asked for and there is no tf2_ros.
    """

    def __init__(self, node: Node, target_frame: str, timeout: float) -> None:
        self._target = target_frame
        self._timeout = Duration(nanoseconds=round(timeout * 1e9))
        self._buffer: Any = None
        if target_frame:
            tf2_ros = require_tf2(f"parameter target_frame '{target_frame}'")
            self._errors = tf2_ros.TransformException
            self._buffer = tf2_ros.Buffer(node=node)
            self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def place(self, header: Header) -> Place:
        """The frame of results for an image, and how to get there.

        Raises:
            InputError: there is no transform for that stamp.
        """
        if self._buffer is None or self._target == header.frame_id:
            return Place(header.frame_id)
        try:
            found = self._buffer.lookup_transform(
                self._target, header.frame_id, Time.from_msg(header.stamp), self._timeout
            )
        except self._errors as error:
            raise InputError(
                f"no transform from '{header.frame_id}' to '{self._target}' at the image's stamp: {error}"
            ) from error
        up = None if self._target.endswith("_optical_frame") else UP
        return Place(self._target, matrix_from_transform(found.transform), up)

    def reset(self) -> None:
        """Forget all transforms, as when time jumps back."""
        if self._buffer is not None:
            self._buffer.clear()


class TrackFrames:
    """A TF frame `<prefix>/<track id>` for each object in space, at its centroid, with the stamp of its image.

    With `predict` also `<prefix>/<track id>_predicted`, with the stamp of now: where the object is by now if it goes on
    as it went. For consumers that look "now" up, which an image that takes its time never is.

    Raises:
        InputError: there is no tf2_ros.
    """

    def __init__(self, node: Node) -> None:
        self._broadcaster = require_tf2("parameter publish_tf").TransformBroadcaster(node)
        self._prefix = node.get_namespace().strip("/") or node.get_name()

    def send(self, header: Header, scene: Scene3D) -> None:
        """Publish the frames of one image; parent is the frame of the results."""
        self._broadcaster.sendTransform(track_transforms(header, scene, self._prefix))

    def predict(self, header: Header, scene: Scene3D, now: Time) -> None:
        """Publish the predicted frames of the newest image for now; none where that is too far away."""
        ahead = (now - Time.from_msg(header.stamp, now.clock_type)).nanoseconds / 1e9
        if not 0 <= ahead <= HORIZON or not scene.found:
            return
        made = track_transforms(header, scene, self._prefix, "_predicted", ahead)
        for message in made:
            message.header.stamp = now.to_msg()
        self._broadcaster.sendTransform(made)


def track_transforms(
    header: Header, scene: Scene3D, prefix: str, suffix: str = "", ahead: float = 0.0
) -> list[TransformStamped]:
    """One transform for each object of an image, so many seconds ahead of it."""
    transforms = []
    for name, located in scene.found.items():
        message = TransformStamped(child_frame_id=f"{prefix}/{name}{suffix}")
        message.header = Header(stamp=header.stamp, frame_id=scene.place.frame)
        found = located.object_from_mask
        place, _ = predicted(found.centroid, located.velocity, found.covariance, ahead)
        fill_point(message.transform.translation, place)
        turned = message.transform.rotation
        turned.x, turned.y, turned.z, turned.w = quaternion(found.box.rotation)
        transforms.append(message)
    return transforms
