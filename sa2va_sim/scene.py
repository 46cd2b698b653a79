# SPDX-License-Identifier: Apache-2.0
"""Random scenes (the words for them are in `layout`): what stands where, the light, the camera's way and who moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sa2va_sim.layout import (
    ASPECT,
    SEEDS_PER_WORLD,
    STILL,
    CameraTrack,
    Item,
    Light,
    Motion,
    Scene,
    SceneConfig,
    Triple,
    turn_z,
)
from sa2va_sim.textures import backdrop_colour
from sa2va_sim.words.vocabulary import COLOURS, sample_colour
from sa2va_sim.world import LIGHTS, World, shared_world

__all__ = ["Scene", "SceneConfig", "sample_scene"]


def sample_scene(seed: int, config: SceneConfig = STILL, world: World | None = None) -> Scene:
    """A random scene.

    Args:
        world: use this room instead of the one that belongs to the seed.
    """
    rng = np.random.default_rng([seed, 0x5CE4E])
    world = world or shared_world(seed // SEEDS_PER_WORLD)
    items, falls = _place_items(rng, world, config)
    camera = _camera(rng, world, items, config)
    items = [_show_handle(rng, world, item, camera) for item in items]
    items = [_set_moving(rng, world, item, camera, config) for item in items]
    return Scene(
        world=world,
        items=tuple(items),
        clutter=tuple(_place_clutter(rng, world, items, config)),
        lights=_lights(rng),
        ambient=float(rng.uniform(0.1, 0.35)),
        camera=camera,
        physics=falls,
        shadows=bool(rng.random() < config.shadows),
    )


def _place_items(
    rng: np.random.Generator, world: World, config: SceneConfig
) -> tuple[list[Item], bool]:
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    count = max(config.objects[0], min(config.objects[1], count + int(rng.random() < 0.4)))
    colours = rng.choice(list(COLOURS), int(rng.integers(2, 7)), replace=False)
    slots = rng.permutation(len(world.stock))[:count]
    spread, gap = rng.uniform(0.08, 0.3), rng.uniform(0.75, 1.1)
    falls = bool(rng.random() < config.falling)
    items: list[Item] = []
    placed: list[Triple] = []
    for n, slot in enumerate(slots):
        model = world.stock[int(slot)]
        spot = _free_spot(rng, placed, model.radius, spread, gap)
        if spot is None:
            continue
        placed.append((*spot, model.radius))
        rotation, height = turn_z(rng.uniform(0, 2 * np.pi)), 0.0
        if model.rolling_radius is not None and rng.random() < 0.18:
            rotation, height = rotation @ _lying(rng), model.rolling_radius
        if falls and n < 2:
            height += float(rng.uniform(0.1, 0.4))
        colour = str(rng.choice(colours))
        rgb = sample_colour(rng, colour) / 255.0
        if model.colour is not None:
            colour, rgb = model.colour, np.ones(3)
        position = (*spot, height)
        shade = (float(rgb[0]), float(rgb[1]), float(rgb[2]))
        items.append(Item(int(slot), colour, shade, position, rotation, moving=falls and n < 2))
    return items, falls


def _show_handle(rng: np.random.Generator, world: World, item: Item, camera: CameraTrack) -> Item:
    """Turn most standing mugs so that the handle, which lies along the mug's x, is seen from the side."""
    upright = item.rotation[2, 2] > 0.9
    if world.stock[item.slot].shape != "mug" or not upright or rng.random() < 0.2:
        return item
    right = camera.pose(0.0)[:3, 0]
    side = 0.0 if rng.random() < 0.5 else np.pi
    yaw = float(np.arctan2(right[1], right[0])) + side + rng.uniform(-0.8, 0.8)
    return replace(item, rotation=turn_z(yaw))


def _lying(rng: np.random.Generator) -> np.ndarray:
    """From standing to lying along x, rolled by any angle about its own axis."""
    tip = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    return tip @ turn_z(rng.uniform(-0.9, 0.9))  # a mug's handle never goes through the table


def _free_spot(
    rng: np.random.Generator,
    placed: list[Triple],
    radius: float,
    spread: float,
    gap: float,
) -> tuple[float, float] | None:
    for _ in range(30):
        x, y = rng.uniform(-spread, spread), rng.uniform(-spread, spread) * 0.8
        if all(np.hypot(x - px, y - py) > gap * (radius + pr) for px, py, pr in placed):
            return float(x), float(y)
        spread *= 1.04
    return None


def _place_clutter(
    rng: np.random.Generator, world: World, items: list[Item], config: SceneConfig
) -> list[Item]:
    placed = [(item.position[0], item.position[1], world.stock[item.slot].radius) for item in items]
    found = []
    for slot in range(min(len(world.clutter), int(rng.integers(0, config.clutter + 1)))):
        model = world.clutter[slot]
        spot = _free_spot(rng, placed, model.radius, 0.4, 1.0)
        if spot is not None:
            placed.append((*spot, model.radius))
            rgb = 0.75 * backdrop_colour(rng, vivid=0.0) / 255.0  # never white
            shade = (float(rgb[0]), float(rgb[1]), float(rgb[2]))
            found.append(Item(slot, "", shade, (*spot, 0.0), turn_z(rng.uniform(0, 2 * np.pi))))
    return found


