# SPDX-License-Identifier: Apache-2.0
"""The tabletop simulator as a camera: image, depth, camera_info, and the truth about every pixel.

What is published is a function of the scene's parameters and of the time since the start. Where
rendering is slower than `rate`, frames are left out and simulated time keeps pace with the clock.
Stamps are the time of the start plus simulated time.

    image             rgb8                                depth         32FC1, metres
    camera_info       pinhole, no distortion              truth         mono8 label image, 0 =
    background truth_names       latched JSON {"1": "red mug", …}    camera_transform  latched,
    world from camera
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from sa2va_ros.messages.images import fill_image, fill_time
from sa2va_ros.space.mask_to_object import quaternion
from sa2va_ros.support.parameter import Parameter, declare
from sa2va_ros.support.qos import reliable
from sa2va_ros.support.spinning import serve

WORLD = "world"
SHADOWS = 512
"""Side of the map of shadows, in its pixels: half of the world's own is enough for small pictures, and quicker."""
TABLE = (
    Parameter(
        "scene",
        "random",
        "random: a table that is a function of `seed`; demo, kitchen: the scripted scenes of `sa2va demo`.",
        choices=("random", "demo", "kitchen"),
    ),
    Parameter("seed", 0, "Which table.", span=(0, 2**31 - 1)),
    Parameter(
        "moving", 0.3, "Probability that an object of a random table moves.", span=(0.0, 1.0)
    ),
    Parameter("seconds", 30.0, "Length of the motions on a random table.", span=(1.0, 3600.0)),
    Parameter("rate", 10.0, "Images per second, if rendering keeps up.", span=(0.1, 120.0)),
    Parameter("width", 320, "Pixels.", span=(16, 4096)),
    Parameter("height", 240, "Pixels.", span=(16, 4096)),
    Parameter(
        "frame_id", "camera_optical_frame", "Frame of the images: x right, y down, z forward."
    ),
)


class SimCamera(Node):
    """Renders on a timer, on the thread that spins: OpenGL contexts do not travel."""

    def __init__(self, name: str = "sim_camera", table: tuple[Parameter, ...] = TABLE) -> None:
        super().__init__(name)
        declare(self, table)
        self._image = self.create_publisher(Image, "image", reliable(5))
        self._depth = self.create_publisher(Image, "depth", reliable(5))
        self._truth = self.create_publisher(Image, "truth", reliable(5))
        self._info = self.create_publisher(CameraInfo, "camera_info", reliable(5))
        self._names = self.create_publisher(String, "truth_names", reliable(1, latched=True))
        self._pose = self.create_publisher(
            TransformStamped, "camera_transform", reliable(1, latched=True)
        )
        self._simulator = self._make_simulator()
        self._names.publish(String(data=json.dumps(names(self._simulator.scene))))
        self._period = 1.0 / self._value("rate")
        self._frame = 0
        self._began = time.monotonic()
        self._start = self.get_clock().now().nanoseconds
        self._publish()
        # Looks more often than the rate, so that a frame comes soon after its time.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(min(self._period / 4, 0.01), self._tick, clock=steady)

    def close(self) -> None:
        """Free the drawing context."""
        self._simulator.close()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _make_simulator(self) -> Any:
        # Here and not at the top: MuJoCo is an extra, and choosing a way to draw takes a moment.
        from sa2va_sim.scene import SceneConfig, sample_scene
        from sa2va_sim.scripted import demo_scene
        from sa2va_sim.simulator import Simulator

        if self._value("scene") == "demo":
            scene = demo_scene(self._value("seed")).scene
        elif self._value("scene") == "kitchen":
            from sa2va_sim.catalogue.kitchen import kitchen_scene

            scene = kitchen_scene(self._value("seed")).scene
        else:
            config = SceneConfig(
                objects=(3, 6), moving=self._value("moving"), seconds=self._value("seconds")
            )
            scene = sample_scene(self._value("seed"), config)
        return Simulator(scene, self._value("width"), self._value("height"), shadows=SHADOWS)

    def _tick(self) -> None:
        due = int((time.monotonic() - self._began) / self._period)
        if due > self._frame:
            self._simulator.step((due - self._frame) * self._period)
            self._frame = due
            self._publish()

    def _render(self) -> Any:
        return self._simulator.render(facts=False)  # nobody here reads them

    def _rendered(self, frame: Any) -> None:
        """A picture was taken; for simulators that keep a record."""

    def _publish(self) -> None:
        frame = self._render()
        self._rendered(frame)
        header = Header(frame_id=self._value("frame_id"))
        fill_time(header.stamp, self._start + round(self._frame * self._period * 1e9))
        self._info.publish(camera_info(frame.camera_matrix, frame.rgb.shape[:2], header))
        if self._depth.get_subscription_count():
            self._depth.publish(fill_image(Image(), frame.depth, "32FC1", header))
        if self._truth.get_subscription_count():
            self._truth.publish(fill_image(Image(), frame.instances, "mono8", header))
        self._image.publish(fill_image(Image(), frame.rgb, "rgb8", header))
        self._pose.publish(camera_transform(frame.world_from_camera, header))


def names(scene: Any) -> dict[str, str]:
    """The label image's values, as JSON has keys, and what they are: colour and shape."""
    stock = scene.world.stock
    return {
        str(index + 1): f"{item.colour} {stock[item.slot].shape}"
        for index, item in enumerate(scene.items)
    }


def camera_info(matrix: np.ndarray, size: tuple[int, int], header: Header) -> CameraInfo:
    """A pinhole camera without distortion.

    Args:
        matrix: float64 [3, 3].
        size: height and width in pixels.
    """
    info = CameraInfo(header=header, height=size[0], width=size[1], distortion_model="plumb_bob")
    info.d = [0.0] * 5
    info.k = matrix.ravel().tolist()
    info.r = np.eye(3).ravel().tolist()
    info.p = np.column_stack([matrix, np.zeros(3)]).ravel().tolist()
    return info


def camera_transform(world_from_camera: np.ndarray, header: Header) -> TransformStamped:
    """The camera's pose in the world, at the image's stamp, as TF has it: child = the camera."""
    message = TransformStamped(child_frame_id=header.frame_id)
    message.header.stamp, message.header.frame_id = header.stamp, WORLD
    x, y, z = world_from_camera[:3, 3].tolist()
    translation = message.transform.translation
    translation.x, translation.y, translation.z = x, y, z
    rotation = message.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = quaternion(world_from_camera[:3, :3])
    return message


def run(make: Callable[[], SimCamera], name: str, args: list[str] | None) -> int:
    """Run a simulator until it is asked to stop; the exit status is 2 if it could not start."""
    return serve(name, lambda _: make(), args, (RuntimeError, ImportError))


def main(args: list[str] | None = None) -> int:
    """Run the camera until it is asked to stop; the exit status is 2 if it could not start."""
    return run(SimCamera, "sim_camera", args)


if __name__ == "__main__":
    raise SystemExit(main())
