# SPDX-License-Identifier: Apache-2.0
"""A gripper on a gantry over the table: three slides, a turn and two fingers, moved by position controllers.

It hangs from above and grasps from above. Everything a robot's driver would know is here: joint positions, speeds and
efforts, and set-points that move along a trajectory. What only a referee may know (`lifted`, `touched`) is at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sa2va_sim.layout import Scene
from sa2va_sim.simulator import Simulator
from sa2va_sim.world import World

JOINTS = ("gantry_x", "gantry_y", "gantry_z", "gantry_yaw", "gripper")
OPEN = 0.13  # metres between the pads
# Beside the camera and high, out of its sight. Metres and radians, in the order of JOINTS.
PARKED = (-0.48, -0.46, 0.45, 0.0, OPEN)
LOW = (-0.5, -0.5, 0.0, -3.3, 0.0)
HIGH = (0.5, 0.5, 0.55, 3.3, OPEN)
PAD = (0.009, 0.011, 0.024)  # half sides of a finger pad: across the opening, along it, up
FORCE = 25.0  # newtons each finger presses with at most
_TIMESTEP = 0.002


def _mjcf() -> str:
    """The gantry: body origin = the tool point, in the middle between the pads' lower ends."""
    x, y, z = PAD
    lows, highs = LOW, HIGH
    slides = "".join(
        f'<joint name="{name}" type="slide" axis="{axis}" range="{lows[k]} {highs[k]}" damping="60"/>'
        for k, (name, axis) in enumerate(zip(JOINTS[:3], ("1 0 0", "0 1 0", "0 0 1"), strict=True))
    )
    fingers = "".join(
        f'<body name="finger_{side}" pos="{sign * x} 0 0">'
        f'<joint name="finger_{side}" type="slide" axis="{sign} 0 0" range="0 {OPEN / 2}" damping="8"/>'
        f'<geom type="box" size="{x} {y} {z}" pos="0 0 {z}" mass="0.08" rgba="0.16 0.16 0.18 1" '
        'friction="1.5 0.05 0.002" condim="6" solref="0.006 1" solimp="0.95 0.99 0.001"/>'
        f'<geom type="box" size="{x * 0.8} {y * 0.8} 0.04" pos="0 0 {2 * z + 0.04}" mass="0.05" '
        'rgba="0.55 0.56 0.6 1"/></body>'
        for side, sign in (("left", -1), ("right", 1))
    )
    top = 2 * z + 0.08
    palm = (
        f'<geom type="box" size="{OPEN / 2 + 2 * x} 0.022 0.018" pos="0 0 {top + 0.018}" mass="0.5" '
        'rgba="0.3 0.31 0.34 1"/>'
        f'<geom type="cylinder" size="0.02 0.35" pos="0 0 {top + 0.38}" mass="0.5" rgba="0.72 0.73 0.76 1" '
        'contype="0" conaffinity="0"/>'
    )
    servos = "".join(
        f'<position name="{name}" joint="{name}" kp="{kp}" kv="{kv}" ctrlrange="{lows[k]} {highs[k]}" '
        f'forcerange="-{force} {force}"/>'
        for k, (name, kp, kv, force) in enumerate(
            zip(
                JOINTS[:4],
                (9000, 9000, 9000, 60),
                (420, 420, 420, 4),
                (400, 400, 400, 20),
                strict=True,
            )
        )
    ) + "".join(
        f'<position name="finger_{side}" joint="finger_{side}" kp="1500" kv="20" ctrlrange="0 {OPEN / 2}" '
        f'forcerange="-{FORCE} {FORCE}"/>'
        for side in ("left", "right")
    )
    return (
        f'<option timestep="{_TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10" '
        'noslip_iterations="2"/>'
        f'<worldbody><body name="gantry" gravcomp="1">{slides}'
        f'<joint name="{JOINTS[3]}" type="hinge" axis="0 0 1" range="{lows[3]} {highs[3]}" damping="1"/>'
        f"{palm}{fingers}</body></worldbody><actuator>{servos}</actuator>"
    )


def with_gantry(world: World) -> World:
    """The same world with the gantry in it."""
    # Sections of MJCF may come again; MuJoCo merges them.
    return replace(world, xml=world.xml.removesuffix("</mujoco>") + _mjcf() + "</mujoco>")


@dataclass(frozen=True)
class JointState:
    """Where the joints are, how fast they move and what they press with; each in the order of JOINTS.

    `gripper` is the opening in metres; its effort is what both fingers press with together, closing is positive.
    """

    position: tuple[float, ...]
    velocity: tuple[float, ...]
    effort: tuple[float, ...]


