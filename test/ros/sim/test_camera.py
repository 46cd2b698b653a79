# SPDX-License-Identifier: Apache-2.0
"""The simulator as a camera: what it publishes belongs together, and is what the simulator
renders."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

SETTINGS = {"scene": "demo", "width": 96, "height": 72, "rate": 5.0}


@pytest.fixture(scope="module")
def published(
    start_node: Callable[..., Any], start_client: Callable[[str], Any], wait_for: Any
) -> Any:
    """What came of a few seconds."""
    from geometry_msgs.msg import TransformStamped
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import String

    from sa2va_ros.support.qos import reliable

    client = start_client("/camera")
    for kind, topic in (
        (Image, "image"),
        (Image, "depth"),
        (Image, "truth"),
        (CameraInfo, "camera_info"),
    ):
        client.listen(kind, topic, reliable(20))
    client.listen(String, "truth_names", reliable(1, latched=True))
    client.listen(TransformStamped, "camera_transform", reliable(20, latched=True))
    node = start_node("sim_camera", remaps=("__ns:=/camera",), **SETTINGS)

    def whole() -> list[Any]:
        return [stamp for stamp in by_stamp(client, "image") if together(client, stamp)]

    def enough() -> bool:
        assert node.process.poll() is None, node.output
        return len(whole()) >= 5 and bool(client.got["truth_names"])

    wait_for(enough, 240, f"images: {node.output}")
    sets = [together(client, stamp) for stamp in whole()]
    assert node.stop() == 0, node.output
    assert "Traceback" not in node.output
    return SimpleNamespace(sets=sets, names=client.got["truth_names"][-1].data)


def by_stamp(client: Any, topic: str) -> dict[int, Any]:
    from sa2va_ros.messages.images import nanoseconds

    return {nanoseconds(message.header.stamp): message for message in list(client.got[topic])}


def together(client: Any, stamp: int) -> Any:
    """All messages of one stamp, or None if one is missing."""
    topics = ("image", "depth", "truth", "camera_info", "camera_transform")
    found = [by_stamp(client, topic).get(stamp) for topic in topics]
    return (
        SimpleNamespace(stamp=stamp, **dict(zip(topics, found, strict=True)))
        if all(found)
        else None
    )


def test_one_header_for_all_that_belongs_to_one_image(published: Any) -> None:
    for one in published.sets:
        assert one.image.header == one.depth.header == one.truth.header == one.camera_info.header
        assert one.image.header.frame_id == "camera_optical_frame"
        assert one.camera_transform.child_frame_id == one.image.header.frame_id
        encodings = (one.image.encoding, one.depth.encoding, one.truth.encoding)
        assert encodings == ("rgb8", "32FC1", "mono8")
    steps = np.diff([one.stamp for one in published.sets]) / 0.2e9
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)  # whole periods, none twice
    assert (steps > 0.5).all()


def test_it_is_what_the_simulator_renders_at_that_time(published: Any) -> None:
    from sa2va_ros.messages.images import array_from_image, depth_from_image, rgb_from_image
    from sa2va_ros.sim.camera import SHADOWS
    from sa2va_sim.scripted import demo_scene
    from sa2va_sim.simulator import Simulator

    size = SETTINGS["width"], SETTINGS["height"]
    simulator = Simulator(demo_scene(0).scene, *size, shadows=SHADOWS)
    first = rgb_from_image(published.sets[0].image)
    frame = simulator.render()
    while not close(frame.rgb, first):  # the first image that arrived is not the first one taken
        assert simulator.time < 61, "no such picture in the scene's minute"
        simulator.step(0.2)
        frame = simulator.render()
    begin = simulator.time
    for one in published.sets:
        simulator.step(begin + (one.stamp - published.sets[0].stamp) / 1e9 - simulator.time)
        frame = simulator.render()
        assert close(frame.rgb, rgb_from_image(one.image))
        assert (frame.instances == array_from_image(one.truth)).mean() > 0.999
        assert np.abs(frame.depth - depth_from_image(one.depth)).mean() < 1e-3
        np.testing.assert_allclose(np.reshape(one.camera_info.k, (3, 3)), frame.camera_matrix)
    simulator.close()


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal pictures, but for what rounding of the time does to a few pixels."""
    return float(np.abs(one.astype(int) - other).mean()) < 0.1


def test_pose_and_names_are_those_of_the_scene(published: Any) -> None:
    from sa2va_ros.sim.camera import quaternion
    from sa2va_sim.scripted import demo_scene

    demo = demo_scene(0)
    names = json.loads(published.names)
    assert [f"the {name}" for name in names.values()] == list(demo.expressions)
    assert list(names) == [str(k + 1) for k in range(len(demo.expressions))]
    transform = published.sets[0].camera_transform.transform
    poses = [demo.scene.camera.pose(k * 0.2) for k in range(301)]
    here = (transform.translation.x, transform.translation.y, transform.translation.z)
    pose = min(poses, key=lambda p: np.linalg.norm(p[:3, 3] - here))
    np.testing.assert_allclose(pose[:3, 3], here, atol=1e-6)
    turn = transform.rotation
    np.testing.assert_allclose(
        (turn.x, turn.y, turn.z, turn.w), quaternion(pose[:3, :3]), atol=1e-6
    )


@pytest.mark.parametrize("seed", range(5))
def test_quaternions_turn_as_their_matrices(seed: int) -> None:
    from sa2va_ros.sim.camera import quaternion

    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    x, y, z, w = quaternion(rotation)
    expected = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    np.testing.assert_allclose(rotation, expected, atol=1e-12)
    half_turn = quaternion(np.diag([1.0, -1.0, -1.0]))
    np.testing.assert_allclose(np.abs(half_turn), [1, 0, 0, 0], atol=1e-12)


def test_a_bad_parameter_ends_it_with_one_line(start_node: Callable[..., Any]) -> None:
    node = start_node("sim_camera", scene="moon")
    assert node.process.wait(240) == 2, node.output
    assert "parameter scene is 'moon'; expected one of random, demo" in node.output
    assert len(node.output.strip().splitlines()) == 1
