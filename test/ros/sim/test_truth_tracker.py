# SPDX-License-Identifier: Apache-2.0
"""The tracker that knows the truth answers only once the truth has come."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

from sensor_msgs.msg import Image
from std_msgs.msg import String

from sa2va_model.io.frames import Frame
from sa2va_model.tracks import FrameResult, TrackState
from sa2va_ros.sim.truth_tracker import UNKNOWN_SECONDS, TruthLive

NAMES = String(data=json.dumps({"1": "red mug"}))


def live() -> TruthLive:
    return TruthLive(lambda seconds: round(seconds * 1e9))


def seen(tracker: TruthLive, stamp: float) -> FrameResult:
    labels = Image(height=8, width=8, encoding="mono8", step=8, data=b"\x01" * 64)
    labels.header.stamp.sec = int(stamp)
    labels.header.stamp.nanosec = round((stamp - int(stamp)) * 1e9)
    tracker.add_labels(labels)
    frame: Any = Frame(rgb=np.zeros((8, 8, 3), np.uint8), stamp=stamp, index=0)
    return tracker.process(frame)


def test_a_sentence_waits_for_a_truth_that_is_late() -> None:
    tracker = live()
    tracker.track("the red mug")
    assert [track.state for track in seen(tracker, 10.0).tracks] == [TrackState.PENDING]
    tracker.add_names(NAMES)
    assert [track.state for track in seen(tracker, 10.25).tracks] == [TrackState.TRACKING]


def test_what_the_truth_does_not_name_is_not_found() -> None:
    tracker = live()
    tracker.add_names(NAMES)
    tracker.track("the blue kettle")
    assert [track.state for track in seen(tracker, 10.0).tracks] == [TrackState.PENDING]
    late = seen(tracker, 10.0 + UNKNOWN_SECONDS)
    assert [track.state for track in late.tracks] == [TrackState.NOT_FOUND]
    assert not seen(tracker, 12.0).tracks
