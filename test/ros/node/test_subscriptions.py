# SPDX-License-Identifier: Apache-2.0
"""A camera's subscription that goes deaf is made anew, over DDS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")


@pytest.fixture
def node() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("deaf", context=context)
    yield made
    made.destroy_node()
    rclpy.try_shutdown(context=context)


def test_a_topic_that_has_fallen_silent_is_subscribed_anew(node: Any) -> None:
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import String

    from sa2va_ros.node.subscriptions import CameraTopics
    from sa2va_ros.support.qos import NEWEST_IMAGE

    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    topics = CameraTopics(node, silence=0.2)
    got: list[Any] = []
    topics.subscribe(String, "image", got.append, NEWEST_IMAGE)
    sends = node.create_publisher(String, "image", 1)

    def send_until(count: int) -> None:
        end = time.monotonic() + 60.0
        while len(got) < count:
            assert time.monotonic() < end, f"{len(got)} messages"
            sends.publish(String(data=str(len(got))))
            executor.spin_once(timeout_sec=0.02)

    send_until(3)
    [wired] = topics._wired
    before = wired.subscription
    before.callback = lambda message: None  # as a reader that the middleware forgot
    send_until(6)
    assert wired.subscription is not before
    assert wired.renewals == 0
    topics.clear()
    executor.remove_node(node)


def test_what_waits_on_a_queue_is_there_before_an_image_is_used(node: Any) -> None:
    """Without a turn of the executor: on a busy machine one takes longer than many images."""
    from std_msgs.msg import String

    from sa2va_ros.node.subscriptions import CameraTopics
    from sa2va_ros.support.qos import NEWEST_IMAGE, SENSOR_QUEUE

    topics = CameraTopics(node)
    images: list[Any] = []
    depths: list[Any] = []
    topics.subscribe(String, "image", images.append, NEWEST_IMAGE)
    topics.subscribe(String, "depth", depths.append, SENSOR_QUEUE)
    sends = [node.create_publisher(String, name, 30) for name in ("image", "depth")]
    end = time.monotonic() + 60.0
    while not all(sender.get_subscription_count() for sender in sends):
        assert time.monotonic() < end
        time.sleep(0.02)
    for number in range(3):
        for sender in sends:
            sender.publish(String(data=str(number)))
    while len(depths) < 3:
        assert time.monotonic() < end, f"{len(depths)} depth images"
        topics.catch_up()
        time.sleep(0.02)
    assert [message.data for message in depths] == ["0", "1", "2"]
    assert not images
    assert topics._wired[1].heard is not None, "or it would pass for silent"
    topics.clear()
