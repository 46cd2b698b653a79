# SPDX-License-Identifier: Apache-2.0
"""Renders a scene with MuJoCo: colours, true instance masks, metric depth, camera matrices and facts.

Headless (see `gl`). One simulator belongs to one thread: OpenGL contexts do not travel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from sa2va_sim.layout import SEEDS_PER_WORLD, STILL, Scene, SceneConfig, turn_z
from sa2va_sim.scene import sample_scene
from sa2va_sim.stage import Stage
from sa2va_sim.words.facts import LabelledImage, ObjectFact, measure
from sa2va_sim.world import World, shared_world


@dataclass(frozen=True)
class SimFrame:
    """What the camera sees, and the truth about it.

    Attributes:
        rgb: uint8 [H, W, 3].
        instances: uint8 [H, W], 0 = background, k + 1 = object k.
        depth: float32 [H, W], metres along the optical axis.
        camera_matrix: float64 [3, 3]; pixel centres lie at whole numbers.
        world_from_camera: float64 [4, 4], optical axes: x right, y down, z forward.
        stamp: seconds since the scene began.
    """

    rgb: np.ndarray
    instances: np.ndarray
    depth: np.ndarray
    camera_matrix: np.ndarray
    world_from_camera: np.ndarray
    stamp: float
    index: int
    facts: tuple[ObjectFact, ...]


class Simulator:
    """A scene that lives: step time forward, render what the camera sees."""

    def __init__(
        self, scene: Scene, width: int = 640, height: int = 480, *, shadows: int | None = None
    ) -> None:
        """Compile the scene's world and open a drawing context of this size.

        Args:
            shadows: side of the map of shadows in its pixels; None = the world's own. In software it is half of the
                time of a small picture.

        Raises:
            RenderingUnavailableError: there is no way to draw on this machine.
        """
        self.width, self.height = width, height
        self._stage = Stage(scene.world, width, height, shadows)
        self.arrange(scene)

    def arrange(self, scene: Scene) -> None:
        """Begin another scene in the same world.

        Raises:
            ValueError: the scene belongs to another world.
        """
        if scene.world is not self._stage.world:
            raise ValueError("the scene's world is not the one this simulator was made for")
        self.scene = scene
        self.time, self._frames = 0.0, 0
        self._stage.arrange(scene)
        self._carry()

    def step(self, seconds: float) -> None:
        """Move the world on."""
        if not self.scene.physics:
            self.time += seconds
            self._carry()
            return
        timestep = float(self._stage.model.opt.timestep)
        for _ in range(max(1, round(seconds / timestep))):
            self.time += timestep
            self._carry(kinematics=False)
            self._stage.advance()
        self._carry()

    def render(self, *, facts: bool = True) -> SimFrame:
        """The picture and the truth at the present time; without `facts` there are none."""
        pose = self.scene.camera.pose(self.scene.clock(self.time))
        stage = self._stage
        stage.aim(pose, self.scene.camera.fovy)
        rgb = stage.draw()
        instances, depth = stage.draw_truth(self.scene)
        matrix = camera_matrix(self.width, self.height, self.scene.camera.fovy)
        known = tuple(self._facts(instances, matrix, pose)) if facts else ()
        frame = SimFrame(rgb, instances, depth, matrix, pose, self.time, self._frames, known)
        self._frames += 1
        return frame

    def close(self) -> None:
        """Free the drawing context."""
        self._stage.close()

    def _carry(self, kinematics: bool = True) -> None:
        for slot, item in self._stage.carried:
            if item.motion is not None:
                position, yaw = item.motion.at(self.scene.clock(self.time))
                self._stage.put(slot, position, turn_z(yaw) @ item.rotation)
        if kinematics:
            self._stage.settle()

    def _facts(
        self, instances: np.ndarray, matrix: np.ndarray, pose: np.ndarray
    ) -> list[ObjectFact]:
        camera_from_world = np.linalg.inv(pose)
        facts = []
        pixels = self.width * self.height
        for index, (box, count) in enumerate(measure(instances, len(self.scene.items))):
            item = self.scene.items[index]
            model = self.scene.world.stock[item.slot]
            position, rotation = self._stage.body_pose(f"object_{item.slot}")
            to_camera = camera_from_world[:3, :3] @ rotation
            shift = camera_from_world[:3, :3] @ position + camera_from_world[:3, 3]
            hulls = [hull @ to_camera.T + shift for hull in model.outline]
            whole = silhouette_area(hulls, matrix) if count else 1
            depth = float(np.mean(np.concatenate(hulls)[:, 2]))
            visible = min(1.0, count / max(whole, 1))
            facts.append(
                ObjectFact(
                    index,
                    item.colour,
                    model.shape,
                    model.extent,
                    box,
                    visible,
                    count / pixels,
                    depth,
                    item.moving,
                    model.names,
                    model.doubtful,
                    model.held_out,
                )
            )
        return facts


def camera_matrix(width: int, height: int, fovy: float) -> np.ndarray:
    """Pinhole matrix with square pixels; the optical axis meets the image in its middle.

    Args:
        fovy: vertical field of view, radians.
    """
    focal = height / 2 / np.tan(fovy / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def silhouette_area(hulls: list[np.ndarray], matrix: np.ndarray, near: float = 0.02) -> int:
    """Pixels that convex point sets cover together if nothing hides them and the image has no borders.

    Args:
        hulls: each float [N, 3] in camera coordinates.
    """
    outlines = []
    for hull in hulls:
        points = hull.copy()
        points[:, 2] = np.maximum(points[:, 2], near)
        pixels = points[:, :2] / points[:, 2:] * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
        outlines.append(pixels)
    every = np.concatenate(outlines)
    low, high = every.min(0), every.max(0)
    shrink = max(
        1.0, float((high - low).max()) / 1000.0
    )  # bounds the canvas for things that touch the lens
    size = np.ceil((high - low) / shrink).astype(int) + 3
    canvas = np.zeros((int(size[1]), int(size[0])), np.uint8)
    for pixels in outlines:
        hull = cv2.convexHull(((pixels - low) / shrink + 1).astype(np.float32))
        # Half a pixel in from the true border, because fillPoly also fills the pixels that the border crosses.
        cv2.fillConvexPoly(canvas, np.round(hull * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    border = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    crossed = 0.5 * sum(len(line) for line in border)
    return round(max(1.0, float(np.count_nonzero(canvas)) - crossed) * shrink**2)


# --- ready for training ----------------------------------------------------------------------------

_RENDER = (320, 240)  # shrinking it smooths the edges, cheaper than samples


_local = threading.local()  # OpenGL contexts belong to threads


def _simulator(number: int, room: Callable[[int], World] = shared_world) -> Simulator:
    """This thread's simulator of a world; one at a time, so that memory stays flat however many seeds a run draws."""
    held: tuple[object, Simulator] | None = getattr(_local, "held", None)
    if held is not None and held[0] == (room, number):
        return held[1]
    if held is not None:
        held[1].close()
    scene = sample_scene(number * SEEDS_PER_WORLD, world=room(number))
    _local.held = (room, number), Simulator(scene, *_RENDER)
    return _local.held[1]


