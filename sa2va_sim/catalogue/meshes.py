# SPDX-License-Identifier: Apache-2.0
"""Objects of the catalogue as small textured meshes, read once from OBJ and kept as binary files.

Plain materials of an object share one mesh whose texture is a row of their colours; every other material keeps its own
texture. Lengths in metres, z up, the middle of the base at the origin.
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_sim.catalogue.furniture import Furniture, library_folder

TRIANGLES = 3000
TEXTURE = 128
_VERSION = 2
_PLAIN = 8  # pixels of a plain colour in the row
_FEWEST = 60  # triangles that every material keeps


@dataclass(frozen=True)
class Surface:
    """Triangles of one look.

    Attributes:
        vertices: float32 [V, 3].
        faces: int32 [F, 3].
        places: float32 [V, 2], texture coordinates, (0, 0) at the lower left.
        texture: uint8 [H, W, 3].
        plain: the texture is a row of colours.
        alpha: 1 = opaque.
    """

    vertices: np.ndarray
    faces: np.ndarray
    places: np.ndarray
    texture: np.ndarray
    plain: bool
    alpha: float


def cache_folder() -> Path:
    """Where converted meshes lie."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sa2va_ros" / f"catalogue-{_VERSION}"


def load_surfaces(item: Furniture) -> tuple[Surface, ...]:
    """The object's surfaces, from the cache if they are there.

    Raises:
        InputError: the library has no such model, or one that cannot be read.
    """
    kept = cache_folder() / Path(item.file).stem / (item.model.replace("/", "_") + ".npz")
    if not kept.exists():
        surfaces = _convert(item)
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(fresh, **_packed(surfaces))
        fresh.replace(kept)
    with np.load(kept) as stored:
        return tuple(
            Surface(
                stored[f"vertices_{k}"],
                stored[f"faces_{k}"],
                stored[f"places_{k}"],
                stored[f"texture_{k}"],
                plain=bool(stored["plain"][k]),
                alpha=float(stored["alpha"][k]),
            )
            for k in range(len(stored["plain"]))
        )


def _packed(surfaces: tuple[Surface, ...]) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        f"{name}_{k}": getattr(surface, name)
        for k, surface in enumerate(surfaces)
        for name in ("vertices", "faces", "places", "texture")
    }
    arrays["plain"] = np.array([surface.plain for surface in surfaces])
    arrays["alpha"] = np.array([surface.alpha for surface in surfaces], np.float32)
    return arrays


