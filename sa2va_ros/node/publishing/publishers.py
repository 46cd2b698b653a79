# SPDX-License-Identifier: Apache-2.0
"""What the tracker node publishes on the image: tracks, mask, overlay, events, answers, and its status.

Every output that belongs to an image carries that image's header as it came. Messages are sent from
the worker thread. Nothing is drawn or encoded for a topic that nobody listens to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from sa2va_model.io.overlay import draw_overlay
from sa2va_model.tracks import Event, EventKind, FrameResult
from sa2va_model.tracks import Track as TrackedObject
from sa2va_ros.interfaces.classes import Classes
from sa2va_ros.messages import images as conversions
from sa2va_ros.messages import tracks as conversions_tracks
from sa2va_ros.messages.clouds import fill_solid
from sa2va_ros.msg import (
    GroundedCaption,
    GroundedPhrase,
    Track,
    TrackArray,
    TrackerStatus,
    TrackEvent,
)
from sa2va_ros.node.latency import Latencies
from sa2va_ros.node.publishing import vision_msgs as standard
from sa2va_ros.node.publishing.image_transport import LABELS, PICTURES, ImageOutput, compressed
from sa2va_ros.support.qos import reliable

if TYPE_CHECKING:
    from rclpy.node import Node

    from sa2va_ros.node.stream import Admitted
    from sa2va_ros.space.localizer import Scene3D


@dataclass(frozen=True)
class OutputOptions:
    """Which of the outputs on the image are wanted, as the parameters say."""

    mask: bool = True
    overlay: bool = True
    masks_in_tracks: bool = False


class Outputs:
    """The publishers of one node, and how a result becomes messages; `classes`: of `class_mask`."""

    def __init__(self, node: Node, classes: Classes) -> None:
        self._node, self._classes = node, classes
        self.latencies = Latencies()
        self._tracks = self._publisher(TrackArray, "tracks", reliable(5))
        self._mask = ImageOutput(self._publisher, "mask", reliable(1), LABELS)
        self._overlay = ImageOutput(self._publisher, "overlay", reliable(1), PICTURES)
        self._events = self._publisher(TrackEvent, "events", reliable(50))
        self._captions = self._publisher(GroundedCaption, "caption", reliable(10))
        self._status = self._publisher(TrackerStatus, "~/status", reliable(1, latched=True))
        self._class_outputs: tuple[ImageOutput, ...] = ()
        if classes.numbers:
            self._class_outputs = self._make_class_outputs()
        self._detections: Any = None
        if standard.Detection2DArray is not None:
            self._detections = self._publisher(standard.Detection2DArray, "detections", reliable(5))
            self._labels = self._publisher(
                standard.LabelInfo, "label_info", reliable(1, latched=True)
            )
            self._labelled: tuple[tuple[int, str], ...] = ()

    def wanted(self) -> bool:
        """Whether anybody listens to what is computed on images."""
        images = (self._mask, self._overlay, *self._class_outputs)
        return any(image.wanted() for image in images) or any(
            publisher is not None and publisher.get_subscription_count()
            for publisher in (self._tracks, self._events, self._detections)
        )

    def images(self, admitted: Admitted, result: FrameResult, options: OutputOptions) -> None:
        """Publish mask and overlay of one image, and the detections on it."""
        header = admitted.header
        if options.mask:
            self._mask.publish(header, result.labels)
        if self._class_outputs:
            mask, confidence = self._class_outputs
            mask.publish(header, lambda: self._classes.labels(result))
            confidence.publish(header, lambda: self._classes.confidence(result))
        if options.overlay:
            rgb = admitted.frame.rgb
            self._overlay.publish(
                header, lambda: conversions.overlay_bgr(draw_overlay(rgb, result))
            )
        if self._detections is not None:
            self._publish_detections(header, result)

    def tracks(
        self,
        admitted: Admitted,
        result: FrameResult,
        scene: Scene3D | None,
        target: TrackedObject | None,
        *,
        clock: conversions.StampClock,
        options: OutputOptions,
    ) -> TrackArray:
        """Publish the tracks of one image and what happened on it; returns them as published."""
        header = admitted.header
        message = conversions_tracks.fill_track_array(
            TrackArray(), result, header, clock=clock, latency=0.0, new_track=Track
        )
        for filled, track in zip(message.tracks, result.tracks, strict=True):
            if scene is not None and (located := scene.found.get(track.id)) is not None:
                fill_solid(filled, located.object_from_mask, located.velocity)
            if options.masks_in_tracks and track.mask is not None and track.box is not None:
                filled.mask_png = _crop(track.mask, track.box, header)
        if scene is not None and scene.place.frame != header.frame_id:
            message.target_frame = scene.place.frame
        message.target_id = target.id if target is not None else ""
        message.latency = self._age(header)
        self._tracks.publish(message)
        self.latencies.image(message.latency)
        self.latencies.events(result.events)
        for event in result.events:
            self._events.publish(conversions_tracks.fill_event(TrackEvent(), event, header))
        return message

    def failed(self, header: Header | None, expression: str, detail: str) -> None:
        """Tell that a command could not be carried out; without an image yet the stamp is now."""
        if header is None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
        event = Event(EventKind.FAILED, "", expression, 0.0, 0, detail=detail)
        self._events.publish(conversions_tracks.fill_event(TrackEvent(), event, header))

    def caption(
        self, header: Header, question: str, answer: Any, request_id: str = ""
    ) -> GroundedCaption:
        """Publish an answer with the masks of its phrases on the image it is about; returns it."""
        message = conversions_tracks.fill_caption(
            GroundedCaption(request_id=request_id),
            answer,
            question,
            header,
            new_phrase=GroundedPhrase,
        )
        self._captions.publish(message)
        return message

    def status(self, message: TrackerStatus) -> None:
        """Publish the status; late subscribers get the last one."""
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.keyframe_latency = self.latencies.first_mask()
        message.latency_p95 = self.latencies.percentile(95)
        self._status.publish(message)

    def _age(self, header: Header) -> float:
        now = self._node.get_clock().now().nanoseconds
        return float((now - conversions.nanoseconds(header.stamp)) / 1e9)

    def _make_class_outputs(self) -> tuple[ImageOutput, ...]:
        """`class_mask` and `class_confidence`, and once and for all the words for their numbers."""
        if standard.LabelInfo is not None:
            labels = self._publisher(standard.LabelInfo, "class_labels", reliable(1, latched=True))
            labels.publish(standard.class_labels(self._classes.names()))
        topics = ("class_mask", "class_confidence")
        return tuple(ImageOutput(self._publisher, t, reliable(1), LABELS) for t in topics)

    def _publish_detections(self, header: Header, result: FrameResult) -> None:
        labels = tuple((t.mask_value, t.expression) for t in result.tracks if t.mask is not None)
        if labels != self._labelled:
            self._labelled = labels
            self._labels.publish(standard.label_info(header, result))
        if self._detections.get_subscription_count():
            self._detections.publish(standard.detections_2d(header, result))

    def _publisher(self, kind: type, topic: str, qos: QoSProfile) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        return self._node.create_publisher(kind, topic, qos, qos_overriding_options=options)


def _crop(mask: np.ndarray, box: tuple[int, int, int, int], header: Header) -> CompressedImage:
    x0, y0, x1, y1 = box
    crop = np.ascontiguousarray(mask[y0:y1, x0:x1]).view(np.uint8) * 255
    return compressed(crop, LABELS, header)
