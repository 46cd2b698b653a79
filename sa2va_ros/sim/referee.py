# SPDX-License-Identifier: Apache-2.0
"""Runs episodes from outside: asks the simulator for the next one, says the command, hears the result, asks for the
truth. Everything over ROS, in simulated time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter as RosParameter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sa2va_ros.messages.images import nanoseconds, rgb_from_image
from sa2va_ros.msg import TrackerStatus
from sa2va_ros.support.deadline import Deadline, now
from sa2va_ros.support.qos import NEWEST_IMAGE, reliable


class Referee:
    """A node with a thread of its own; use it as a context manager.

    Args:
        simulator: name of the simulator's node.
        say: topic of commands; `hear`: topic of results.
        watch: called with (seconds, rgb uint8 [H, W, 3]) for every image of the tracker's overlay.
    """

    def __init__(
        self,
        simulator: str,
        say: str,
        hear: str,
        *,
        namespace: str = "/sa2va",
        watch: Callable[[float, np.ndarray], None] | None = None,
    ) -> None:
        self.status: Any = None
        self._simulator = simulator
        self._answers: list[dict[str, Any]] = []
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        simulated = [RosParameter("use_sim_time", value=True)]
        self._node = rclpy.create_node(
            "referee", namespace=namespace, context=self._context, parameter_overrides=simulated
        )
        self._said = self._node.create_publisher(String, say, reliable(10))
        self._node.create_subscription(String, hear, self._on_result, reliable(10))
        latched = reliable(1, latched=True)
        self._node.create_subscription(
            TrackerStatus, "sa2va_tracker/status", self._on_status, latched
        )
        if watch is not None:
            self._watch = watch
            self._node.create_subscription(Image, "overlay", self._on_image, NEWEST_IMAGE)
        self._services: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="referee", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def __enter__(self) -> Referee:
        """Use as `with Referee(...) as referee`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave DDS."""
        self._executor.shutdown()
        self._context.try_shutdown()
        self._thread.join(5)

    def _on_result(self, message: String) -> None:
        self._answers.append(json.loads(message.data))

    def _on_status(self, message: TrackerStatus) -> None:
        self.status = message

    def _on_image(self, message: Image) -> None:
        self._watch(nanoseconds(message.header.stamp) / 1e9, rgb_from_image(message))

    # --- what it does -----------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether the tracker works and somebody takes commands and answers them."""
        working = (TrackerStatus.ACTIVE, TrackerStatus.DEGRADED)
        active = self.status is not None and self.status.state in working
        listeners = self._said.get_subscription_count()
        told = self._node.get_clock().now().nanoseconds > 0
        served = self._service("next_episode").service_is_ready()
        return bool(active and listeners and told and served)

    def ask(self, service: str, seconds: float = 30.0) -> dict[str, Any]:
        """Call one of the simulator's Trigger services; its message is JSON.

        Raises:
            RuntimeError: no answer, or a refusal.
        """
        done = threading.Event()
        future = self._service(service).call_async(Trigger.Request())
        future.add_done_callback(lambda _: done.set())
        if not done.wait(seconds):
            raise RuntimeError(f"{self._simulator}/{service} did not answer in {seconds:.0f} s")
        answer = future.result()
        if not answer.success:
            raise RuntimeError(f"{self._simulator}/{service}: {answer.message}")
        return dict(json.loads(answer.message))

    def command(
        self, text: str, seconds: float, alive: Callable[[], bool] = lambda: True
    ) -> dict[str, Any] | None:
        """Say something and return the result that follows; None if none comes in time.

        Raises:
            RuntimeError: a process ended (`alive` says so).
        """
        self._answers.clear()
        self._said.publish(String(data=text))
        deadline = Deadline(self._node, seconds)
        while not deadline.passed:
            if self._answers:
                return self._answers[-1]
            if not alive():
                raise RuntimeError("a node ended before the episode was over; see its log")
            time.sleep(0.02)
        return None

    def now(self) -> float:
        """Seconds of simulated time."""
        return now(self._node)

    def rest(self, seconds: float) -> None:
        """Let simulated time pass."""
        deadline = Deadline(self._node, seconds)
        while not deadline.passed:
            time.sleep(0.01)

    def _service(self, name: str) -> Any:
        if name not in self._services:
            self._services[name] = self._node.create_client(Trigger, f"{self._simulator}/{name}")
        return self._services[name]
