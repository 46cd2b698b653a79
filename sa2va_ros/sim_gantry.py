# SPDX-License-Identifier: Apache-2.0
"""The tabletop simulator with a gripper on a gantry, as a robot's driver and a camera.

Besides what `sim_camera` publishes:

    joint_states       50 Hz; gantry_x, gantry_y, gantry_z (m), gantry_yaw (rad), gripper (m, opening)
    joint_trajectory   trajectory_msgs/JointTrajectory with all five joints: goes there, as a
                       joint_trajectory_controller does
    truth_target       latched JSON {"expression": "the green bottle", "value": 3}: what the
                       episode's sentence means, as the value in `truth`
    ~/next_episode     std_srvs/Trigger: the table of the next seed, the first time that of `seed`;
                       the message is JSON with the sentence
    ~/score            std_srvs/Trigger: the truth about what was done so far, as JSON

The tool point lies between the finger tips, in the frame `world`: z up, the table at z = 0.
`camera_transform` says where the camera is in it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from sa2va_ros.conversions import fill_time
from sa2va_ros.outputs import reliable
from sa2va_ros.parameters import Parameter
from sa2va_ros.sim_camera import WORLD, SimCamera, names, run

if TYPE_CHECKING:
    from sa2va_sim.gantry import GantrySimulator

KINDS = ("attribute", "size", "position", "relation")
TABLE = (
    Parameter(
        "seed", 0, "Which table is the first; each further episode adds 1.", span=(0, 2**31 - 1)
    ),
    Parameter(
        "sentences",
        "attribute",
        "Kinds of sentences, with + between them: attribute, size, position, relation.",
    ),
    Parameter("rate", 10.0, "Images per second, if rendering keeps up.", span=(0.1, 120.0)),
    Parameter("joint_rate", 50.0, "Joint states per second.", span=(1.0, 500.0)),
    Parameter("width", 320, "Pixels.", span=(16, 4096)),
    Parameter("height", 240, "Pixels.", span=(16, 4096)),
    Parameter(
        "frame_id", "camera_optical_frame", "Frame of the images: x right, y down, z forward."
    ),
)
LIFTED = 0.05  # metres above its place: lifted
_SLICE = 0.02  # seconds of physics between two looks at the fingers
_BEHIND = 0.5  # seconds; a machine that falls back further lets simulated time slow down


class SimGantry(SimCamera):
    """Physics and pictures on a timer, on the thread that spins."""

    def __init__(self) -> None:
        self._episodes = 0
        self._gripped: set[int] = set()
        super().__init__("sim_gantry", TABLE)
        self._joints = self.create_publisher(JointState, "joint_states", reliable(10))
        self.create_subscription(JointTrajectory, "joint_trajectory", self._go, reliable(10))
        self.create_service(Trigger, "~/next_episode", self._next_episode)
        self.create_service(Trigger, "~/score", self._tell_score)
        self._joint_period = 1.0 / self._value("joint_rate")
        self._simulated, self._joints_told = 0.0, 0.0

    def _make_simulator(self) -> GantrySimulator:
        from sa2va_sim.grasp_scene import grasp_episode

        self._target_topic = self.create_publisher(
            String, "truth_target", reliable(1, latched=True)
        )
        self._kinds = kinds_of(self._value("sentences"))
        return self._begin(grasp_episode)

    def _begin(self, grasp_episode: Any) -> GantrySimulator:
        self._seed = self._value("seed") + max(self._episodes - 1, 0)
        size = self._value("width"), self._value("height")
        simulator, self._sentence = grasp_episode(self._seed, self._kinds, *size)
        self._gripped = set()
        meant = {"expression": self._sentence.text, "value": self._sentence.target + 1}
        self._target_topic.publish(String(data=json.dumps(meant)))
        return simulator  # type: ignore[no-any-return]

    # --- time -------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic() - self._began
        if now - self._simulated > _BEHIND:
            self._began += now - self._simulated - _BEHIND
            now = time.monotonic() - self._began
        while self._simulated + _SLICE <= now:
            self._simulator.step(_SLICE)
            self._simulated += _SLICE
            both = [k for k, fingers in self._simulator.touched().items() if fingers == 2]
            self._gripped.update(both)
        if self._simulated - self._joints_told >= self._joint_period:
            self._joints_told = self._simulated
            self._tell_joints()
        due = int(self._simulated / self._period)
        if due > self._frame:
            self._frame = due
            self._publish()

    def _tell_joints(self) -> None:
        from sa2va_sim.gantry import JOINTS

        state = self._simulator.joints()
        message = JointState(name=list(JOINTS), position=state.position)
        message.velocity, message.effort = state.velocity, state.effort
        message.header.frame_id = WORLD
        fill_time(message.header.stamp, self._start + round(self._simulated * 1e9))
        self._joints.publish(message)

    # --- goals ------------------------------------------------------------------------------------

    def _go(self, message: JointTrajectory) -> None:
        from sa2va_sim.gantry import JOINTS

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

    # --- the referee ------------------------------------------------------------------------------

    def _next_episode(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        from sa2va_sim.grasp_scene import grasp_episode

        self._simulator.close()
        self._episodes += 1
        self._simulator = self._begin(grasp_episode)
        self._names.publish(String(data=json.dumps(names(self._simulator.scene))))
        response.success = True
        response.message = json.dumps(
            {
                "seed": self._seed,
                "expression": self._sentence.text,
                "kind": self._sentence.kind,
                "target": self._sentence.target,
                "objects": list(names(self._simulator.scene).values()),
            }
        )
        return response

    def _tell_score(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        simulator = self._simulator
        count = len(simulator.scene.items)
        places = np.stack([simulator.place(k) for k in range(count)])
        began = np.array([item.position for item in simulator.scene.items])
        held = [k for k, fingers in simulator.touched().items() if fingers == 2]
        response.success = True
        response.message = json.dumps(
            {
                "target": self._sentence.target,
                "lifted": [k for k in range(count) if simulator.rise(k) > LIFTED],
                "held": held,
                "gripped": sorted(self._gripped),
                "rise": [round(simulator.rise(k), 4) for k in range(count)],
                "places": np.round(places, 4).tolist(),
                "began": np.round(began, 4).tolist(),
            }
        )
        return response


def kinds_of(text: str) -> tuple[str, ...]:
    """The kinds of sentences that a parameter names.

    Raises:
        InputError: one of them is not known.
    """
    from sa2va_model.errors import InputError

    kinds = tuple(part.strip() for part in text.split("+"))
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"sentences '{text}': '{kind}' is none of {', '.join(KINDS)}")
    return kinds


def main(args: list[str] | None = None) -> int:
    """Run the simulator until it is told to stop; the exit status is 2 if it could not start."""
    return run(SimGantry, "sim_gantry", args)


if __name__ == "__main__":
    raise SystemExit(main())
