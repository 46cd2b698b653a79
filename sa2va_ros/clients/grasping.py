# SPDX-License-Identifier: Apache-2.0
"""From the points of an object to a grasp from above with two fingers: axis, width, depth, and room for the fingers.

Pure numpy, no ROS. Everything is in a frame whose z points up and whose z = 0 is the table. A camera sees one side
only, so a plan trusts what is seen well: the outline across the line of sight, and the upper part.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_TABLE = 0.004  # metres; what is lower is the table's
_CELL = 0.008  # metres, grid in which an object hangs together
_UNSEEN = 0.025  # metres of an object's far side that a camera may not see
_FINE = 0.003  # metres, grid in which its outline is measured


@dataclass(frozen=True)
class Gripper:
    """What the plan must know of a parallel gripper. Metres.

    Attributes:
        opening: most between the fingers.
        thickness, breadth: of one finger, along the closing direction and across it.
        reach: how far the fingers go down beside an object at most.
        palm: height of the palm above the finger tips; nothing may be higher between the fingers.
        margin: that an open finger keeps from the object on either side.
    """

    opening: float = 0.13
    thickness: float = 0.018
    breadth: float = 0.022
    reach: float = 0.045
    palm: float = 0.12
    margin: float = 0.014


@dataclass(frozen=True)
class Grasp:
    """Where to close the fingers.

    Attributes:
        position: of the middle between the finger tips, metres.
        yaw: of the closing direction about z, radians, within half a turn of 0.
        width: of the object there; `opening`: with which to come down. Metres.
        top: highest point of the object, metres.
        clearance: obstacle points beside the fingers; fewer is better.
    """

    position: tuple[float, float, float]
    yaw: float
    width: float
    opening: float
    top: float
    clearance: int


class NoGraspError(Exception):
    """There is no grasp; `cause` is `bad 3D` (the points are not those of an object) or `no room`."""

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


def plan_grasp(
    points: np.ndarray,
    obstacles: np.ndarray,
    eye: np.ndarray,
    gripper: Gripper | None = None,
) -> Grasp:
    """The best grasp from above.

    Args:
        points: float [N, 3], of the object.
        obstacles: float [M, 3], of everything else above the table.
        eye: float [3], where the camera is.

    Raises:
        NoGraspError: with its cause.
    """
    gripper = gripper or Gripper()
    points = one_piece(points)
    top = float(np.quantile(points[:, 2], 0.98))
    if top < 0.012:
        raise NoGraspError("bad 3D", f"the points are at most {top * 1000:.0f} mm high")
    tip = max(0.008, top - min(gripper.reach, 0.6 * top))
    section = from_above(points[points[:, 2] > tip - 0.004])
    sight = section.mean(0) - eye[:2]
    sight /= np.linalg.norm(sight) + 1e-9
    best: tuple[float, Grasp] | None = None
    narrowest = np.inf
    for yaw in np.deg2rad(np.arange(-90, 90, 7.5)):
        # Along the line of sight only the near side is seen: such widths are too small.
        along = abs(float(np.array([np.cos(yaw), np.sin(yaw)]) @ sight))
        grasp = _candidate(section, float(yaw), tip, top, obstacles, gripper, _UNSEEN * along)
        narrowest = min(narrowest, grasp.width)
        if grasp.width + 2 * gripper.margin > gripper.opening or grasp.clearance > 3:
            continue
        cost = grasp.width + 0.03 * along + 0.004 * grasp.clearance
        if best is None or cost < best[0]:
            best = cost, grasp
    if best is not None:
        return best[1]
    if narrowest + 2 * gripper.margin > gripper.opening:
        raise NoGraspError("no room", f"it is {narrowest * 100:.0f} cm wide where it is narrowest")
    raise NoGraspError("no room", "something stands where the fingers would come down")


def from_above(points: np.ndarray) -> np.ndarray:
    """The outline as seen from above: one place [N, 2] for each cell that holds points.

    An upright face that looks at the camera has many points; from above it is as thin as one that does not.
    """
    cells = np.unique(np.floor(points[:, :2] / _FINE).astype(np.int64), axis=0)
    return (cells + 0.5) * _FINE


def one_piece(points: np.ndarray) -> np.ndarray:
    """The largest group of points that hangs together as seen from above, without the table's.

    Args:
        points: float [N, 3].

    Raises:
        NoGraspError: too few points, or they are scattered.
    """
    above = points[np.isfinite(points).all(1) & (points[:, 2] > _TABLE)]
    if len(above) < 30:
        raise NoGraspError("bad 3D", f"{len(above)} points above the table; expected 30 or more")
    labels = _pieces(above)
    sizes = np.bincount(labels)
    largest = int(sizes.argmax())
    if sizes[largest] < 0.6 * len(above):
        raise NoGraspError("bad 3D", "the points are in several places")
    return above[labels == largest]


def whole(points: np.ndarray, scene: np.ndarray, most: float = 0.25) -> np.ndarray:
    """All points of the thing that an object's points lie on, for masks that miss a part of it.

    Things are told apart by the gaps between them; where they touch, the result is larger than `most` metres, and the
    object's own points are returned.

    Args:
        points: float [N, 3], of the object; `scene`: float [M, 3], of everything above the table.
    """
    if not len(scene) or not len(points):
        return points
    together = np.concatenate([points, scene])
    labels = _pieces(together)
    label = int(np.bincount(labels[: len(points)]).argmax())
    grown = together[labels == label]
    return grown if np.ptp(grown[:, :2], axis=0).max() <= most else points


def rival(points: np.ndarray, scene: np.ndarray) -> float:
    """How much a mask lies on a second thing: its points there over those on the first, 0..1.

    Args:
        points: float [N, 3], of the mask; `scene`: float [M, 3], of everything above the table.
    """
    above = points[np.isfinite(points).all(1) & (points[:, 2] > 2 * _TABLE)]
    if not len(above):
        return 0.0
    sizes = np.sort(np.bincount(_pieces(np.concatenate([above, scene]))[: len(above)]))
    return float(sizes[-2] / sizes[-1]) if len(sizes) > 1 else 0.0


def _pieces(points: np.ndarray) -> np.ndarray:
    """Which group each point [N, 3] belongs to, int [N]: groups have a gap between them as seen from above.

    Raises:
        NoGraspError: the points spread too far for one table.
    """
    cells = np.floor((points[:, :2] - points[:, :2].min(0)) / _CELL).astype(int)
    if cells.max() > 300:
        raise NoGraspError("bad 3D", f"the points spread over {cells.max() * _CELL:.1f} m")
    grid = np.zeros(cells.max(0) + 3, np.uint8)
    grid[cells[:, 0] + 1, cells[:, 1] + 1] = 1
    grid = cv2.morphologyEx(grid, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    labels: np.ndarray = cv2.connectedComponents(grid, connectivity=8)[1]
    return labels[cells[:, 0] + 1, cells[:, 1] + 1]


def _candidate(
    section: np.ndarray,
    yaw: float,
    tip: float,
    top: float,
    obstacles: np.ndarray,
    gripper: Gripper,
    unseen: float,
) -> Grasp:
    """The grasp with one closing direction; `unseen`: metres by which it may be wider than it looks."""
    closing = np.array([np.cos(yaw), np.sin(yaw)])
    across = np.array([-closing[1], closing[0]])
    u, v = section @ closing, section @ across
    low, high = (float(q) for q in np.quantile(u, (0.01, 0.99)))
    middle = (low + high) / 2
    # Where the pads will touch: the middle of the two outermost strips, not of the whole outline (a mug has a handle).
    strip = min(0.008, 0.2 * (high - low) + 1e-3)
    sides = [float(np.median(v[side])) for side in (u < low + strip, u > high - strip)]
    offset = sum(sides) / 2
    width = high - low
    opening = min(gripper.opening, width + 2 * gripper.margin + 0.012 + unseen)
    centre = middle * closing + offset * across
    blocked = _blocked(obstacles, centre, closing, across, opening, tip, gripper)
    position = (float(centre[0]), float(centre[1]), tip)
    return Grasp(position, yaw, width, opening, top, blocked)


def _blocked(
    obstacles: np.ndarray,
    centre: np.ndarray,
    closing: np.ndarray,
    across: np.ndarray,
    opening: float,
    tip: float,
    gripper: Gripper,
) -> int:
    """Obstacle points where the fingers, or the palm above them, would be."""
    if not len(obstacles):
        return 0
    u = np.abs((obstacles[:, :2] - centre) @ closing)
    v = np.abs((obstacles[:, :2] - centre) @ across)
    z, air = obstacles[:, 2], 0.006
    outer = opening / 2 + gripper.thickness + air
    fingers = (u > opening / 2 - air) & (u < outer) & (v < gripper.breadth / 2 + air)
    palm = (u < gripper.opening / 2 + gripper.thickness + air) & (v < gripper.breadth + air)
    hit = (fingers & (z > tip - air)) | (palm & (z > tip + gripper.palm))
    return int(np.count_nonzero(hit))


def without(points: np.ndarray, target: np.ndarray, distance: float = 0.012) -> np.ndarray:
    """The points that are not within about `distance` metres of the target's.

    Args:
        points: float [N, 3].
        target: float [M, 3].
    """
    if not len(points) or not len(target):
        return points
    low = np.minimum(points.min(0), target.min(0)) - 2 * distance
    cells = np.floor((points - low) / distance).astype(np.int64)
    held = np.unique(np.floor((target - low) / distance).astype(np.int64), axis=0)
    steps = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    near = (held[:, None] + steps).reshape(-1, 3)
    scale = np.array([1 << 40, 1 << 20, 1])
    return points[~np.isin(cells @ scale, near @ scale)]
