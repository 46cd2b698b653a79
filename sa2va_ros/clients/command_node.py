# SPDX-License-Identifier: Apache-2.0
"""A client that is told on a topic what to do and tells on another how it ended; the work is done on a thread."""

from __future__ import annotations

import json
import threading
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from sa2va_ros.action import TrackExpression
from sa2va_ros.clients.tracker_client import TrackerClient
from sa2va_ros.support.parameter import Parameter, declare
from sa2va_ros.support.qos import reliable

CAUSES = {
    TrackExpression.Result.NOT_FOUND: "not found",
    TrackExpression.Result.TIMEOUT: "not found",
    TrackExpression.Result.LOST: "lost",
}
"""What the end of a goal of the tracker means for a command."""
TABLE = (
    Parameter("tracker", "sa2va_tracker", "Name of the tracker's node."),
    Parameter("acquire_timeout", 15.0, "Seconds in which it must be found.", span=(0.5, 600.0)),
)


@dataclass(frozen=True)
class CommandResult:
    """What became of a command.

    Attributes:
        outcome: how it ended, in a word.
        cause: why it failed, in a word or two; "" = it did not.
        detail: the same in a sentence.
    """

    command: str
    outcome: str
    cause: str = ""
    detail: str = ""


class CommandNode(Node):
    """Commands one after the other. A subclass says `_perform` and calls `_begin` once it is made.

    Args:
        topic: of the commands, std_msgs/String.
        results: of their results, std_msgs/String with JSON.
        table: parameters besides `TABLE` and `command`.
        command: help text of the parameter `command`.
    """

    def __init__(
        self, name: str, topic: str, results: str, table: Sequence[Parameter], command: str
    ) -> None:
        super().__init__(name)
        declare(self, (*TABLE, Parameter("command", "", command), *table))
        self._stop_requested = threading.Event()
        self._commands: SimpleQueue[str] = SimpleQueue()
        self._tracker = TrackerClient(self, self._value("tracker"))
        self._results = self.create_publisher(String, results, reliable(10))
        self.create_subscription(String, topic, self._on_command, reliable(10))
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def _begin(self) -> None:
        if command := self._value("command"):
            self._commands.put(command)
        self._thread.start()

    def close(self) -> None:
        """End the command in work and the thread."""
        self._stop_requested.set()
        self._thread.join(10)

    @abstractmethod
    def _perform(self, command: str) -> CommandResult | None:
        """Do it, however long that takes; None = there is nothing to tell."""

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _on_command(self, message: String) -> None:
        self._commands.put(message.data)

    def _interrupted(self) -> bool:
        """Whether something else is to be done."""
        return self._stop_requested.is_set() or not self._commands.empty()

    def _work(self) -> None:
        while not self._stop_requested.is_set():
            try:
                command = self._commands.get(timeout=0.1)
            except Empty:
                continue
            result = self._perform(command)
            if result is None:
                continue
            why = f", {result.cause}: {result.detail}" if result.cause else ""
            self.get_logger().info(f"'{command}': {result.outcome}{why}")
            if not self._stop_requested.is_set():
                self._results.publish(String(data=json.dumps(asdict(result))))
