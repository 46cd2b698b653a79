# SPDX-License-Identifier: Apache-2.0
"""The same results as vision_msgs, where that package is installed: a consumer needs none of our
types then. Where it is missing its topics are absent.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

from std_msgs.msg import Header

from sa2va_model.tracks import FrameResult, Track
from sa2va_ros.messages.clouds import fill_point, fill_pose
from sa2va_ros.space.localizer import Scene3D

_vision: Any = None
with suppress(ImportError):  # the node tells it once
    _vision = import_module("vision_msgs.msg")
Detection2DArray: Any = getattr(_vision, "Detection2DArray", None)
Detection3DArray: Any = getattr(_vision, "Detection3DArray", None)
LabelInfo: Any = getattr(_vision, "LabelInfo", None)


def missing() -> str:
    """What is not published because vision_msgs is not installed, in words; "" if nothing."""
    if Detection2DArray is not None:
        return ""
    return "vision_msgs is not installed: no detections, detections_3d, label_info and class_labels"


def detections_2d(header: Header, result: FrameResult) -> Any:
    """All tracks with a mask as a `vision_msgs/Detection2DArray`."""
    array = Detection2DArray(header=header)
    for track in result.tracks:
        if track.box is None:
            continue
        x0, y0, x1, y1 = track.box
        detection = _vision.Detection2D(header=header, id=track.id, results=[_hypothesis(track)])
        centre = detection.bbox.center
        # Foxy and Galactic had Pose2D here; since Humble it is vision_msgs/Pose2D with a position.
        point = getattr(centre, "position", centre)
        point.x, point.y = (x0 + x1) / 2, (y0 + y1) / 2
        detection.bbox.size_x, detection.bbox.size_y = float(x1 - x0), float(y1 - y0)
        array.detections.append(detection)
    return array


def detections_3d(header: Header, result: FrameResult, scene: Scene3D) -> Any:
    """All tracks in space as a `vision_msgs/Detection3DArray`; the hypothesis' pose is the centroid."""
    array = Detection3DArray(header=header)
    for track in result.tracks:
        located = scene.found.get(track.id)
        if located is None:
            continue
        box = located.object_from_mask.box
        hypothesis = _hypothesis(track)
        fill_pose(hypothesis.pose.pose, located.object_from_mask.centroid, box.rotation)
        hypothesis.pose.covariance = located.object_from_mask.covariance.ravel()
        detection = _vision.Detection3D(header=header, id=track.id, results=[hypothesis])
        fill_pose(detection.bbox.center, box.centre, box.rotation)
        fill_point(detection.bbox.size, box.size)
        array.detections.append(detection)
    return array


def label_info(header: Header, result: FrameResult) -> Any:
    """The words for the values of `mask`, as a `vision_msgs/LabelInfo`."""
    classes = [
        _vision.VisionClass(class_id=track.mask_value, class_name=track.expression or track.id)
        for track in result.tracks
        if track.mask is not None
    ]
    return LabelInfo(header=header, class_map=classes, threshold=0.0)


def class_labels(names: dict[int, str]) -> Any:
    """The words for the values of `class_mask`, which never change, as a `vision_msgs/LabelInfo`."""
    classes = [_vision.VisionClass(class_id=k, class_name=name) for k, name in names.items()]
    return LabelInfo(class_map=classes, threshold=0.0)


def _hypothesis(track: Track) -> Any:
    message = _vision.ObjectHypothesisWithPose()
    message.hypothesis.class_id = track.expression or track.label or track.id
    message.hypothesis.score = float(track.score)
    return message
