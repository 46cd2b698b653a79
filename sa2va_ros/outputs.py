# SPDX-License-Identifier: Apache-2.0
"""What the tracker node publishes: tracks, mask, overlay, events, answers and its status.

Every output that belongs to an image carries that image's header as it came. Messages are sent from
the worker thread.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sa2va_model.drawing import draw
from sa2va_model.tracks import Event, EventKind, FrameResult
from sa2va_ros import conversions
from sa2va_ros.msg import (
    GroundedCaption,
    GroundedPhrase,
    Track,
    TrackArray,
    TrackerStatus,
    TrackEvent,
)

if TYPE_CHECKING:
    from rclpy.node import Node

    from sa2va_ros.stream import Admitted


def reliable(depth: int, *, latched: bool = False) -> QoSProfile:
    """Reliable, so that both kinds of subscribers match; latched = late subscribers get the last
    message."""
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability)


class Latencies:
    """How late results are: from the image's stamp to publishing, and from a command to its first
    mask."""

    def __init__(self) -> None:
        self._images: deque[float] = deque(maxlen=200)
        self._commands: deque[float] = deque(maxlen=20)
        self._asked: dict[str, float] = {}

    def image(self, seconds: float) -> None:
        """One result was published this long after its image was taken."""
        self._images.append(seconds)

    def events(self, events: tuple[Event, ...]) -> None:
        """Keep the time between STARTED and FOUND of a track."""
        now = time.monotonic()
        for event in events:
            if event.kind is EventKind.STARTED:
                self._asked[event.track_id] = now
                continue
            asked = self._asked.pop(event.track_id, None)
            if asked is not None and event.kind is EventKind.FOUND:
                self._commands.append(now - asked)

    def p95(self) -> float:
        """95th percentile of the image latency in seconds; NaN without any."""
        return float(np.percentile(tuple(self._images), 95)) if self._images else float("nan")

    def first_mask(self) -> float:
        """Median seconds from an expression to its first mask; NaN without any."""
        return statistics.median(self._commands) if self._commands else float("nan")


class Outputs:
    """The publishers of one node, and how a result becomes messages."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.latencies = Latencies()
        self._tracks = self._publisher(TrackArray, "tracks", reliable(5))
        self._mask = self._publisher(Image, "mask", reliable(1))
        self._overlay = self._publisher(Image, "overlay", reliable(1))
        self._events = self._publisher(TrackEvent, "events", reliable(50))
        self._captions = self._publisher(GroundedCaption, "caption", reliable(10))
        self._status = self._publisher(TrackerStatus, "~/status", reliable(1, latched=True))

    def result(
        self,
        admitted: Admitted,
        result: FrameResult,
        *,
        clock: conversions.StampClock,
        mask: bool = True,
        overlay: bool = True,
    ) -> TrackArray:
        """Publish everything that was computed on one image; returns the tracks as published."""
        header = admitted.header
        if mask:
            self._mask.publish(conversions.fill_image(Image(), result.labels(), "mono8", header))
        if overlay and self._overlay.get_subscription_count():
            drawn = conversions.overlay_bgr(draw(admitted.frame.rgb, result))
            self._overlay.publish(conversions.fill_image(Image(), drawn, "bgr8", header))
        now = self._node.get_clock().now().nanoseconds
        latency = (now - conversions.nanoseconds(header.stamp)) / 1e9
        tracks = conversions.fill_track_array(
            TrackArray(), result, header, clock=clock, latency=latency, new_track=Track
        )
        self._tracks.publish(tracks)
        self.latencies.image(latency)
        self.latencies.events(result.events)
        for event in result.events:
            self._events.publish(conversions.fill_event(TrackEvent(), event, header))
        return tracks

    def failed(self, header: Header | None, expression: str, detail: str) -> None:
        """Tell that a command could not be carried out; without an image yet the stamp is now."""
        if header is None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
        event = Event(EventKind.FAILED, "", expression, 0.0, 0, detail=detail)
        self._events.publish(conversions.fill_event(TrackEvent(), event, header))

    def caption(self, header: Header, question: str, answer: Any) -> None:
        """Publish an answer with the masks of its phrases on the image it is about."""
        self._captions.publish(
            conversions.fill_caption(
                GroundedCaption(), answer, question, header, new_phrase=GroundedPhrase
            )
        )

    def status(self, message: TrackerStatus) -> None:
        """Publish the status; late subscribers get the last one."""
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.keyframe_latency = self.latencies.first_mask()
        message.latency_p95 = self.latencies.p95()
        self._status.publish(message)

    def _publisher(self, kind: type, topic: str, qos: QoSProfile) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        return self._node.create_publisher(kind, topic, qos, qos_overriding_options=options)
