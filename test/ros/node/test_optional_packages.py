# SPDX-License-Identifier: Apache-2.0
"""TF and vision_msgs, which the wheels lack: what would be asked and sent, with stand-ins of the same shape.

Where the real packages are installed the node uses those; that was tried by hand (QUALITY_DECLARATION.md).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.time import Time
from std_msgs.msg import Header

from sa2va_model.errors import InputError
from sa2va_model.tracks import FrameResult, Track, TrackState
from sa2va_ros.node.publishing import vision_msgs as standard
from sa2va_ros.space.localizer import Located, Place, Scene3D
from sa2va_ros.space.mask_to_object import Camera, matrix_of, object_from_mask
from sa2va_ros.space.prediction import predicted
from sa2va_ros.space.tf import Frames, TrackFrames

HEADER = Header(frame_id="camera_optical_frame")
HEADER.stamp.sec, HEADER.stamp.nanosec = 1234, 567_000_001


class TransformException(Exception):  # noqa: N818 - its name in tf2_ros
    """As in tf2_ros."""


class Buffer:
    """Knows one transform, and what it was asked."""

    asked: list[tuple[Any, ...]] = []  # noqa: RUF012

    def __init__(self, node: Any) -> None:
        self.cleared = False

    def lookup_transform(self, target: str, source: str, time: Time, timeout: Any) -> Any:
        self.asked.append((target, source, time.nanoseconds, timeout.nanoseconds))
        if time.nanoseconds != 1234_567_000_001:
            raise TransformException("extrapolation into the past")
        message = TransformStamped()
        message.transform.translation.x = 1.0
        turned = message.transform.rotation
        turned.x, turned.y, turned.z, turned.w = -0.5, 0.5, -0.5, 0.5
        return message

    def clear(self) -> None:
        self.cleared = True


class TransformBroadcaster:
    """Keeps what was sent."""

    sent: list[Any] = []  # noqa: RUF012

    def __init__(self, node: Any) -> None:
        pass

    def sendTransform(self, transforms: list[Any]) -> None:
        self.sent.extend(transforms)


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: Any = ModuleType("tf2_ros")
    module.Buffer, module.TransformException = Buffer, TransformException
    module.TransformListener = lambda buffer, node, spin_thread: None
    module.TransformBroadcaster = TransformBroadcaster
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    Buffer.asked, TransformBroadcaster.sent = [], []
    return module


def scene() -> tuple[FrameResult, Scene3D]:
    mask = np.zeros((120, 160), bool)
    mask[40:80, 60:110] = True
    camera = Camera(np.array([[150.0, 0, 80], [0, 150, 60], [0, 0, 1]]), 160, 120)
    depth, rgb = np.ones((120, 160), np.float32), np.zeros((120, 160, 3), np.uint8)
    track = Track("mug", "the mug", TrackState.TRACKING, 1, mask, (60, 40, 110, 80), 2000, 0.9)
    lost = Track("bowl", "the bowl", TrackState.LOST)
    result = FrameResult(0.0, 0, 120, 160, (track, lost))
    located = Located(object_from_mask(mask, depth, rgb, camera), np.zeros(3))
    return result, Scene3D(Place("camera_optical_frame"), {"mug": located})


def test_tf_is_looked_up_at_the_stamp_of_the_image(tf2: ModuleType) -> None:
    frames = Frames(SimpleNamespace(), "base_link", 0.05)
    place = frames.place(HEADER)
    assert Buffer.asked == [("base_link", "camera_optical_frame", 1234_567_000_001, 50_000_000)]
    assert place.frame == "base_link"
    assert place.transform is not None
    assert place.transform[:3, 3] == pytest.approx((1, 0, 0))
    assert place.transform[:3, :3] == pytest.approx(matrix_of(-0.5, 0.5, -0.5, 0.5))
    assert place.up == pytest.approx((0, 0, 1))
    late = Header(frame_id="camera_optical_frame")
    with pytest.raises(InputError, match="no transform from 'camera_optical_frame' to 'base_link'"):
        frames.place(late)
    frames.reset()
    assert frames.place(Header(frame_id="base_link")) == Place("base_link")


def test_each_object_gets_a_frame_at_its_centroid(tf2: ModuleType) -> None:
    node: Any = SimpleNamespace(get_namespace=lambda: "/arm", get_name=lambda: "sa2va_tracker")
    _, found = scene()
    TrackFrames(node).send(HEADER, found)
    (message,) = TransformBroadcaster.sent
    assert message.child_frame_id == "arm/mug"
    assert message.header == HEADER
    moved = message.transform.translation
    assert (moved.x, moved.y, moved.z) == pytest.approx(
        tuple(found.found["mug"].object_from_mask.centroid)
    )


def test_predicted_frames_are_for_now_and_end_with_their_image(tf2: ModuleType) -> None:
    from rclpy.clock import ClockType
    from rclpy.time import Time

    node: Any = SimpleNamespace(get_namespace=lambda: "/arm", get_name=lambda: "sa2va_tracker")
    _, found = scene()
    moving = replace(found.found["mug"], velocity=np.array([0.2, 0.0, -0.1]))
    found = replace(found, found={"mug": moving})
    frames = TrackFrames(node)
    taken = Time.from_msg(HEADER.stamp, ClockType.ROS_TIME)
    for late in (0.3, 1.5):
        now = taken + Duration(seconds=late)
        frames.predict(HEADER, found, now)
    (message,) = TransformBroadcaster.sent  # none for what is too old
    assert message.child_frame_id == "arm/mug_predicted"
    assert message.header.stamp == (taken + Duration(seconds=0.3)).to_msg()
    place = moving.object_from_mask.centroid + np.array([0.06, 0.0, -0.03])
    moved = message.transform.translation
    assert (moved.x, moved.y, moved.z) == pytest.approx(tuple(place))


def test_a_prediction_is_less_sure_the_farther_it_goes() -> None:
    covariance = np.eye(6) * 1e-4
    grown = [np.diag(predicted(np.zeros(3), np.ones(3), covariance, t)[1]) for t in (0.0, 0.2, 1.0)]
    assert np.allclose(grown[0], 1e-4)
    assert (grown[2][:3] > grown[1][:3]).all()
    assert (grown[1][:3] > 1e-4).all()
    assert np.allclose(grown[2][3:], 1e-4)
    assert np.allclose(predicted(np.zeros(3), np.ones(3), covariance, 0.5)[0], 0.5)


class Message:
    """A message of any shape: fields appear when they are used."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        made = [] if name in ("detections", "results") else Message()
        self.__dict__[name] = made
        return made


def test_detections_carry_ids_boxes_and_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Detection2D", "Detection3D", "VisionClass", "ObjectHypothesisWithPose")
    monkeypatch.setattr(standard, "_vision", SimpleNamespace(**dict.fromkeys(names, Message)))
    for name in ("Detection2DArray", "Detection3DArray", "LabelInfo"):
        monkeypatch.setattr(standard, name, Message)
    result, found = scene()
    (flat,) = standard.detections_2d(HEADER, result).detections
    assert (flat.id, flat.header) == ("mug", HEADER)
    assert (flat.bbox.center.position.x, flat.bbox.center.position.y) == (85.0, 60.0)
    assert (flat.bbox.size_x, flat.bbox.size_y) == (50.0, 40.0)
    assert flat.results[0].hypothesis.class_id == "the mug"
    (solid_one,) = standard.detections_3d(HEADER, result, found).detections
    assert solid_one.bbox.center.position.z == pytest.approx(1.0)
    assert solid_one.bbox.size.x == pytest.approx(50 / 150, abs=0.02)
    labels = standard.label_info(HEADER, result).class_map
    assert [(label.class_id, label.class_name) for label in labels] == [(1, "the mug")]
