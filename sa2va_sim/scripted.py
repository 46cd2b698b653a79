# SPDX-License-Identifier: Apache-2.0
"""The demo's scene: five objects on a table for a minute. One wanders, one leaves the picture twice and comes back.

Who is away when is known beforehand, so that a demonstration can ask for the right thing and judge what it gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sa2va_sim.layout import CameraTrack, Item, Light, Motion, Scene, Triple, turn_z
from sa2va_sim.words.vocabulary import COLOURS
from sa2va_sim.world import World, sample_world

PERIOD = 60.0  # seconds; then it begins again
_CAST = (
    ("red", "mug"),
    ("blue", "ball"),
    ("green", "bottle"),
    ("yellow", "block"),
    ("white", "bowl"),
)
_PLACES: tuple[tuple[float, float], ...] = (
    (-0.21, -0.06),
    (0.22, 0.06),
    (0.06, 0.17),
    (0.10, -0.13),
    (-0.10, 0.16),
)
_OUTSIDE = 0.75  # metres to the right, well out of the picture


@dataclass(frozen=True)
class Absence:
    """A time in which an object is wholly out of the picture.

    Attributes:
        item: index of the object.
        leaves: seconds, when it sets off towards the border.
        gone, back: seconds; between them no pixel of it is seen.
        returned: seconds, when it stands at its place again.
    """

    item: int
    leaves: float
    gone: float
    back: float
    returned: float


@dataclass(frozen=True)
class DemoScene:
    """The scene and its script.

    Attributes:
        expressions: per object, in the order of their index, a sentence that means it and nothing else.
        wanderer: index of the object that moves about and always stays in view.
        absences: who leaves when.
        absent: a sentence without a referent in this scene, a near miss.
    """

    scene: Scene
    expressions: tuple[str, ...]
    wanderer: int
    absences: tuple[Absence, ...]
    absent: str


def demo_scene(seed: int = 0) -> DemoScene:
    """The scripted scene. The seed changes the room, the light and the objects' proportions, not the script."""
    rng = np.random.default_rng([seed, 0xDE30])
    world = sample_world(
        [0x0DE30, seed],
        tuple(shape for _, shape in _CAST),
        clutter=1,
        plain=True,
        scales=(1.15, 1.3),
    )
    colours = [tuple(value / 255.0 for value in COLOURS[colour]) for colour, _ in _CAST]
    expressions = tuple(f"the {colour} {shape}" for colour, shape in _CAST)
    names = [colour for colour, _ in _CAST]
    return play(world, names, colours, expressions, "the purple book", rng)


def play(
    world: World,
    names: Sequence[str],
    colours: Sequence[tuple[float, ...]],
    expressions: tuple[str, ...],
    absent: str,
    rng: np.random.Generator,
) -> DemoScene:
    """The script with the five objects of a world's stock.

    Args:
        names, colours: of each; RGB in 0..1.
        expressions, absent: see `DemoScene`.
    """
    absences = (
        Absence(1, leaves=21.0, gone=23.0, back=28.0, returned=30.0),
        Absence(1, leaves=48.0, gone=50.0, back=54.0, returned=56.0),
    )
    motions = {0: _wander(_PLACES[0]), 1: _leave_and_return(_PLACES[1], absences)}
    items = []
    for k, colour in enumerate(names):
        red, green, blue = colours[k]
        yaw = np.pi + rng.uniform(-0.4, 0.4) if k == 0 else rng.uniform(-0.5, 0.5)
        items.append(
            Item(
                k,
                colour,
                (red, green, blue),
                (*_PLACES[k], 0.0),
                turn_z(yaw),
                motions.get(k),
                k in motions,
            )
        )
    lights = (
        Light((float(rng.uniform(-0.6, 0.6)), -0.7, 1.9), (0.0, 0.0, 0.0), (0.62, 0.61, 0.58)),
        Light((0.9, 0.6, 1.6), (0.0, 0.0, 0.0), (0.18, 0.18, 0.2)),
    )
    pen = Item(0, "", (0.25, 0.22, 0.2), (-0.3, 0.22, 0.0), turn_z(0.6))
    scene = Scene(world, tuple(items), (pen,), lights, 0.3, _drift(), shadows=True, period=PERIOD)
    return DemoScene(scene, expressions, 0, absences, absent)


def _drift() -> CameraTrack:
    """A camera that sways slowly and is back at its place after a period."""
    times = np.linspace(0, PERIOD, 9)
    sway = 2 * np.pi * times / PERIOD
    eyes = np.stack(
        [0.09 * np.sin(sway), -0.68 + 0.04 * np.sin(2 * sway), 0.50 + 0.03 * np.sin(sway + 1.0)], 1
    )
    aims = np.stack(
        [0.02 * np.sin(sway), 0.03 + 0.01 * np.sin(2 * sway), np.full(len(times), 0.04)], 1
    )
    return CameraTrack(
        tuple(times.tolist()),
        tuple(map(_triple, eyes)),
        tuple(map(_triple, aims)),
        (0.0,) * len(times),
        0.82,
    )


def _triple(values: np.ndarray) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


def _wander(start: tuple[float, float]) -> Motion:
    """Short trips on the left front of the table, with pauses."""
    stops = [
        (0.0, 0.0),
        (0.0, 0.0),
        (0.09, -0.07),
        (0.16, -0.02),
        (0.05, 0.05),
        (-0.06, 0.02),
        (0.0, -0.06),
        (0.0, 0.0),
    ]
    times, places, yaws = [0.0], [(*start, 0.0)], [0.0]
    for n, (dx, dy) in enumerate(stops[1:]):
        arrive = PERIOD * (n + 1) / (len(stops) - 1)
        for time in (arrive - 1.5, arrive) if n + 2 < len(stops) else (arrive,):
            times.append(time)
            places.append((start[0] + dx, start[1] + dy, 0.0))
            yaws.append(0.25 * float(np.sin(n)) if n + 2 < len(stops) else 0.0)
    return Motion(tuple(times), tuple(places), tuple(yaws))


def _leave_and_return(home: tuple[float, float], absences: tuple[Absence, ...]) -> Motion:
    """Out over the right border and back, once per absence."""
    here, away = (*home, 0.0), (_OUTSIDE, home[1], 0.0)
    times: list[float] = [0.0]
    places: list[Triple] = [here]
    for absence in absences:
        times += [absence.leaves, absence.gone, absence.back, absence.returned]
        places += [here, away, away, here]
    return Motion(tuple(times), tuple(places), (0.0,) * len(times))
