# SPDX-License-Identifier: Apache-2.0
"""The tabletop simulator with a gripper on a gantry, as a robot's driver and a camera.

Besides what `sim_camera` and `sim_robot` tell:

    joint_states       50 Hz; gantry_x, gantry_y, gantry_z (m), gantry_yaw (rad), gripper (m, opening)
    joint_trajectory   trajectory_msgs/JointTrajectory with all five joints: goes there, as a
                       joint_trajectory_controller does

The tool point lies between the finger tips, in the frame `world`: z up, the table at z = 0.
`camera_transform` says where the camera is in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from sa2va_model.errors import InputError
from sa2va_ros.messages.images import fill_time
from sa2va_ros.sim.camera import WORLD, run
from sa2va_ros.sim.robot import TABLE as SHARED
from sa2va_ros.sim.robot import SimRobot
from sa2va_ros.support.parameter import Parameter
from sa2va_ros.support.qos import reliable

KINDS = ("attribute", "size", "position", "relation")
TABLE = (
    *SHARED,
    Parameter(
        "sentences",
        "attribute",
        "Kinds of sentences about shapes, with + between them: attribute, size, position, relation.",
    ),
)
LIFTED = 0.05  # metres above its place: lifted


class SimGantry(SimRobot):
    """Physics, joints and a referee who looks at the fingers."""

    def __init__(self) -> None:
        self._gripped: set[int] = set()
        super().__init__("sim_gantry", TABLE)
        self._joints = self.create_publisher(JointState, "joint_states", reliable(10))
        self.create_subscription(JointTrajectory, "joint_trajectory", self._go, reliable(10))

    def _begin(self, seed: int) -> tuple[Any, str, int, dict[str, Any]]:
        from sa2va_sim.robots.grasp_scene import grasp_episode

        kinds = kinds_of(self._value("sentences"))
        simulator, sentence = grasp_episode(
            seed,
            kinds,
            self._value("width"),
            self._value("height"),
            scene=self._value("scene"),
        )
        self._gripped = set()
        assert sentence.target is not None
        return simulator, sentence.text, sentence.target, {"kind": sentence.kind}

    def _looked(self) -> None:
        touched = self._simulator.touched()
        self._gripped.update(index for index, fingers in touched.items() if fingers == 2)

    def _tell_state(self, stamp: int) -> None:
        from sa2va_sim.robots.gantry import JOINTS

        state = self._simulator.joints()
        message = JointState(name=list(JOINTS), position=state.position)
        message.velocity, message.effort = state.velocity, state.effort
        message.header.frame_id = WORLD
        fill_time(message.header.stamp, stamp)
        self._joints.publish(message)

    def _go(self, message: JointTrajectory) -> None:
        from sa2va_sim.robots.gantry import JOINTS

        try:
            order = [list(message.joint_names).index(name) for name in JOINTS]
            way = []
            for point in message.points:
                when = point.time_from_start.sec + point.time_from_start.nanosec * 1e-9
                way.append((when, [point.positions[k] for k in order]))
            self._simulator.follow(way)
        except (ValueError, IndexError) as error:
            self.get_logger().warning(
                f"joint_trajectory refused: {error}; expected points for {', '.join(JOINTS)}"
            )

    def _score(self) -> dict[str, Any]:
        simulator = self._simulator
        count = len(simulator.scene.items)
        places = np.stack([simulator.place(k) for k in range(count)])
        began = np.array([item.position for item in simulator.scene.items])
        rise = [round(simulator.rise(k), 4) for k in range(count)]
        touched = simulator.touched()
        return {
            "lifted": [k for k in range(count) if rise[k] > LIFTED],
            "held": [index for index, fingers in touched.items() if fingers == 2],
            "gripped": sorted(self._gripped),
            "rise": rise,
            "places": np.round(places, 4).tolist(),
            "began": np.round(began, 4).tolist(),
        }


def kinds_of(text: str) -> tuple[str, ...]:
    """The kinds of sentences that a parameter names.

    Raises:
        InputError: one of them is not known.
    """
    kinds = tuple(part.strip() for part in text.split("+"))
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"sentences '{text}': '{kind}' is none of {', '.join(KINDS)}")
    return kinds


def main(args: list[str] | None = None) -> int:
    """Run the simulator until it is asked to stop; the exit status is 2 if it could not start."""
    return run(SimGantry, "sim_gantry", args)


if __name__ == "__main__":
    raise SystemExit(main())