def _convert(item: Furniture) -> tuple[Surface, ...]:
    parts = _read_parts(item)
    total = sum(len(mesh.faces) for mesh in parts)
    share = min(1.0, TRIANGLES / max(total, 1))
    plain: dict[float, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    surfaces = []
    for mesh in parts:
        material = getattr(mesh.visual, "material", None)
        picture = getattr(material, "image", None)
        colour = np.asarray(getattr(material, "diffuse", (160, 160, 160, 255)), np.float64)
        alpha = 1.0 if colour[3] > 225 else max(0.4, float(colour[3]) / 255)
        wanted = max(_FEWEST, round(share * len(mesh.faces)))
        vertices, faces, places = _reduced(mesh, wanted, keep_places=picture is not None)
        if len(faces) == 0:
            continue
        if picture is None or places is None:
            plain.setdefault(alpha, []).append((vertices, faces, colour[:3]))
        else:
            surfaces.append(Surface(vertices, faces, places, _small(picture), False, alpha))
    surfaces += [_row_of_colours(group, alpha) for alpha, group in plain.items()]
    if not surfaces:
        raise InputError(f"{item.file}: {item.model} has no triangles")
    return _sized(surfaces, item)


def _read_parts(item: Furniture) -> list[Any]:
    """One trimesh for each material."""
    import trimesh
    from trimesh.resolvers import ZipResolver

    try:
        with zipfile.ZipFile(library_folder() / item.file) as library:
            place = item.model.rsplit("/", 1)[0]
            inside = {
                name: io.BytesIO(library.read(name))
                for name in library.namelist()
                if name.startswith(place + "/") and not name.endswith("/")
            }
            scene = trimesh.load_scene(
                io.BytesIO(library.read(item.model)),
                file_type="obj",
                resolver=ZipResolver(inside, namespace=place),
                group_material=True,
                split_object=False,
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{item.file}: {item.model} cannot be read: {error}") from error
    return [mesh for mesh in scene.geometry.values() if len(getattr(mesh, "faces", ()))]


def _reduced(
    mesh: Any, wanted: int, keep_places: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """About `wanted` triangles: vertices, faces and, where they are kept, texture coordinates."""
    import fast_simplification

    uv = getattr(mesh.visual, "uv", None) if keep_places else None
    rows = np.asarray(mesh.vertices, np.float64)
    if uv is not None:
        rows = np.concatenate([rows, np.asarray(uv, np.float64)[:, :2]], 1)
    kept, index = np.unique(np.round(rows, 5), axis=0, return_inverse=True)
    faces = index.reshape(-1)[np.asarray(mesh.faces)]
    sides = (
        (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    )
    faces = faces[sides].astype(np.int32)
    points = kept[:, :3].astype(np.float32)
    places = kept[:, 3:5].astype(np.float32) if uv is not None else None
    if len(faces) <= wanted or len(faces) < 8:
        return points, faces, places
    fewer, fewer_faces, collapses = fast_simplification.simplify(
        points, faces, target_count=wanted, agg=3, return_collapses=True
    )
    if places is not None:
        _, _, new_of_old = fast_simplification.replay_simplification(points, faces, collapses)
        moved = np.zeros((len(fewer), 2), np.float32)
        moved[new_of_old] = places
        distance = np.linalg.norm(points - fewer[new_of_old], axis=1)
        for old in np.argsort(-distance):  # the nearest of those that became one comes last
            moved[new_of_old[old]] = places[old]
        places = moved
    return fewer.astype(np.float32), fewer_faces.astype(np.int32), places


def _small(picture: Any) -> np.ndarray:
    rgb = np.asarray(picture.convert("RGB"))
    side = 2 ** int(np.clip(np.round(np.log2(max(rgb.shape[:2]))), 3, np.log2(TEXTURE)))
    return np.ascontiguousarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA))


def _row_of_colours(
    group: list[tuple[np.ndarray, np.ndarray, np.ndarray]], alpha: float
) -> Surface:
    row = np.zeros((_PLAIN, _PLAIN * len(group), 3), np.uint8)
    vertices, faces, places, start = [], [], [], 0
    for k, (points, triangles, colour) in enumerate(group):
        row[:, k * _PLAIN : (k + 1) * _PLAIN] = np.clip(colour, 0, 255).astype(np.uint8)
        vertices.append(points)
        faces.append(triangles + start)
        places.append(np.tile([(k + 0.5) / len(group), 0.5], (len(points), 1)))
        start += len(points)
    return Surface(
        np.concatenate(vertices).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(places).astype(np.float32),
        row,
        True,
        alpha,
    )


def _sized(surfaces: list[Surface], item: Furniture) -> tuple[Surface, ...]:
    """From the OBJ's frame (y up, any unit) to metres, z up, as large as the library says."""
    turn = np.eye(3)
    if len(item.rotation) == 9:
        turn = np.array(item.rotation).reshape(3, 3)
    upright = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]]) @ turn
    turned = [surface.vertices @ upright.T for surface in surfaces]
    every = np.concatenate(turned)
    low, high = every.min(0), every.max(0)
    factor = np.asarray(item.size) / np.maximum(high - low, 1e-6)
    base = np.array([*(low + high)[:2] / 2, low[2]])
    return tuple(
        Surface(
            ((points - base) * factor).astype(np.float32),
            surface.faces,
            surface.places,
            surface.texture,
            surface.plain,
            surface.alpha,
        )
        for points, surface in zip(turned, surfaces, strict=True)
    )