def _lights(rng: np.random.Generator) -> tuple[Light, ...]:
    lights = []
    strength = rng.uniform(0.4, 0.7)
    for k in range(LIGHTS):
        if k and rng.random() < 0.5:
            continue
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.2)
        position = (
            float(reach * np.cos(angle)),
            float(reach * np.sin(angle)),
            float(rng.uniform(0.9, 2.2)),
        )
        warmth = rng.uniform(0.9, 1.1, 3) * strength * (1.0 if k == 0 else 0.3)
        lights.append(
            Light(position, (0.0, 0.0, 0.0), (float(warmth[0]), float(warmth[1]), float(warmth[2])))
        )
    return tuple(lights)


def _camera(
    rng: np.random.Generator, world: World, items: list[Item], config: SceneConfig
) -> CameraTrack:
    """A camera that shows one object at a chosen width (6 to 45 % of the image), and others around it."""
    kind = (
        config.camera
        if config.camera != "any"
        else str(rng.choice(("fixed", "moving", "wrist"), p=(0.4, 0.3, 0.3)))
    )
    hero = items[int(rng.integers(len(items)))]
    model = world.stock[hero.slot]
    middle = np.mean([item.position for item in items], 0)
    pull = rng.uniform(0.15, 1.0)
    wanted = float(np.exp(rng.uniform(np.log(0.09), np.log(0.42))))
    fovy = float(np.deg2rad(rng.uniform(36, 62)))
    distance = max(model.extent / (2 * np.tan(fovy / 2) * ASPECT * wanted), 0.16)
    aim = np.asarray(hero.position) * (1 - pull) + middle * pull * min(1.0, 1.5 * distance)
    aim[2] += model.height * 0.4
    steep = rng.uniform(0.75, 1.4) if kind == "wrist" else rng.uniform(0.18, 1.1)
    roll = rng.normal(0, 0.35) if kind == "wrist" else rng.normal(0, 0.05)
    distance = min(distance, 1.2)
    turn = rng.uniform(0, 2 * np.pi)
    if kind == "fixed":
        return CameraTrack(
            (0.0,), (_eye(aim, distance, steep, turn),), (_triple(aim),), (roll,), fovy
        )
    times, eyes, aims, rolls = [], [], [], []
    shake = 0.35 if kind == "wrist" else 0.2
    keys = max(2, round(config.seconds / 1.5) + 1)
    for time in np.linspace(0, max(config.seconds, 0.5), keys):
        times.append(float(time))
        aims.append(_triple(aim + rng.normal(0, 0.025, 3) * [1, 1, 0.2]))
        near = distance * float(np.exp(rng.normal(0, shake * 0.4)))
        eyes.append(
            _eye(aim, near, float(np.clip(steep + rng.normal(0, shake * 0.3), 0.15, 1.45)), turn)
        )
        turn += rng.normal(0, shake)
        rolls.append(float(roll))
        roll += rng.normal(0, 0.05)
    return CameraTrack(tuple(times), tuple(eyes), tuple(aims), tuple(rolls), fovy)


def _triple(values: np.ndarray) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


def _eye(aim: np.ndarray, distance: float, steep: float, turn: float) -> Triple:
    way = np.array([np.cos(steep) * np.cos(turn), np.cos(steep) * np.sin(turn), np.sin(steep)])
    eye = aim + distance * way
    eye[2] = max(eye[2], 0.04)
    return _triple(eye)


def _set_moving(
    rng: np.random.Generator, world: World, item: Item, camera: CameraTrack, config: SceneConfig
) -> Item:
    """Give some objects a way: to and fro, or out of the picture and back."""
    if item.moving or rng.random() >= config.moving:
        return item
    model = world.stock[item.slot]
    start = np.asarray(item.position)
    pose = camera.pose(0.0)
    seconds = config.seconds
    if rng.random() < 0.4:  # leaves sideways as the camera sees it, waits, comes back
        right = pose[:3, 0] * [1, 1, 0]
        right /= np.linalg.norm(right) + 1e-9
        in_camera = pose[:3, :3].T @ (start - pose[:3, 3])
        half_width = in_camera[2] * np.tan(camera.fovy / 2) * ASPECT
        side = 1.0 if in_camera[0] > 0 else -1.0
        away = start + side * right * (half_width - side * in_camera[0] + 1.5 * model.extent)
        leave, out, back, home = np.sort(rng.uniform(0.0, 1.0, 4)) * seconds
        times = [0.0, leave + 0.01, out + 0.05, back + 0.10, home + 0.15]
        points = [start, start, away, away, start]
    else:
        keys = max(2, round(seconds / 1.2))
        steps = rng.normal(0, rng.uniform(0.04, 0.15), (keys, 3)) * [1, 1, 0]
        lift = np.abs(rng.normal(0, 0.08, keys)) * (rng.random() < 0.4)
        points = [start, *(start + steps[k] + np.array([0, 0, lift[k]]) for k in range(keys))]
        times = np.linspace(0, seconds, keys + 1).tolist()
    yaws = tuple(float(v) for v in np.cumsum(rng.normal(0, 0.5, len(times))))
    motion = Motion(tuple(map(float, times)), tuple(_triple(p) for p in points), yaws)
    return replace(item, motion=motion, moving=True)
