# SPDX-License-Identifier: Apache-2.0
"""Short clips of what makes tracking hard, scripted with truth: five kinds, any number, each a function of its number.

occlusion    something passes in front of the target and waits there, or the target goes behind it
distractors  something that looks alike crosses the target's way, or stays when the target leaves
leaving      the target leaves the picture and comes back, often elsewhere
fast         the target jumps further than its own size between two frames
camera       the camera shakes and turns; in half of the clips the target leaves the picture by that
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sa2va_sim.layout import CameraTrack, Item, Light, Motion, Scene, Triple, turn_z
from sa2va_sim.simulator import Simulator
from sa2va_sim.textures import backdrop_colour
from sa2va_sim.words.vocabulary import SHAPES, sample_colour
from sa2va_sim.world import World, sample_world

KINDS = ("occlusion", "distractors", "leaving", "fast", "camera")
RATE = 10.0  # frames per second
SECONDS = 5.0
SIZE = (256, 192)
SETTLED = 0.8  # seconds of calm at the beginning, in which the target is named
_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "cyan")
_TALL = ("box", "bottle", "can")
_ASPECT = SIZE[0] / SIZE[1]


@dataclass(frozen=True)
class HardClip:
    """A clip and its truth.

    Attributes:
        name: kind and number.
        expression: means the target, and nothing else, on the first frame.
        target: its value in `instances`.
        rgb: uint8 [T, H, W, 3].
        instances: uint8 [T, H, W], 0 = background.
        visible: float32 [T], the share of itself that the target shows, 0..1.
        moving: bool, the camera moves.
    """

    name: str
    kind: str
    expression: str
    target: int
    rgb: np.ndarray
    instances: np.ndarray
    visible: np.ndarray
    moving: bool

    @property
    def stamps(self) -> np.ndarray:
        """Seconds of each frame, float64 [T]."""
        return np.arange(len(self.rgb)) / RATE


@dataclass
class _Script:
    """A scene in the making; item 0 is the target."""

    rng: np.random.Generator
    world: World
    camera: CameraTrack
    items: list[Item]
    expression: str

    def move(self, index: int, keys: list[tuple[float, np.ndarray]]) -> None:
        """Carries an item along (seconds, metres [3])."""
        times = tuple(time for time, _ in keys)
        places = tuple(_triple(place) for _, place in keys)
        motion = Motion(times, places, (0.0,) * len(keys))
        self.items[index] = replace(self.items[index], motion=motion, moving=True)

    def home(self, index: int) -> np.ndarray:
        """Where an item stands at first, metres [3]."""
        return np.asarray(self.items[index].position)

    def height(self, index: int) -> float:
        """Metres."""
        return self.world.stock[self.items[index].slot].height

    def extent(self, index: int) -> float:
        """Largest side in metres."""
        return self.world.stock[self.items[index].slot].extent

    def outside(self, index: int, side: float, time: float) -> np.ndarray:
        """A place on the table plane beyond the left (-1) or right (1) border, as the camera sees it at that time."""
        pose, start = self.camera.pose(time), self.home(index)
        right = pose[:3, 0] * [1, 1, 0]
        right /= np.linalg.norm(right)
        seen = pose[:3, :3].T @ (start - pose[:3, 3])
        half = seen[2] * np.tan(self.camera.fovy / 2) * _ASPECT
        way = side * right * (half - side * seen[0] + 1.2 * self.extent(index))
        return start + way


def hard_clip(number: int, size: tuple[int, int] = SIZE) -> HardClip:
    """The clip of that number; kinds take turns, so that any first N are a fair sample.

    Args:
        size: width and height in pixels.
    """
    kind = KINDS[number % len(KINDS)]
    rng = np.random.default_rng([number, 0x4A2D])
    script = _SCRIPTS[kind](rng)
    lights = (
        Light((float(rng.uniform(-0.6, 0.6)), -0.7, 1.9), (0.0, 0.0, 0.0), (0.6, 0.6, 0.58)),
        Light((0.9, 0.6, 1.6), (0.0, 0.0, 0.0), (0.18, 0.18, 0.2)),
    )
    shade = 0.7 * backdrop_colour(rng, vivid=0.0) / 255.0
    clutter = Item(
        0, "", (float(shade[0]), float(shade[1]), float(shade[2])), (-0.34, 0.3, 0.0), turn_z(0.6)
    )
    scene = Scene(
        script.world,
        tuple(script.items),
        (clutter,),
        lights,
        float(rng.uniform(0.2, 0.35)),
        script.camera,
        shadows=bool(rng.random() < 0.5),
    )
    return _render(scene, f"{kind}-{number:03d}", kind, script.expression, size)


def _render(scene: Scene, name: str, kind: str, expression: str, size: tuple[int, int]) -> HardClip:
    simulator = Simulator(scene, *size)
    rgb, instances, visible = [], [], []
    try:
        for _ in range(round(SECONDS * RATE)):
            frame = simulator.render()
            rgb.append(frame.rgb)
            instances.append(frame.instances)
            visible.append(frame.facts[0].visible)
            simulator.step(1.0 / RATE)
    finally:
        simulator.close()
    return HardClip(
        name,
        kind,
        expression,
        1,
        np.stack(rgb),
        np.stack(instances),
        np.asarray(visible, np.float32),
        len(scene.camera.times) > 1,
    )


# --- scenes ----------------------------------------------------------------------------------------


def _scene(
    rng: np.random.Generator, *, alike: str = "", first: str = "", tall: bool = False
) -> _Script:
    """Four or five objects in two rows, the target among them, before a resting camera.

    Args:
        alike: "colour" makes item 1 as colourful as the target, "twin" the same in everything.
        first: the shape of the target; "" = any.
        tall: item 2 is tall, to hide things.
    """
    count = int(rng.integers(4, 6))
    shapes = [str(s) for s in rng.permutation(SHAPES)[:count]]
    colours = [str(c) for c in rng.permutation(_COLOURS)[:count]]
    if first:
        shapes = [first, *[s for s in shapes if s != first]][:count]
    if tall:
        shapes[2] = next(s for s in _TALL if s != shapes[0])
        shapes[1:2] = [s for s in SHAPES if s not in shapes][:1]
    if alike:
        colours[1] = colours[0]
    if alike == "twin":
        shapes[1] = shapes[0]
    world = sample_world(
        [0x4A2D, int(rng.integers(1 << 30))],
        tuple(shapes),
        clutter=1,
        plain=True,
        scales=(1.0, 1.3),
    )
    spots = [(x, y) for y in (-0.09, 0.15) for x in (-0.22, 0.0, 0.22)]
    order = rng.permutation(len(spots))[:count]
    shades = {colour: sample_colour(rng, colour) / 255.0 for colour in colours}
    items = []
    for k, spot in enumerate(order):
        place = np.array([*(np.asarray(spots[int(spot)]) + rng.uniform(-0.03, 0.03, 2)), 0.0])
        shade = _triple(shades[colours[k]])
        items.append(Item(k, colours[k], shade, _triple(place), turn_z(rng.uniform(-0.5, 0.5))))
    eye = np.array([rng.uniform(-0.08, 0.08), -0.57, rng.uniform(0.38, 0.5)])
    aim = np.array([0.0, 0.03, 0.04])
    camera = CameraTrack((0.0,), (_triple(eye),), (_triple(aim),), (0.0,), 0.82)
    words = f"{colours[0]} {shapes[0]}"
    if alike == "twin":
        left = items[0].position[0] < items[1].position[0]
        words = f"{'leftmost' if left else 'rightmost'} {words}"
        if abs(items[0].position[0] - items[1].position[0]) < 0.12:  # one behind the other
            near = items[0].position[1] < items[1].position[1]
            words = f"{'nearest' if near else 'farthest'} {colours[0]} {shapes[0]}"
    return _Script(rng, world, camera, items, f"the {words}")


def _wander(script: _Script, index: int, start: float, reach: float = 0.1) -> None:
    """Short trips around its place."""
    home, keys, time = script.home(index), [(0.0, script.home(index))], start
    keys.append((start, home))
    while time < SECONDS:
        time += float(script.rng.uniform(0.6, 1.2))
        keys.append((time, home + np.array([*script.rng.uniform(-reach, reach, 2), 0.0])))
    script.move(index, keys)


# --- what happens ----------------------------------------------------------------------------------


def _occlusion(rng: np.random.Generator) -> _Script:
    script = _scene(rng, tall=True)
    hold = float(rng.uniform(0.4, 2.0))
    arrive = float(rng.uniform(SETTLED + 0.3, 1.6))
    eye = script.camera.pose(0.0)[:3, 3]
    middle = script.home(0) + np.array([0, 0, script.height(0) / 2])
    wide = max(script.extent(0), script.height(0)) / min(script.extent(2), script.height(2))
    near = float(
        np.clip(0.62 / wide, 0.28, 0.55)
    )  # so near to the camera that it covers the target
    cover = eye + (middle - eye) * near - [0, 0, script.height(2) / 2]
    side = float(rng.choice((-1.0, 1.0)))
    away = np.array([0.55 * side, 0.0, 0.0])
    if rng.random() < 0.6:  # something passes in front of the target
        keys = [(0.0, cover + away), (arrive - 0.6, cover + away), (arrive, cover)]
        keys += [(arrive + hold, cover), (arrive + hold + 0.6, cover - away)]
        script.move(2, keys)
        if rng.random() < 0.5:
            _wander(script, 0, SETTLED, 0.03)
        return script
    # The target goes behind something that stands there, and comes out again on either side.
    home = script.home(0)
    script.items[2] = replace(
        script.items[2], position=_triple(cover + np.array([0.17 * side, 0, 0]))
    )
    hidden = home + np.array([0.17 * side / near, 0.0, 0.0])
    out = home if rng.random() < 0.5 else home + np.array([0.34 * side / near, 0.0, 0.0])
    keys = [(0.0, home), (arrive - 0.4, home), (arrive, hidden), (arrive + hold, hidden)]
    script.move(0, [*keys, (arrive + hold + 0.5, out)])
    return script


def _distractors(rng: np.random.Generator) -> _Script:
    script = _scene(rng, alike="twin" if rng.random() < 0.4 else "colour")
    home, other = script.home(0), script.home(1)
    variant = int(rng.integers(3))
    start = float(rng.uniform(SETTLED, 1.3))
    if variant == 0:  # the other one passes closely, in front or behind
        way = home - other
        over = home + way / (np.linalg.norm(way) + 1e-9) * 0.16
        shift = np.array([0.0, float(rng.choice((-0.075, 0.06))), 0.0])
        keys = [
            (0.0, other),
            (start, other),
            (start + 1.2, over + shift),
            (start + 2.0, over + shift),
        ]
        script.move(1, [*keys, (start + 3.2, other)])
    elif variant == 1:  # both change places
        keys = [(0.0, home), (start, home), (start + 1.0, (home + other) / 2 + [0, -0.07, 0])]
        script.move(0, [*keys, (start + 2.0, other)])
        keys = [(0.0, other), (start, other), (start + 1.0, (home + other) / 2 + [0, 0.07, 0])]
        script.move(1, [*keys, (start + 2.0, home)])
    else:  # the target leaves, the other one stays, or even comes to its place
        side = 1.0 if home[0] > 0 else -1.0
        gone = float(rng.uniform(0.8, 1.8))
        away = script.outside(0, side, 0.0)
        keys = [(0.0, home), (start, home), (start + 0.6, away), (start + 0.6 + gone, away)]
        script.move(0, [*keys, (start + 1.2 + gone, home)])
        if rng.random() < 0.5:
            near = home * 0.6 + other * 0.4
            keys = [(0.0, other), (start + 0.4, other), (start + 1.0, near), (start + gone, near)]
            script.move(1, [*keys, (start + 0.8 + gone, other)])
    return script


def _leaving(rng: np.random.Generator) -> _Script:
    script = _scene(rng, alike="colour" if rng.random() < 0.3 else "")
    home = script.home(0)
    start, gone = float(rng.uniform(SETTLED, 1.2)), float(rng.uniform(0.6, 2.2))
    side = 1.0 if home[0] > 0 else -1.0
    away = script.outside(0, side, 0.0)
    keys = [(0.0, home), (start, home), (start + 0.5, away)]
    if rng.random() < 0.4:  # comes in on the other side
        away = script.outside(0, -side, 0.0)
        keys.append((start + 0.6, away - np.array([0.0, 0.0, 1.0])))
    back = home + np.array([*rng.uniform(-0.08, 0.08, 2), 0.0])
    keys += [(start + 0.5 + gone, away), (start + 1.0 + gone, back)]
    script.move(0, keys)
    if rng.random() < 0.5:
        _wander(script, 1, SETTLED, 0.06)
    return script


def _fast(rng: np.random.Generator) -> _Script:
    script = _scene(rng)
    keys, time = [(0.0, script.home(0))], float(rng.uniform(SETTLED, 1.1))
    keys.append((time, script.home(0)))
    while time < SECONDS - 0.6:
        time += float(rng.uniform(0.18, 0.4))
        # Hops over the others; fast, so higher.
        place = np.array([rng.uniform(-0.26, 0.26), rng.uniform(-0.12, 0.16), rng.uniform(0, 0.08)])
        keys.append((time, place))
        time += float(rng.uniform(0.1, 0.5))
        keys.append((time, place * [1, 1, 0]))
    script.move(0, keys)
    return script


def _camera(rng: np.random.Generator) -> _Script:
    script = _scene(rng)
    eye, aim = np.asarray(script.camera.eyes[0]), np.asarray(script.camera.aims[0])
    times, eyes, aims, rolls = [0.0, SETTLED * 0.6], [eye, eye], [aim, aim], [0.0, 0.0]
    leaves = rng.random() < 0.5
    turn = float(rng.uniform(1.6, 2.4)) if leaves else SECONDS + 1
    hold, side = float(rng.uniform(0.6, 1.6)), 1.0 if script.home(0)[0] < 0 else -1.0
    while times[-1] < SECONDS:
        time = times[-1] + float(rng.uniform(0.3, 0.7))
        if times[-1] < turn <= time:  # looks away and back
            far = aim + np.array([0.75 * side, 0.0, 0.1])
            times += [turn + 0.4, turn + 0.4 + hold, turn + 0.8 + hold]
            eyes += [eye, eye, eye]
            aims += [far, far, aim]
            rolls += [0.0, 0.0, 0.0]
            continue
        times.append(time)
        eyes.append(eye + rng.normal(0, 0.05, 3))
        aims.append(aim + rng.normal(0, 0.07, 3) * [1, 1, 0.3])
        rolls.append(float(rng.normal(0, 0.12)))
    camera = CameraTrack(
        tuple(times),
        tuple(map(_triple, eyes)),
        tuple(map(_triple, aims)),
        tuple(rolls),
        script.camera.fovy,
    )
    script.camera = camera
    if rng.random() < 0.4:
        _wander(script, 0, SETTLED, 0.06)
    return script


def _triple(values: np.ndarray) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


_SCRIPTS: dict[str, Callable[[np.random.Generator], _Script]] = {
    "occlusion": _occlusion,
    "distractors": _distractors,
    "leaving": _leaving,
    "fast": _fast,
    "camera": _camera,
}
