# SPDX-License-Identifier: Apache-2.0
"""Plays a rosbag2 over ROS without rosbag2: every topic whose messages are installed, as the bytes that were recorded.

    /clock             rosgraph_msgs/Clock, the recording's time, for nodes with use_sim_time
    ~/done             latched std_msgs/String once the end was reached (never with `loop`)

For machines without `ros2 bag play` (the PyPI wheels), and for `track_bag.launch.py`. Stamps stay as they were.
"""

from __future__ import annotations

import importlib
import threading
import time
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rosbags.highlevel import AnyReader
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from sa2va_model.errors import InputError
from sa2va_ros.bags.bag import typestore
from sa2va_ros.messages.images import fill_time
from sa2va_ros.support.parameter import Parameter, declare
from sa2va_ros.support.qos import reliable
from sa2va_ros.support.spinning import serve

TABLE = (
    Parameter("bag", "", "Folder or file of the recording (sqlite3 or mcap)."),
    Parameter("speed", 1.0, "Times the recording's own speed.", span=(0.01, 100.0)),
    Parameter("loop", False, "Begin again at the end; stamps then jump back."),
    Parameter("clock", True, "Publish the recording's time on /clock."),
    Parameter("wait", 5.0, "Seconds to wait for somebody who listens.", span=(0.0, 3600.0)),
    Parameter("skip", "", "Topics that are not played, with + between them."),
    Parameter("stay", False, "Stay alive after the end, until told to stop."),
)
_LINGER = 2.0  # seconds for which the last messages may still be sent and worked on
_CLOCK_PERIOD = 0.01  # seconds of the recording between two messages on /clock


class BagPlayer(Node):
    """Publishes on a thread of its own.

    Args:
        told: set when the process is asked to end, and by this node when there is no more to do.
    """

    def __init__(self, told: threading.Event) -> None:
        super().__init__("bag_player")
        declare(self, TABLE)
        self._told = told
        self._reader = open_bag(self._value("bag"))
        skipped = set(self._value("skip").split("+"))
        self._topics: dict[str, Any] = {}
        for link in self._reader.connections:
            kind = None if link.topic in skipped else message_type(link.msgtype)
            if kind is None:
                self.get_logger().info(f"not played: {link.topic} ({link.msgtype})")
            elif link.topic not in self._topics:
                self._topics[link.topic] = self.create_publisher(kind, link.topic, reliable(10))
        if not self._topics:
            raise InputError(f"{self._value('bag')}: no topic whose messages are installed")
        self._clock_topic = self.create_publisher(Clock, "/clock", reliable(10))
        self._done = self.create_publisher(String, "~/done", reliable(1, latched=True))
        self._thread = threading.Thread(target=self._play, name="player", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop playing."""
        self._told.set()
        self._thread.join(5)
        self._reader.close()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _play(self) -> None:
        self._await_listeners()
        try:
            self._once()
            while self._value("loop") and not self._told.is_set():
                self._once()
        except Exception as error:  # noqa: BLE001 - a broken recording; rosbags raises errors of four libraries
            self.get_logger().error(f"{self._value('bag')}: {' '.join(str(error).split())}")
        if self._told.is_set():
            return
        self._done.publish(String(data=str(self._value("bag"))))
        self.get_logger().info("the recording is over")
        if not self._value("stay"):
            self._told.wait(_LINGER)
            self._told.set()

    def _await_listeners(self) -> None:
        end = time.monotonic() + self._value("wait")
        while time.monotonic() < end and not self._told.is_set():
            if any(topic.get_subscription_count() for topic in self._topics.values()):
                return
            time.sleep(0.05)

    def _once(self) -> None:
        speed, ticking = self._value("speed"), self._value("clock")
        links = [link for link in self._reader.connections if link.topic in self._topics]
        began, first, ticked = time.monotonic(), 0, 0
        for link, recorded, raw in self._reader.messages(links):
            first = first or recorded
            due = began + (recorded - first) / 1e9 / speed
            while (left := due - time.monotonic()) > 0:
                if self._told.wait(min(left, _CLOCK_PERIOD / speed)):
                    return
                if ticking and (now := time.monotonic()) < due:
                    # Not beyond the message that is due: its own time comes next, and time never goes back.
                    self._tick(min(recorded, first + int((now - began) * speed * 1e9)))
            if self._told.is_set():
                return
            if ticking and recorded > ticked:
                ticked = recorded
                self._tick(recorded)
            self._topics[link.topic].publish(bytes(raw))

    def _tick(self, now: int) -> None:
        message = Clock()
        fill_time(message.clock, now)
        self._clock_topic.publish(message)


def open_bag(path: str) -> AnyReader:
    """An open reader.

    Raises:
        InputError: there is no bag, or it cannot be read.
    """
    if not path or not Path(path).exists():
        raise InputError(f"parameter bag is '{path}'; expected a rosbag2 folder or file")
    try:
        reader = AnyReader([Path(path)], default_typestore=typestore())
        reader.open()
    except Exception as error:  # rosbags raises errors of four libraries, and asserts
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not readable as a rosbag2 ({reason})") from error
    return reader


def message_type(name: str) -> Any:
    """The class of `package/msg/Name`; None if its package is not installed."""
    package, _, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ImportError:
        return None


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop; the exit status is 2 if it could not start."""
    return serve("bag_player", BagPlayer, args)


if __name__ == "__main__":
    raise SystemExit(main())
