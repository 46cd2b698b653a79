#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what RViz and Foxglove show of a running tracker: docs/views.jpg.

    python tools/draw_views.py docs/views.jpg

The simulator's camera, the model that ships, and the node's own code for masks in space; only ROS is left out. Four
panels: overlay, mask, the points with the boxes of `markers` seen from the side, and the same from above.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sa2va_model import Frame, FrameResult, LiveConfig, LiveTracker, draw_overlay, load_model
from sa2va_model.io.overlay import colour
from sa2va_ros.space.cameras import Camera
from sa2va_ros.space.depth import DepthFrame
from sa2va_ros.space.localizer import Locator, Place, Scene3D
from sa2va_ros.space.mask_to_object import CloudConfig
from sa2va_sim.scripted import demo_scene
from sa2va_sim.simulator import Simulator

PANEL = (640, 480)
EXPRESSIONS = ("the red mug", "the green bottle", "the yellow block")
IMAGES, PERIOD = 12, 0.1
UP = np.array([0.0, 0.0, 1.0])
BACKGROUND, TEXT = (48, 48, 48), (235, 235, 235)
VIEWS = {
    "markers and points, from the left": ((-0.95, -0.75, 0.55), (0.0, 0.02, 0.04)),
    "the same, from above": ((0.0, -0.05, 1.25), (0.0, 0.02, 0.0)),
}


def main() -> None:
    """Track for a second, then draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", metavar="FILE")
    arguments = parser.parse_args()
    simulator = Simulator(demo_scene().scene, *PANEL)
    tracker = LiveTracker(load_model(device="cpu"), LiveConfig(background=False))
    for expression in EXPRESSIONS:
        tracker.track(expression)
    for k in range(IMAGES):
        shot = simulator.render()
        result = tracker.process(Frame(shot.rgb, k * PERIOD, k))
        simulator.step(PERIOD)
    tracker.close()
    simulator.close()
    camera = Camera(shot.camera_matrix, *PANEL)
    depth = DepthFrame(shot.depth, camera)
    place = Place("world", shot.world_from_camera, UP)
    scene = Locator().locate(result, shot.rgb, depth, place, CloudConfig())
    points, colours = cloud(shot.rgb, depth, shot.world_from_camera)
    panels = {
        "overlay": draw_overlay(shot.rgb, result),
        "mask": labels(result),
        **{name: view(*at, points, colours, scene, result) for name, at in VIEWS.items()},
    }
    write(arguments.output, panels)


def labels(result: FrameResult) -> np.ndarray:
    """The label image in colours, as viewers paint it: uint8 [H, W, 3]."""
    table = np.zeros((256, 3), np.uint8)
    for k, track in enumerate(result.tracks):
        table[track.mask_value] = colour(track, k)
    return table[result.labels()]


def cloud(rgb: np.ndarray, depth: DepthFrame, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All measured points in `world` and their colours, [N, 3] each."""
    rows, columns = np.nonzero(np.isfinite(depth.metres) & (depth.metres < 2.0))
    points = depth.camera.rays(columns, rows) * depth.metres[rows, columns][:, None]
    return points @ world[:3, :3].T + world[:3, 3], rgb[rows, columns]


def view(
    eye: tuple[float, ...],
    aim: tuple[float, ...],
    points: np.ndarray,
    colours: np.ndarray,
    scene: Scene3D,
    result: FrameResult,
) -> np.ndarray:
    """Points, grid, boxes and names from a place of one's own: uint8 [H, W, 3]."""
    look = Orbit(np.array(eye), np.array(aim))
    canvas = np.full((PANEL[1], PANEL[0], 3), BACKGROUND, np.uint8)
    for k in np.linspace(-0.5, 0.5, 11):
        for a, b in (((k, -0.5, 0), (k, 0.5, 0)), ((-0.5, k, 0), (0.5, k, 0))):
            look.line(canvas, np.array(a), np.array(b), (90, 90, 90), 1)
    pixels, far = look.pixels(points)
    order = np.argsort(-far)  # near ones are painted last
    inside = (pixels >= 0).all(1) & (pixels < PANEL).all(1) & (far > 0.05)
    order = order[inside[order]]
    canvas[pixels[order, 1], pixels[order, 0]] = colours[order]
    for k, track in enumerate(result.tracks):
        if track.id not in scene.found:
            raise RuntimeError(f"{track.id}: {scene.problems.get(track.id, 'has no mask')}")
        box, paint = scene.found[track.id].object_from_mask.box, colour(track, k)
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        corners = box.centre + (signs * box.size / 2) @ box.rotation.T
        for i in range(8):
            for j in range(i):
                if (signs[i] != signs[j]).sum() == 1:
                    look.line(canvas, corners[i], corners[j], paint, 2)
        top = box.centre + UP * (box.size.max() / 2 + 0.03)
        look.text(canvas, top, track.id, paint)
    return canvas


class Orbit:
    """A camera that looks from `eye` at `aim`, both [3] in `world`."""

    def __init__(self, eye: np.ndarray, aim: np.ndarray) -> None:
        forward = (aim - eye) / np.linalg.norm(aim - eye)
        right = np.cross(forward, UP)
        right /= np.linalg.norm(right)
        self._eye, self._axes = eye, np.stack([right, np.cross(forward, right), forward])

    def pixels(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points [N, 3] are, int [N, 2], and how far away, [N] metres."""
        seen = (points - self._eye) @ self._axes.T
        far = np.maximum(seen[:, 2], 1e-3)
        flat = seen[:, :2] / far[:, None] * PANEL[0] + np.array(PANEL) / 2
        return np.clip(flat, -1e4, 1e4).astype(int), seen[:, 2]

    def line(
        self,
        canvas: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        paint: tuple[int, ...],
        width: int,
    ) -> None:
        """Draw an edge."""
        (a, b), _ = self.pixels(np.stack([start, end]))
        cv2.line(canvas, a.tolist(), b.tolist(), paint, width, cv2.LINE_AA)

    def text(
        self, canvas: np.ndarray, place: np.ndarray, words: str, paint: tuple[int, ...]
    ) -> None:
        """Write over a point."""
        ((x, y),), _ = self.pixels(place[None])
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(canvas, words, (x - 45, y), font, 0.55, paint, 2, cv2.LINE_AA)


def write(path: str, panels: dict[str, np.ndarray]) -> None:
    """Write the panels in two columns, each with its title."""
    titled = []
    for title, panel in panels.items():
        image = Image.fromarray(panel)
        pen = ImageDraw.Draw(image)
        pen.rectangle((0, 0, PANEL[0], 26), fill=(20, 23, 28))
        pen.text((8, 3), title, fill=TEXT, font=ImageFont.load_default(16))
        titled.append(np.asarray(image))
    rows = [np.concatenate(titled[k : k + 2], axis=1) for k in range(0, len(titled), 2)]
    Image.fromarray(np.concatenate(rows)).save(path, quality=82, optimize=True)


if __name__ == "__main__":
    main()