class GantrySimulator(Simulator):
    """A table with free objects and the gantry over it. Set-points move on straight lines between waypoints."""

    def __init__(self, scene: Scene, width: int = 320, height: int = 240) -> None:
        """As `Simulator`; the scene's world must come from `with_gantry`."""
        self._goal = np.array(PARKED)
        self._way: list[tuple[float, np.ndarray]] = []
        super().__init__(replace(scene, physics=True), width, height)

    def arrange(self, scene: Scene) -> None:
        """Begin a scene with the gripper parked and everything at rest."""
        super().arrange(replace(scene, physics=True))
        data, model = self._stage.data, self._stage.model
        self._goal, self._way = np.array(PARKED), []
        for name, value in zip(JOINTS[:4], PARKED[:4], strict=True):
            data.joint(name).qpos[0] = value
        for side in ("left", "right"):
            data.joint(f"finger_{side}").qpos[0] = PARKED[4] / 2
        for item in self.scene.items:
            self._make_graspable(model, f"object_{item.slot}")
        self._stage.settle()
        self._rest = [float(self.place(k)[2]) for k in range(len(self.scene.items))]

    @staticmethod
    def _make_graspable(model: object, body: str) -> None:
        """Felt under everything: a ball that is touched does not roll away at once."""
        geoms = np.flatnonzero(model.geom_bodyid == model.body(body).id)  # type: ignore[attr-defined]
        model.geom_condim[geoms] = 6  # type: ignore[attr-defined]
        model.geom_friction[geoms] = (0.9, 0.02, 0.004)  # type: ignore[attr-defined]

    # --- what a driver does -----------------------------------------------------------------------

    def follow(self, waypoints: Sequence[tuple[float, Sequence[float]]]) -> None:
        """Go along waypoints from where the set-points are now; replaces what was under way.

        Args:
            waypoints: (seconds from now, positions in the order of JOINTS), in rising order of time.

        Raises:
            ValueError: a position is out of its joint's range, or times do not rise.
        """
        times = [seconds for seconds, _ in waypoints]
        if any(b <= a for a, b in zip([0.0, *times], times, strict=False)):
            raise ValueError(f"times of waypoints are {times}; expected them to rise from above 0")
        for _, positions in waypoints:
            for name, value, low, high in zip(JOINTS, positions, LOW, HIGH, strict=True):
                if not low - 1e-6 <= value <= high + 1e-6:
                    raise ValueError(f"{name} = {value:.4f}: expected {low} to {high}")
        self._way = [(0.0, self._goal.copy())]
        self._way += [(seconds, np.asarray(positions, float)) for seconds, positions in waypoints]
        self._way = [(self.time + seconds, positions) for seconds, positions in self._way]

    def joints(self) -> JointState:
        """The joints as they are now."""
        data = self._stage.data
        position = [float(data.joint(name).qpos[0]) for name in JOINTS[:4]]
        velocity = [float(data.joint(name).qvel[0]) for name in JOINTS[:4]]
        effort = [float(data.actuator(name).force[0]) for name in JOINTS[:4]]
        fingers = [f"finger_{side}" for side in ("left", "right")]
        position.append(sum(float(data.joint(name).qpos[0]) for name in fingers))
        velocity.append(sum(float(data.joint(name).qvel[0]) for name in fingers))
        effort.append(-sum(float(data.actuator(name).force[0]) for name in fingers))
        return JointState(tuple(position), tuple(velocity), tuple(effort))

    def step(self, seconds: float) -> None:
        """Move the world on, the set-points with it."""
        for _ in range(max(1, round(seconds / _TIMESTEP))):
            self.time += _TIMESTEP
            self._drive()
            self._carry(kinematics=False)
            self._stage.advance()
        self._carry()

    def _drive(self) -> None:
        if self._way:
            times = np.array([time for time, _ in self._way])
            points = np.stack([positions for _, positions in self._way])
            self._goal = np.array(
                [np.interp(self.time, times, points[:, k]) for k in range(len(JOINTS))]
            )
            if self.time >= times[-1]:
                self._way = []
        self._stage.data.ctrl[:4] = self._goal[:4]
        self._stage.data.ctrl[4:] = self._goal[4] / 2

    # --- what only a referee knows ----------------------------------------------------------------

    def place(self, index: int) -> np.ndarray:
        """Position of an object's origin, float [3]."""
        return self._stage.body_pose(f"object_{self.scene.items[index].slot}")[0]

    def rise(self, index: int) -> float:
        """Metres an object has gone up since the scene began."""
        return float(self.place(index)[2]) - self._rest[index]

    def touched(self) -> dict[int, int]:
        """Objects that the fingers touch now: index -> how many of the two fingers."""
        data, model = self._stage.data, self._stage.model
        fingers = {model.body(f"finger_{side}").id for side in ("left", "right")}
        owner = {model.body(f"object_{item.slot}").id: k for k, item in enumerate(self.scene.items)}
        found: dict[int, set[int]] = {}
        for contact in data.contact[: data.ncon]:
            one, two = (int(model.geom_bodyid[geom]) for geom in contact.geom)
            for finger, thing in ((one, two), (two, one)):
                if finger in fingers and thing in owner:
                    found.setdefault(owner[thing], set()).add(finger)
        return {index: len(which) for index, which in found.items()}
