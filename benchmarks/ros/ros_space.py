# SPDX-License-Identifier: Apache-2.0
"""3D errors in centimetres against the simulator, at 0.5 to 1.5 m.

    python benchmarks/ros/ros_space.py [--scenes 24] [--seed 0] [--model FOLDER] [--size 640x480]

What is published is the centroid of the visible surface: the mean of the points under the mask's pixels.
It is compared with the same from the simulator's true mask and true depth, and with the middle of the
object, which nobody sees. Depth is 16UC1 (whole millimetres) with a stereo camera's noise and holes.
Masks: the simulator's own; and those that the model finds for an unambiguous sentence. Of the latter,
only those that mean the right object (IoU above .5) count for 3D; how many do not is told.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_ros.space.mask_to_object import Camera, CloudConfig, depth_deviation, object_from_mask

NEAR, FAR = 0.5, 1.5
RIGHT = 0.5  # IoU from which on a mask means the right object
HOLES = 0.03  # share of pixels that a stereo camera does not measure


@dataclass
class Errors:
    """Centimetres, one number for each object."""

    surface: list[float] = field(default_factory=list)
    middle: list[float] = field(default_factory=list)
    box_middle: list[float] = field(default_factory=list)
    within: list[bool] = field(default_factory=list)
    refused: int = 0
    wrong: int = 0

    def report(self) -> dict[str, Any]:
        """Percentiles."""

        def percentiles(values: list[float]) -> list[float]:
            return [round(float(np.percentile(values, p)), 2) for p in (50, 95)]

        return {
            "objects": len(self.surface),
            "centroid against the true visible surface, p50 and p95 (cm)": percentiles(
                self.surface
            ),
            "centroid against the middle of the object (cm)": percentiles(self.middle),
            "middle of the box against the middle of the object (cm)": percentiles(self.box_middle),
            "truth within three standard deviations": round(float(np.mean(self.within)), 3),
            "refused": self.refused,
            "wrong object or nothing": self.wrong,
        }


def scenes(first: int, count: int, width: int, height: int) -> Iterator[tuple[Any, Any]]:
    """Seeded tables from the seed `first` on, each with one picture."""
    from sa2va_sim.scene import SceneConfig, sample_scene
    from sa2va_sim.simulator import Simulator

    for seed in range(first, first + count):
        simulator = Simulator(sample_scene(seed, SceneConfig(objects=(3, 6))), width, height)
        yield simulator, simulator.render()
        simulator.close()


def sentences(frame: Any, rng: np.random.Generator) -> dict[int, str]:
    """An unambiguous sentence for each object that has one, by its index."""
    from sa2va_sim.words.expressions import describe

    said: dict[int, str] = {}
    for expression in describe(frame.facts, rng, motion=False):
        if expression.target is not None:
            said.setdefault(expression.target, expression.text)
    return said


def middle(simulator: Any, frame: Any, index: int) -> np.ndarray:
    """The middle of an object's extent, in the camera's frame."""
    item = simulator.scene.items[index]
    position, rotation = simulator._stage.body_pose(f"object_{item.slot}")
    corners = np.concatenate(simulator.scene.world.stock[item.slot].outline)
    centre = rotation @ ((corners.min(0) + corners.max(0)) / 2) + position
    camera = np.linalg.inv(frame.world_from_camera)
    return np.asarray(camera[:3, :3] @ centre + camera[:3, 3])


def measured(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a stereo camera would send as 16UC1, decoded."""
    noisy = (
        depth + rng.normal(size=depth.shape) * depth_deviation(1.0) * np.maximum(depth, 0.3) ** 2
    )
    whole = np.round(noisy * 1000) / 1000
    whole[rng.random(depth.shape) < HOLES] = np.nan
    return whole.astype(np.float32)


def add(errors: Errors, mask: np.ndarray, truth: np.ndarray, world: Any) -> None:
    """Measure one object."""
    simulator, frame, index, depth, camera = world
    rows, columns = np.nonzero(truth)
    true = camera.rays(columns, rows) * frame.depth[rows, columns][:, None]
    try:
        found = object_from_mask(mask, depth, frame.rgb, camera, CloudConfig())
    except InputError:
        errors.refused += 1
        return
    off = found.centroid - true.mean(0)
    errors.surface.append(100 * float(np.linalg.norm(off)))
    centre = middle(simulator, frame, index)
    errors.middle.append(100 * float(np.linalg.norm(found.centroid - centre)))
    errors.box_middle.append(100 * float(np.linalg.norm(found.box.centre - centre)))
    distance = off @ np.linalg.solve(found.covariance[:3, :3], off)
    errors.within.append(bool(distance < 14.16))  # chi squared, three degrees of freedom, 99.7 %


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="of the first scene")
    parser.add_argument("--model", default=None)
    parser.add_argument("--size", default="640x480")
    arguments = parser.parse_args()
    from sa2va_model.checkpoints.load import load_model, suit_threads

    model = load_model(arguments.model)
    suit_threads(model)
    width, height = (int(side) for side in arguments.size.split("x"))
    rng = np.random.default_rng(7)
    own, named = Errors(), Errors()
    for simulator, frame in scenes(arguments.seed, arguments.scenes, width, height):
        depth = measured(frame.depth, rng)
        camera = Camera(frame.camera_matrix, width, height)
        said = sentences(frame, rng)
        for fact in frame.facts:
            truth = frame.instances == fact.index + 1
            if truth.sum() < 200 or not NEAR <= float(frame.depth[truth].mean()) <= FAR:
                continue
            world = (simulator, frame, fact.index, depth, camera)
            add(own, truth, truth, world)
            if fact.index not in said:
                continue
            answer = model.segment(frame.rgb, said[fact.index])
            mask = answer.masks[0] if len(answer.masks) else np.zeros_like(truth)
            if (mask & truth).sum() < RIGHT * (mask | truth).sum():
                named.wrong += 1
                continue
            add(named, mask, truth, world)
    print(json.dumps({"true masks": own.report(), "masks of the model": named.report()}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
