# SPDX-License-Identifier: Apache-2.0
"""What people and other nodes say by topics: `command`, `prompt`, and clicks on the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import Point, PointStamped
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import String

from sa2va_model.errors import InputError
from sa2va_ros.interfaces.commands import Router
from sa2va_ros.messages import tracks as conversions_tracks
from sa2va_ros.msg import VisualPrompt
from sa2va_ros.node.pipeline import Pipeline
from sa2va_ros.support.background_work import WorkQueue
from sa2va_ros.support.qos import reliable

if TYPE_CHECKING:
    from rclpy.node import Node


class CommandTopics:
    """Listens while the node is active; what is refused is told as an event FAILED, with the reason."""

    def __init__(self, node: Node, router: Router, pipeline: Pipeline) -> None:
        self._node, self._router, self._pipeline = node, router, pipeline
        self._subscriptions: list[Any] = []
        self._images = ""
        self._beside = WorkQueue("objects")

    def subscribe(self, images: str) -> None:
        """Begin to listen; `images`: the topic that a command without images waits for."""
        self._images = images
        options = QoSOverridingOptions.with_default_policies()
        wired: list[tuple[Any, str, Any]] = [
            (String, "command", self._on_command),
            (VisualPrompt, "prompt", self._on_prompt),
            (PointStamped, "clicked_pixel", self._on_click),
            # Where rqt_image_view publishes clicks: beside the image that it shows.
            (Point, f"{self._node.resolve_topic_name('image')}_mouse_left", self._on_mouse),
            (Point, "overlay_mouse_left", self._on_mouse),
        ]
        self._subscriptions = [
            self._node.create_subscription(
                kind, topic, receive, reliable(10), qos_overriding_options=options
            )
            for kind, topic, receive in wired
        ]

    def unsubscribe(self) -> None:
        """Hear nothing any more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_command(self, message: String) -> None:
        self.obey(message.data)

    def obey(self, text: str) -> None:
        """Do what a text on `command` says; a refusal is an event."""
        try:
            if self._router.parse(text).slow:
                self._beside.put(lambda: self._run(text))
                return
        except InputError as error:
            self._refuse(error)
            return
        self._run(text)

    def _run(self, text: str) -> None:
        try:
            command = self._router.run(text)
        except InputError as error:
            self._refuse(error)
        else:
            log = self._node.get_logger()
            log.info(f"command: {command.kind.value} {command.text!r}")
            silence = self._pipeline.worker.input_rate.silence()
            if not silence <= self._node.get_parameter("image_timeout").value:  # NaN: none has come
                log.warning(f"no images arrive on {self._images}; it waits for them")

    def _on_prompt(self, message: VisualPrompt) -> None:
        try:
            arguments = conversions_tracks.prompt_arguments(message)
            if "object" not in arguments:
                self._router.prompt(**arguments)
                return
        except InputError as error:
            self._refuse(error)
            return
        self._beside.put(lambda: self._follow(arguments))

    def _follow(self, arguments: dict[str, Any]) -> None:
        try:
            self._router.prompt(**arguments)
        except InputError as error:
            self._refuse(error)

    def _on_click(self, message: PointStamped) -> None:
        self._on_mouse(message.point)

    def _on_mouse(self, point: Point) -> None:
        self._on_prompt(VisualPrompt(type=VisualPrompt.POINTS, x=[point.x], y=[point.y]))

    def _refuse(self, error: InputError) -> None:
        self._node.get_logger().warning(f"refused: {error}", throttle_duration_sec=1.0)
        latest = self._pipeline.latest
        header = latest.admitted.header if latest else None
        self._pipeline.outputs.failed(header, "", str(error))
