# SPDX-License-Identifier: Apache-2.0
"""Topics that are received together, and the map of classes that is made of them."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

from builtin_interfaces.msg import Time

from sa2va_model.errors import InputError
from sa2va_ros.clients import message_filters as adapter
from sa2va_ros.clients.message_filters import Pairing
from sa2va_ros.clients.semantic_grid import Grid, marked_points
from sa2va_ros.space.cameras import Camera
from sa2va_ros.space.depth import DepthBuffer

Sets = list[tuple[int, ...]]
NO_FILTERS = "message_filters is not installed: it comes with a ROS 2 distribution"


def message(stamp: int) -> Any:
    sec, nanosec = divmod(stamp, 10**9)
    header = SimpleNamespace(stamp=Time(sec=sec, nanosec=nanosec), frame_id="")
    return SimpleNamespace(header=header, number=stamp, data=b"")


def stream(seed: int, topics: int, jitter: float) -> list[tuple[int, int]]:
    """(topic, stamp in ns) in the order of arrival: ten a second, some lost, some late."""
    random = np.random.default_rng(seed)
    sent = []
    for k in range(60):
        for topic in range(topics):
            if random.random() < 0.85:
                stamp = round((k * 0.1 + random.uniform(0, jitter)) * 1e9) + 10**18
                sent.append((stamp + random.exponential(3e7), topic, stamp))
    return [(topic, stamp) for _, topic, stamp in sorted(sent)]


def ours(sent: list[tuple[int, int]], topics: int, slop: float) -> Sets:
    got: Sets = []
    pairing = Pairing(topics, lambda *m: got.append(tuple(x.number for x in m)), 10, slop)
    for topic, stamp in sent:
        pairing.add(topic, message(stamp))
    return got


def theirs(sent: list[tuple[int, int]], topics: int, slop: float) -> Sets:
    filters = pytest.importorskip("message_filters", reason=NO_FILTERS)
    got: Sets = []
    inputs = [filters.SimpleFilter() for _ in range(topics)]
    made: Any = filters.TimeSynchronizer(inputs, 10)
    if slop:
        made = filters.ApproximateTimeSynchronizer(inputs, 10, slop)
    made.registerCallback(lambda *m: got.append(tuple(x.number for x in m)))
    for topic, stamp in sent:
        inputs[topic].signalMessage(message(stamp))
    return got


@pytest.mark.parametrize(("slop", "jitter"), [(0.0, 0.0), (0.02, 0.015), (0.05, 0.08)])
@pytest.mark.parametrize("topics", [2, 3])
def test_sets_are_those_of_message_filters(topics: int, slop: float, jitter: float) -> None:
    for seed in range(5):
        sent = stream(seed, topics, jitter)
        found = ours(sent, topics, slop)
        assert len(found) >= 15
        assert found == theirs(sent, topics, slop)


@pytest.mark.parametrize(("slop", "jitter"), [(0.0, 0.0), (0.02, 0.015)])
def test_the_nodes_pairing_has_every_pair_of_message_filters(slop: float, jitter: float) -> None:
    """With a slop below half a period; the node takes no late depth from an image that has one as near."""
    for seed in range(5):
        sent = stream(seed, 2, jitter)
        buffer, images = DepthBuffer(), []
        for topic, stamp in sent:
            if topic == 0:
                images.append((stamp, buffer.pin(message(stamp).header, slop)))
            else:
                buffer.add_depth(message(stamp))
        paired = {(s, pin.message.number) for s, pin in images if pin.message is not None}
        assert set(theirs(sent, 2, slop)) <= paired


def test_equal_stamps_come_together_in_any_order_and_bounds_hold() -> None:
    assert ours([(0, 5), (1, 6), (1, 5), (0, 6)], 2, 0.0) == [(5, 5), (6, 6)]
    got: Sets = []
    pairing = Pairing(2, lambda *m: got.append(tuple(x.number for x in m)), queue=3)
    for stamp in range(1, 100):
        pairing.add(0, message(stamp))
    pairing.add(1, message(50))
    assert not got  # it waited for too long
    pairing.add(1, message(98))
    assert got == [(98, 98)]


def test_what_is_installed_is_used() -> None:
    assert (adapter._filters is not None) == (find_spec("message_filters") is not None)


def test_the_surest_pixel_of_a_cell_counts_and_is_forgotten() -> None:
    grid = Grid(size=0.4, resolution=0.1, decay=2.0)
    points = np.array([[-0.05, 0.05], [-0.02, 0.01], [0.15, 0.15], [0.3, 0.0], [-0.21, 0.0]])
    grid.add(points, np.array([0.4, 0.9, 0.5, 1.0, 1.0]), 10.0)
    expected = np.zeros((4, 4), int)
    expected[2, 1], expected[3, 3] = 90, 50  # row = y, column = x; the last two are outside
    np.testing.assert_array_equal(grid.values(12.0), expected)
    grid.add(points[2:3], np.array([0.2]), 12.0)
    expected[2, 1], expected[3, 3] = 0, 20
    np.testing.assert_array_equal(grid.values(12.5), expected)


def test_points_are_those_of_the_class_with_depth() -> None:
    camera = Camera(np.array([[10.0, 0, 1], [0, 10.0, 1], [0, 0, 1]]), 3, 2)
    mask = np.array([[0, 1, 2], [1, 0, 2]], np.uint8)
    sure = np.array([[0, 51, 255], [102, 0, 204]], np.uint8)
    metres = np.array([[1, 2, np.nan], [2, 2, 4]], np.float32)
    points, confidence = marked_points(mask, sure, metres, camera, 1)
    np.testing.assert_allclose(points, [[0, -0.2, 2], [-0.2, 0, 2]])
    np.testing.assert_allclose(confidence, [0.2, 0.4])
    assert len(marked_points(mask, sure, metres, camera)[0]) == 3
    with pytest.raises(InputError, match="expected one size"):
        marked_points(mask[:1], sure, metres, camera)
