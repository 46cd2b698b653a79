# SPDX-License-Identifier: Apache-2.0
"""Where tracked objects are in space: mask, depth and camera of one image together. No ROS."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.tracks import FrameResult, Track
from sa2va_ros.space.depth import DepthFrame
from sa2va_ros.space.mask_to_object import CloudConfig, Solid, object_from_mask
from sa2va_ros.space.velocity import VelocityEstimator


@dataclass(frozen=True)
class Place:
    """Where the results are told: the camera's frame, or another one.

    Attributes:
        frame: its name.
        transform: [4, 4] from the camera's optical frame; None = it is that frame.
        up: [3], which way is up there; None = not known.
    """

    frame: str
    transform: np.ndarray | None = None
    up: np.ndarray | None = None


@dataclass(frozen=True)
class Located:
    """One object in space, with its velocity [3] in m/s."""

    object_from_mask: Solid
    velocity: np.ndarray


@dataclass(frozen=True)
class Scene3D:
    """All objects of one image in space.

    Attributes:
        place: their frame.
        found: by track id.
        problems: why a track that has a mask is not among them, by track id.
        problem: why none is; "" if that is not so.
    """

    place: Place
    found: dict[str, Located] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    problem: str = ""


class Locator:
    """Finds objects in space, image after image, and knows how they move."""

    def __init__(self) -> None:
        self._motions: dict[str, VelocityEstimator] = {}

    def reset(self) -> None:
        """Forget how things moved."""
        self._motions.clear()

    def locate(
        self,
        result: FrameResult,
        rgb: np.ndarray,
        depth: DepthFrame,
        place: Place,
        config: CloudConfig,
    ) -> Scene3D:
        """All tracks with a mask."""
        found: dict[str, Located] = {}
        problems: dict[str, str] = {}
        for track in result.tracks:
            if track.mask is None:
                continue
            try:
                seen = locate_one(track, rgb, depth, place, config)
            except InputError as error:
                problems[track.id] = str(error)
                continue
            motion = self._motions.setdefault(track.id, VelocityEstimator())
            found[track.id] = Located(seen, motion.update(result.stamp, seen.centroid))
        alive = {track.id for track in result.tracks}
        self._motions = {name: motion for name, motion in self._motions.items() if name in alive}
        return Scene3D(place, found, problems)


def locate_one(
    track: Track, rgb: np.ndarray, depth: DepthFrame, place: Place, config: CloudConfig
) -> Solid:
    """One track in space.

    Raises:
        InputError: it has no mask on this image, or too little depth.
    """
    if track.mask is None:
        raise InputError(
            f"track '{track.id}' is {track.state.name} on the newest image; expected one that is seen"
        )
    return object_from_mask(
        track.mask, depth.metres, rgb, depth.camera, config, transform=place.transform, up=place.up
    )
