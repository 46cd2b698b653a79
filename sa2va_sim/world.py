# SPDX-License-Identifier: Apache-2.0
"""A world: a room with a table, its surfaces, and a stock of objects. What has to be compiled once.

Arranging the stock on the table, colours, lights and cameras are cheap and belong to `scene`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from sa2va_sim.assets import ObjectModel, build_object, object_xml
from sa2va_sim.textures import smooth_noise, surface
from sa2va_sim.words.vocabulary import SHAPES

LIGHTS = 3
MASS = 0.2
PATTERN_SIDE = 64
_SURFACES = {"table": 512, "floor": 256, "wall": 256}


@dataclass(frozen=True)
class World:
    """Geometry and surfaces.

    Attributes:
        stock: the objects that sentences may name; body `object_<k>`, material of the same name.
        clutter: things that stand about; body `clutter_<k>`.
        table: half width and half depth in metres; its top is z = 0.
        textures: by MuJoCo texture name, uint8 [H, W, 3].
        xml: the MJCF.
    """

    stock: tuple[ObjectModel, ...]
    clutter: tuple[ObjectModel, ...]
    table: tuple[float, float]
    textures: dict[str, np.ndarray]
    xml: str


def sample_world(
    seed: int | list[int],
    shapes: tuple[str, ...] | None = None,
    clutter: int = 4,
    plain: bool = False,
    samples: int = 0,
    scales: tuple[float, float] = (0.8, 1.35),
    arena: float | None = None,
    extra: tuple[ObjectModel, ...] = (),
) -> World:
    """A random room.

    Args:
        shapes: of the stock; None = ten random ones in which some shapes come twice or more.
        plain: objects without surface patterns.
        samples: per pixel; 4 smooths edges at three times the cost.
        scales: smallest and largest factor on the usual sizes of the stock.
        arena: metres; instead of a table a level floor of this half width, with the walls around it.
        extra: more objects, at the end of the stock.
    """
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 0x0DE5])
    if shapes is None:
        few = rng.choice(SHAPES, 2, replace=False)
        shapes = tuple(str(s) for s in [*rng.choice(SHAPES, 7, replace=False), *rng.choice(few, 3)])
    stock = tuple(build_object(shape, rng, float(rng.uniform(*scales))) for shape in shapes)
    stock = (*stock, *extra)
    lumps = tuple(build_object("", rng, float(rng.uniform(0.8, 1.5))) for _ in range(clutter))
    table = (float(rng.uniform(0.5, 0.9)), float(rng.uniform(0.4, 0.7)))
    textures = {
        name: _seamless(surface(rng, side // 2, side // 2)) for name, side in _SURFACES.items()
    }
    for k in range(len(stock)):
        textures[f"pattern_{k}"] = _pattern(rng, plain)
        for n, part in enumerate(stock[k].parts):
            if part.texture is not None:
                textures[f"object_{k}_{n}"] = part.texture
    if arena is not None:
        table = (arena, arena)
    xml = _world_xml(rng, stock, lumps, table, samples, arena)
    return World(stock, lumps, table, textures, xml)


@lru_cache(maxsize=4)
def shared_world(number: int) -> World:
    """The random room of that number; the same object while it is in use, so that simulators can keep it compiled."""
    return sample_world(number)


def _seamless(image: np.ndarray) -> np.ndarray:
    """Mirror a surface both ways, so that its copies join; uint8 [2 H, 2 W, 3]."""
    wide = np.concatenate([image, image[:, ::-1]], 1)
    return np.clip(np.concatenate([wide, wide[::-1]], 0), 0, 255).astype(np.uint8)


def _pattern(rng: np.random.Generator, plain: bool) -> np.ndarray:
    """A light grey figure that darkens an object's colour here and there, for the six faces of a cube map."""
    side = PATTERN_SIDE
    kind = 0 if plain else int(rng.choice(5, p=(0.5, 0.1, 0.1, 0.15, 0.15)))
    strength = rng.uniform(0.08, 0.3)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    period = float(rng.choice((8, 16, 32)))
    figure = np.zeros((side, side), np.float32)
    if kind == 1:
        figure = (rows % period < period / 2).astype(np.float32)
    elif kind == 2:
        figure = (((rows // period) + (columns // period)) % 2).astype(np.float32)
    elif kind == 3:
        figure = np.clip(smooth_noise(rng, side, side, (12, 12))[..., 0], 0, 1.5)
    elif kind == 4:
        figure = (
            np.hypot(rows % period - period / 2, columns % period - period / 2) < period / 4
        ).astype(np.float32)
    face = np.clip(255.0 * (1 - strength * figure), 0, 255).astype(np.uint8)
    return np.repeat(np.tile(cv2.GaussianBlur(face, (0, 0), 0.6), (6, 1))[..., None], 3, 2)


def _world_xml(
    rng: np.random.Generator,
    stock: tuple[ObjectModel, ...],
    clutter: tuple[ObjectModel, ...],
    table: tuple[float, float],
    samples: int,
    arena: float | None,
) -> str:
    assets, bodies = [], []
    copies = (
        1.0 if arena is None else arena / 0.7
    )  # of the table's texture, so that its grain stays the same
    for name, side in _SURFACES.items():
        assets.append(
            f'<texture name="{name}" type="2d" builtin="flat" width="{side}" height="{side}"/>'
        )
        many = copies if name == "table" else 1.0
        repeat = f"{many * rng.uniform(0.5, 1.6):.3f} {many * rng.uniform(0.5, 1.6):.3f}"
        shine = f'specular="{rng.uniform(0, 0.5):.3f}" shininess="{rng.uniform(0, 0.6):.3f}"'
        assets.append(f'<material name="{name}" texture="{name}" texrepeat="{repeat}" {shine}/>')
    for k, model in enumerate(stock):
        side = PATTERN_SIDE
        assets.append(
            f'<texture name="pattern_{k}" type="cube" builtin="flat" width="{side}" height="{6 * side}"/>'
            f'<material name="object_{k}" texture="pattern_{k}" rgba="1 1 1 1" '
            f'specular="{rng.uniform(0, 0.9):.3f}" shininess="{rng.uniform(0.05, 0.95):.3f}"/>'
        )
        asset, body = object_xml(f"object_{k}", model, MASS)
        assets.append(asset)
        bodies.append(body)
    for k, model in enumerate(clutter):
        assets.append(f'<material name="clutter_{k}" rgba="0.5 0.4 0.3 1" specular="0.3"/>')
        asset, body = object_xml(f"clutter_{k}", model, MASS)
        assets.append(asset)
        bodies.append(body)
    width, depth = table
    top = (
        f'<geom name="table" type="cylinder" size="{max(table):.3f} 0.02" pos="0 0 -0.02" material="table"/>'
        if rng.random() < 0.25 and arena is None
        else f'<geom name="table" type="box" size="{width:.3f} {depth:.3f} 0.02" pos="0 0 -0.02" material="table"/>'
    )
    room = rng.uniform(1.6, 3.2)
    room = room if arena is None else arena
    walls = "".join(
        f'<geom type="box" size="{sx} {sy} 1.6" pos="{x} {y} 0.8" material="wall" contype="0" conaffinity="0"/>'
        for x, y, sx, sy in (
            (room, 0, 0.05, room), (-room, 0, 0.05, room), (0, room, room, 0.05), (0, -room, room, 0.05),
        )
    )  # fmt: skip
    lights = "".join(
        f'<light name="light_{k}" pos="0 0 2" dir="0 0 -1" directional="false" castshadow="{str(k == 0).lower()}" '
        f'cutoff="60" exponent="1" attenuation="1 0 0"/>'
        for k in range(LIGHTS)
    )
    return f"""<mujoco model="tabletop">
<compiler angle="radian" autolimits="true"/>
<option timestep="0.004" integrator="implicitfast"/>
<size memory="16M"/>
<visual><global offwidth="1280" offheight="960"/><quality shadowsize="1024" offsamples="{samples}"/>
<map znear="0.01" zfar="8" shadowclip="1.2" shadowscale="0.5"/></visual>
<statistic extent="1" center="0 0 0"/>
<asset>{"".join(assets)}</asset>
<worldbody>{lights}<camera name="camera" pos="0 -1 1" resolution="64 48"/>
<geom name="floor" type="plane" size="6 6 0.1" pos="0 0 -0.75" material="floor"/>
{top}{walls}{"".join(bodies)}</worldbody></mujoco>"""
