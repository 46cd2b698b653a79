# SPDX-License-Identifier: Apache-2.0
"""A pose topic for each track, `tracks/<id>/pose`, for as long as the track lives and somebody wants it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import PoseWithCovarianceStamped

from sa2va_ros.support.qos import reliable

if TYPE_CHECKING:
    from rclpy.node import Node


class TrackPoses:
    """Used from any thread; topics come and go on the executor's."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()  # a topic is not taken away while something is sent on it
        self._publishers: dict[str, Any] = {}  # by track id; None = on its way

    def publish(self, track_id: str, message: PoseWithCovarianceStamped) -> None:
        """One pose; the first ones of a track may come before its topic is there."""
        with self._lock:
            known = track_id in self._publishers
            publisher = self._publishers.setdefault(track_id, None)
            if publisher is not None:
                publisher.publish(message)
        if not known:
            self._on_executor(self._open, track_id)

    def keep(self, track_ids: set[str]) -> None:
        """Take away the topics of all other tracks."""
        with self._lock:
            gone = [self._publishers.pop(name) for name in self._publishers.keys() - track_ids]
        for publisher in gone:
            if publisher is not None:
                self._on_executor(self._close, publisher)

    def _open(self, track_id: str) -> None:
        topic = f"tracks/{topic_token(track_id)}/pose"
        with self._lock:
            # It may have been let go, or opened, since this was asked for.
            if self._publishers.get(track_id, self) is None:
                self._publishers[track_id] = self._node.create_publisher(
                    PoseWithCovarianceStamped, topic, reliable(5)
                )

    def _close(self, publisher: Any) -> None:
        with self._lock:
            self._node.destroy_publisher(publisher)

    def _on_executor(self, work: Any, *arguments: Any) -> None:
        executor = self._node.executor
        if executor is None:  # nobody spins: nobody is disturbed
            work(*arguments)
        else:
            executor.create_task(work, *arguments)


def topic_token(track_id: str) -> str:
    """A track's id as part of a topic's name, which must not begin with a digit."""
    return f"id_{track_id}" if track_id[:1].isdigit() else track_id