def render_squashed(
    seed: int,
    size: int,
    layout: Callable[[int, World], Scene],
    room: Callable[[int], World] = shared_world,
) -> LabelledImage:
    """One still scene, the 4:3 picture squashed to a square.

    Seeds in rising order are fastest: SEEDS_PER_WORLD neighbours share a compiled world.

    Args:
        layout: the scene of a seed in a world.
        room: the world of a number, SEEDS_PER_WORLD seeds have the same.
    """
    simulator = _simulator(seed // SEEDS_PER_WORLD, room)
    simulator.arrange(layout(seed, simulator.scene.world))
    return _squash(simulator.render(), size)


def _squash(frame: SimFrame, size: int) -> LabelledImage:
    rgb = cv2.resize(frame.rgb, (size, size), interpolation=cv2.INTER_AREA)
    instances = cv2.resize(frame.instances, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    return LabelledImage(rgb, instances, frame.facts)


def render_labelled(seed: int, size: int = 192, config: SceneConfig = STILL) -> LabelledImage:
    """One still scene of a seed, as `render_squashed`."""
    return render_squashed(seed, size, lambda seed, world: sample_scene(seed, config, world))


def sim_clip(
    seed: int, frames: int = 8, size: int = 192, config: SceneConfig | None = None
) -> list[LabelledImage]:
    """A clip: things are carried to and fro, leave and return, drop; the camera may move."""
    rng = np.random.default_rng([seed, 0xC11B])
    interval = float(rng.uniform(0.08, 0.25))
    config = config or SceneConfig(moving=0.5, falling=0.2, seconds=max(interval * frames, 0.5))
    simulator = _simulator(seed // SEEDS_PER_WORLD)
    simulator.arrange(sample_scene(seed, config))
    clip = []
    for _ in range(frames):
        clip.append(_squash(simulator.render(), size))
        simulator.step(interval)
    return clip
