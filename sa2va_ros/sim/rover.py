# SPDX-License-Identifier: Apache-2.0
"""A wheeled base with a camera in the simulator: takes speeds, tells odometry, sees one thing wander among others.

Besides what `sim_camera` and `sim_robot` tell:

    cmd_vel            geometry_msgs/Twist: linear.x (m/s) and angular.z (rad/s); without a new one for
                       half a second the base stops
    odom               nav_msgs/Odometry, 50 Hz, exact: `odom` is where the base began
    camera_mount       latched TransformStamped: the camera in `base_link`
    /tf, /tf_static    the same two, where tf2_msgs is installed
"""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped, Twist
from nav_msgs.msg import Odometry

from sa2va_ros.messages.clouds import fill_point, fill_pose
from sa2va_ros.messages.images import fill_time
from sa2va_ros.sim.camera import run
from sa2va_ros.sim.robot import TABLE as SHARED
from sa2va_ros.sim.robot import SimRobot
from sa2va_ros.sim.tf_messages import TfMessages
from sa2va_ros.space.mask_to_object import quaternion
from sa2va_ros.support.parameter import Parameter
from sa2va_ros.support.qos import reliable

ODOM, BASE = "odom", "base_link"
TABLE = (
    *SHARED,
    Parameter("seconds", 40.0, "Length of the leader's way.", span=(5.0, 3600.0)),
)
IN_VIEW = 0.5  # of the object's silhouette inside the image and not hidden: it is in view
_STOP_AFTER = 0.5  # seconds without a command


class SimRover(SimRobot):
    """The base, its odometry and a referee who looks at the distance."""

    def __init__(self) -> None:
        self._record: list[tuple[float, ...]] = []
        self._commanded = 0.0
        super().__init__("sim_rover", TABLE)
        self._odometry = self.create_publisher(Odometry, "odom", reliable(10))
        self._mount = self.create_publisher(
            TransformStamped, "camera_mount", reliable(1, latched=True)
        )
        self._tf = TfMessages(self)
        self.create_subscription(Twist, "cmd_vel", self._drive, reliable(5))
        self._tell_mount()

    def _begin(self, seed: int) -> tuple[Any, str, int, dict[str, Any]]:
        from sa2va_sim.robots.follow_scene import follow_scene
        from sa2va_sim.robots.rover import RoverSimulator

        made = follow_scene(seed, self._value("seconds"), self._value("scene"))
        self._record = []
        size = self._value("width"), self._value("height")
        return RoverSimulator(made.scene, *size), made.expression, made.target, {}

    def _drive(self, message: Twist) -> None:
        try:
            self._simulator.drive(message.linear.x, message.angular.z)
            self._commanded = self._simulated
        except ValueError as error:
            self.get_logger().warning(f"cmd_vel refused: {error}", throttle_duration_sec=1.0)

    def _looked(self) -> None:
        if self._simulated - self._commanded > _STOP_AFTER:
            self._simulator.drive(0.0, 0.0)

    def _rendered(self, frame: Any) -> None:
        simulator = self._simulator
        place = simulator.place(self._target)
        seen = simulator.seen(frame, self._target) >= IN_VIEW
        stamp = self._start / 1e9 + self._frame * self._period
        row = (simulator.time, stamp, seen, simulator.distance(self._target), place[0], place[1])
        self._record.append(row)

    # --- what is told -----------------------------------------------------------------------------

    def _tell_state(self, stamp: int) -> None:
        base = self._simulator.base
        pose = base.pose()
        message = Odometry(child_frame_id=BASE)
        message.header.frame_id = ODOM
        fill_time(message.header.stamp, stamp)
        fill_pose(message.pose.pose, pose[:3, 3], pose[:3, :3])
        message.twist.twist.linear.x, message.twist.twist.angular.z = base.speed, base.turn
        self._odometry.publish(message)
        if self._tf.available:
            self._tf.send([transform(pose, ODOM, BASE, message.header.stamp)])

    def _tell_mount(self) -> None:
        from sa2va_sim.robots.rover import base_from_camera

        now = self.get_clock().now().to_msg()
        mounted = transform(base_from_camera(), BASE, self._value("frame_id"), now)
        self._mount.publish(mounted)
        self._tf.send([mounted], static=True)

    def _score(self) -> dict[str, Any]:
        simulator = self._simulator
        items = range(len(simulator.scene.items))
        record = np.array(self._record, float).reshape(-1, 6)
        return {
            "time": np.round(record[:, 0], 3).tolist(),
            "stamp": np.round(record[:, 1], 3).tolist(),
            "in_view": (record[:, 2] > 0.5).tolist(),
            "distance": np.round(record[:, 3], 3).tolist(),
            "path": np.round(record[:, 4:], 3).tolist(),
            "others": [
                np.round(simulator.place(k)[:2], 3).tolist() for k in items if k != self._target
            ],
        }


def transform(pose: np.ndarray, parent: str, child: str, stamp: Any) -> TransformStamped:
    """A pose [4, 4] of `child` in `parent`."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp
    fill_point(message.transform.translation, pose[:3, 3])
    turned = message.transform.rotation
    turned.x, turned.y, turned.z, turned.w = quaternion(pose[:3, :3])
    return message


def main(args: list[str] | None = None) -> int:
    """Run the simulator until it is asked to stop; the exit status is 2 if it could not start."""
    return run(SimRover, "sim_rover", args)


if __name__ == "__main__":
    raise SystemExit(main())
