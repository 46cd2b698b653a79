# SPDX-License-Identifier: Apache-2.0
"""The nine shapes of the vocabulary and the clutter, as compositions of parts, and their MJCF."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sa2va_sim.assets.parts import (
    Collision,
    ObjectModel,
    Rgb,
    box,
    cylinder,
    revolved,
    sphere,
    tube,
)

_PAPER: Rgb = (0.93, 0.90, 0.81)
_METAL: Rgb = (0.74, 0.74, 0.76)
_COFFEE: Rgb = (0.20, 0.11, 0.06)


def _block(rng: np.random.Generator, scale: float) -> ObjectModel:
    half = np.array([0.034, 0.034, 0.034]) * rng.uniform(0.88, 1.12, 3) * scale
    hx, hy, hz = (float(v) for v in half)
    parts = [box((hx, hy, hz), (0, 0, hz))]
    if rng.random() < 0.25:  # a toy block: light panels on its sides
        thin = 0.0006
        parts += [
            box((hx * 0.62, hy + thin, hz * 0.62), (0, 0, hz), _PAPER),
            box((hx + thin, hy * 0.62, hz * 0.62), (0, 0, hz), _PAPER),
            box((hx * 0.62, hy * 0.62, hz + thin), (0, 0, hz), _PAPER),
            box((hx * 0.32, hy * 0.32, hz + 2 * thin), (0, 0, hz)),
            box((hx * 0.32, hy + 2 * thin, hz * 0.32), (0, 0, hz)),
            box((hx + 2 * thin, hy * 0.32, hz * 0.32), (0, 0, hz)),
        ]
    solid = Collision("box", (hx, hy, hz), (0, 0, hz))
    return ObjectModel("block", tuple(parts), (solid,), max(hx, hy) * 1.3, 2 * hz, flat_top=True)


def _ball(rng: np.random.Generator, scale: float) -> ObjectModel:
    radius = rng.uniform(0.032, 0.045) * scale
    solid = Collision("sphere", (radius,), (0, 0, radius))
    return ObjectModel("ball", (sphere(radius),), (solid,), radius, 2 * radius)


def _mug(rng: np.random.Generator, scale: float) -> ObjectModel:
    height, top = rng.uniform(0.085, 0.115) * scale, rng.uniform(0.038, 0.046) * scale
    bottom, wall = top * rng.uniform(0.78, 1.0), 0.0045 * scale
    profile = [
        (0.0, 0.0), (bottom * 0.93, 0.0), (bottom, height * 0.05), (top, height), (top - wall, height),
        (bottom - wall, 0.012 * scale), (0.0, 0.01 * scale),
    ]  # fmt: skip
    bow = np.linspace(-np.pi / 2, np.pi / 2, 10)
    middle, reach, loop = (
        (top + bottom) / 2,
        rng.uniform(0.024, 0.034) * scale,
        height * rng.uniform(0.28, 0.36),
    )
    path = np.stack(
        [middle - wall + reach * np.cos(bow), np.zeros(10), height * 0.52 + loop * np.sin(bow)], 1
    )
    parts = [
        revolved(profile),
        tube(path, rng.uniform(0.0045, 0.0065) * scale, rng.uniform(1.0, 1.6)),
    ]
    if rng.random() < 0.25:
        level = height * rng.uniform(0.6, 0.85)
        parts.append(
            cylinder(bottom + (top - bottom) * level / height - wall, level - 0.002, level, _COFFEE)
        )
    solid = Collision("cylinder", (top, height / 2), (0, 0, height / 2))
    return ObjectModel("mug", tuple(parts), (solid,), top * 1.4, height, rolling_radius=top)


def _bottle(rng: np.random.Generator, scale: float) -> ObjectModel:
    body, neck = rng.uniform(0.030, 0.038) * scale, rng.uniform(0.010, 0.014) * scale
    shoulder = rng.uniform(0.10, 0.13) * scale
    start = shoulder + rng.uniform(0.025, 0.045) * scale
    top = start + rng.uniform(0.03, 0.06) * scale
    profile = [(0.0, 0.0), (body * 0.92, 0.0), (body, 0.006 * scale), (body, shoulder)]
    for t in np.linspace(0.2, 1, 5):
        profile.append(
            (
                neck + (body - neck) * float(np.cos(t * np.pi / 2)) ** 0.9,
                shoulder + t * (start - shoulder),
            )
        )
    profile += [(neck, top), (0.0, top)]
    parts = [revolved(profile)]
    if rng.random() < 0.45:
        low = shoulder * rng.uniform(0.25, 0.4)
        paper = tuple(float(v) for v in rng.uniform(0.75, 0.96, 3))
        parts.append(
            cylinder(body * 1.012, low, low + shoulder * 0.38, (paper[0], paper[1], paper[2]))
        )
    grey = float(rng.uniform(0.12, 0.9))
    cap = None if rng.random() < 0.5 else (grey, grey, grey)
    parts.append(cylinder(neck * 1.25, top - 0.012 * scale, top + 0.004 * scale, cap))
    solid = Collision("cylinder", (body, shoulder / 2), (0, 0, shoulder / 2))
    upper = Collision("cylinder", (neck * 1.2, (top - shoulder) / 2), (0, 0, (top + shoulder) / 2))
    return ObjectModel("bottle", tuple(parts), (solid, upper), body, top, rolling_radius=body)


def _bowl(rng: np.random.Generator, scale: float) -> ObjectModel:
    radius, foot = rng.uniform(0.065, 0.09) * scale, rng.uniform(0.35, 0.5)
    height, wall = radius * rng.uniform(0.6, 0.85), 0.004 * scale
    heights = np.linspace(0.06, 1, 7)
    curve = radius * (foot + (1 - foot) * np.sqrt(1 - (1 - heights) ** 2))
    outside = list(zip(curve.tolist(), (heights * height).tolist(), strict=True))
    inside = [(r - wall, z + wall * 0.6) for r, z in reversed(outside)]
    inside[0] = (radius - wall, height)
    profile = [(0.0, 0.0), (radius * foot, 0.0), *outside, *inside, (0.0, wall * 2)]
    solid = Collision("cylinder", (radius * 0.8, height / 2), (0, 0, height / 2))
    return ObjectModel("bowl", (revolved(profile),), (solid,), radius, height)


def _can(rng: np.random.Generator, scale: float) -> ObjectModel:
    radius, height = rng.uniform(0.030, 0.037) * scale, rng.uniform(0.085, 0.12) * scale
    rim = 0.004 * scale
    parts = [
        cylinder(radius, rim, height - rim),
        cylinder(radius * 1.03, 0.0, rim, _METAL),
        revolved(
            [
                (radius * 0.9, height - rim), (radius * 1.03, height - rim), (radius * 1.03, height),
                (radius * 0.9, height), (radius * 0.88, height - rim * 0.6), (0.0, height - rim * 0.6),
            ],
            _METAL,
        ),
        box((radius * 0.3, radius * 0.14, 0.0012 * scale), (radius * 0.15, 0, height), (0.5, 0.5, 0.52)),
    ]  # fmt: skip
    if rng.random() < 0.4:
        low, light = height * rng.uniform(0.3, 0.5), float(rng.uniform(0.8, 0.95))
        parts.append(cylinder(radius * 1.008, low, low + height * 0.14, (light, light, light)))
    solid = Collision("cylinder", (radius, height / 2), (0, 0, height / 2))
    return ObjectModel("can", tuple(parts), (solid,), radius, height, rolling_radius=radius)


def _plate(rng: np.random.Generator, scale: float) -> ObjectModel:
    radius = rng.uniform(0.085, 0.115) * scale
    height, well = radius * rng.uniform(0.13, 0.2), rng.uniform(0.58, 0.68)
    thick = 0.005 * scale
    profile = [
        (0.0, 0.0), (radius * well, 0.0), (radius, height), (radius * 0.985, height + thick * 0.6),
        (radius * well * 1.08, thick * 1.6), (radius * well * 0.97, thick), (0.0, thick),
    ]  # fmt: skip
    solid = Collision("cylinder", (radius * 0.9, height / 2), (0, 0, height / 2))
    return ObjectModel("plate", (revolved(profile),), (solid,), radius, height)


def _book(rng: np.random.Generator, scale: float) -> ObjectModel:
    hx, hy = rng.uniform(0.06, 0.075) * scale, rng.uniform(0.085, 0.105) * scale
    hz, cover = rng.uniform(0.011, 0.022) * scale, 0.0022 * scale
    parts = [
        box((hx, hy, cover), (0, 0, cover)),
        box((hx, hy, cover), (0, 0, 2 * hz - cover)),
        box((cover, hy, hz), (-hx + cover, 0, hz)),
        box((hx * 0.96, hy * 0.96, hz - 2 * cover), (0, 0, hz), _PAPER),
    ]
    if rng.random() < 0.75:
        light = _PAPER if rng.random() < 0.7 else (0.15, 0.15, 0.17)
        parts.append(
            box((hx * 0.55, hy * 0.2, 0.0006), (0.005, hy * rng.uniform(0.1, 0.5), 2 * hz), light)
        )
    solid = Collision("box", (hx, hy, hz), (0, 0, hz))
    return ObjectModel(
        "book", tuple(parts), (solid,), float(np.hypot(hx, hy)) * 0.9, 2 * hz, flat_top=True
    )


def _box(rng: np.random.Generator, scale: float) -> ObjectModel:
    """An open carton with flaps."""
    hx, hy, hz = (
        rng.uniform(low, high) * scale for low, high in ((0.075, 0.1), (0.06, 0.08), (0.04, 0.055))
    )
    wall = 0.002 * scale
    walls = [
        box((hx, hy, wall), (0, 0, wall)),
        box((wall, hy, hz), (-hx, 0, hz)),
        box((wall, hy, hz), (hx, 0, hz)),
        box((hx, wall, hz), (0, -hy, hz)),
        box((hx, wall, hz), (0, hy, hz)),
    ]
    flaps = []
    for out, length, width in (
        ((1, 0), hx, hy),
        ((-1, 0), hx, hy),
        ((0, 1), hy, hx),
        ((0, -1), hy, hx),
    ):
        tilt, reach = rng.uniform(-0.6, 0.7), rng.uniform(0.018, 0.028) * scale
        outward = np.array([out[0] * np.cos(tilt), out[1] * np.cos(tilt), np.sin(tilt)])
        sideways = np.array([-out[1], out[0], 0.0])
        axes = np.stack([outward, sideways, np.cross(outward, sideways)], 1)
        centre = np.array([out[0] * length, out[1] * length, 2 * hz]) + outward * reach
        position = (float(centre[0]), float(centre[1]), float(centre[2]))
        flaps.append(box((reach, width * 0.95, wall * 0.8), position, None, axes))
    solids = tuple(Collision("box", w.size, w.position) for w in walls)
    radius = float(np.hypot(hx, hy)) * 1.05
    return ObjectModel("box", (*walls, *flaps), solids, radius, 2 * hz)


def _lump(rng: np.random.Generator, scale: float) -> ObjectModel:
    """Clutter: a pen, a stick, a slab or a stub; grey, brown or beige, never named."""
    kind = int(rng.integers(3))
    if kind == 0:  # a pen on the table
        half = (rng.uniform(0.05, 0.09) * scale, 0.005 * scale, 0.005 * scale)
    elif kind == 1:
        half = (
            rng.uniform(0.03, 0.06) * scale,
            rng.uniform(0.02, 0.05) * scale,
            rng.uniform(0.004, 0.03) * scale,
        )
    else:
        radius, height = rng.uniform(0.01, 0.03) * scale, rng.uniform(0.02, 0.15) * scale
        solid = Collision("cylinder", (radius, height / 2), (0, 0, height / 2))
        return ObjectModel("", (cylinder(radius, 0, height),), (solid,), radius, height)
    solid = Collision("box", half, (0, 0, half[2]))
    return ObjectModel("", (box(half, (0, 0, half[2])),), (solid,), half[0], 2 * half[2])


_BUILDERS: dict[str, Callable[[np.random.Generator, float], ObjectModel]] = {
    "block": _block, "ball": _ball, "mug": _mug, "bottle": _bottle, "bowl": _bowl, "can": _can, "plate": _plate,
    "book": _book, "box": _box, "": _lump,
}  # fmt: skip


def register_shape(name: str, builder: Callable[[np.random.Generator, float], ObjectModel]) -> None:
    """Lets a domain bring a shape of its own; scenes of the vocabulary never draw it.

    Raises:
        ValueError: the name is taken by another shape.
    """
    if _BUILDERS.setdefault(name, builder) is not builder:
        raise ValueError(f"shape {name!r} is there already, expected a new name")


def build_object(shape: str, rng: np.random.Generator, scale: float = 1.0) -> ObjectModel:
    """One object of a named shape ("" = clutter); its proportions are random.

    Args:
        scale: factor on the usual size of such an object (a mug is about 0.1 m high at 1).
    """
    return _BUILDERS[shape](rng, scale)


def _numbers(values: object) -> str:
    return " ".join(f"{v:.6g}" for v in np.asarray(values, float).ravel())


def object_xml(name: str, model: ObjectModel, mass: float = 0.2) -> tuple[str, str]:
    """The MJCF of an object: (assets, body). Its own colour is the material called `name`; geoms carry no names."""
    assets, geoms = [], []
    for k, part in enumerate(model.parts):
        look = f'material="{name}"' if part.rgb is None else f'rgba="{_numbers(part.rgb)} 1"'
        if part.texture is not None:
            look = f'material="{name}_{k}"'
            height, width = part.texture.shape[:2]
            assets.append(
                f'<texture name="{name}_{k}" type="2d" builtin="flat" width="{width}" height="{height}"/>'
                f'<material name="{name}_{k}" texture="{name}_{k}" rgba="1 1 1 {part.alpha:.3g}" specular="0.3"/>'
            )
        common = f'{look} contype="0" conaffinity="0" group="1" mass="0"'
        if part.vertices is not None and part.faces is not None:
            faces = " ".join(map(str, part.faces.ravel().tolist()))
            extra = "" if part.places is None else f' texcoord="{_numbers(part.places)}"'
            assets.append(
                f'<mesh name="{name}_{k}" inertia="shell" vertex="{_numbers(part.vertices)}" face="{faces}"{extra}/>'
            )
            geoms.append(f'<geom type="mesh" mesh="{name}_{k}" {common}/>')
            continue
        geoms.append(
            f'<geom type="{part.kind}" size="{_numbers(part.size)}" pos="{_numbers(part.position)}" '
            f'xyaxes="{_numbers(part.axes[:, :2].T)}" {common}/>'
        )
    for solid in model.collisions:
        geoms.append(
            f'<geom type="{solid.kind}" size="{_numbers(solid.size)}" pos="{_numbers(solid.position)}" group="3" '
            'rgba="0 0 0 0" mass="0" condim="4" friction="0.8 0.01 0.001"/>'
        )
    side, half = max(model.radius, 0.01), model.height / 2
    upright, level = mass * side**2 / 2, mass * (side**2 / 4 + half**2 / 3)
    inertial = f'<inertial pos="0 0 {half:.6g}" mass="{mass}" diaginertia="{level:.6g} {level:.6g} {upright:.6g}"/>'
    body = f'<body name="{name}"><freejoint name="{name}"/>{inertial}{"".join(geoms)}</body>'
    return "".join(assets), body
