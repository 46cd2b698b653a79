# SPDX-License-Identifier: Apache-2.0
"""Outlines in text files: labelme's JSON beside each picture, and YOLO-seg's numbers (Ultralytics)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_training.data.exchange.imported import (
    SPLITS,
    Imported,
    Marked,
    picture_beside,
    picture_name,
    pictures_below,
)
from sa2va_training.data.pictures import ImageFile
from sa2va_training.data.plain_yaml import read_yaml_file

_CIRCLE = 32  # corners


def read_labelme(root: Path) -> Iterator[Imported]:
    """Every picture that has labelme's file beside it; shapes of one label and group are one object.

    Raises:
        InputError: there is none, one cannot be read, or its picture is not there.
    """
    found = False
    for file in sorted(root.rglob("*.json")):
        values = read_json(file)
        if not isinstance(values, dict) or not {"shapes", "imagePath"} <= values.keys():
            continue
        found = True
        path = picture_beside(file, values["imagePath"], root)
        if path is None:
            raise InputError(f"{file}: its picture {values['imagePath']!r:.120} is not there")
        shapes = values["shapes"]
        if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
            raise InputError(f"{file}: shapes is {shapes!r:.80}; expected a list of JSON objects")
        parts: dict[tuple[str, Any], list[list[float]]] = {}
        left = Counter[str]()
        for number, shape in enumerate(shapes):
            outline = _outline(shape, file)
            if outline is None:
                left[f"a {shape.get('shape_type', 'shape')}"] += 1
                continue
            group = shape.get("group_id")
            key = (str(shape.get("label", "")), f"shape {number}" if group is None else group)
            parts.setdefault(key, []).append(outline)
        objects = tuple(Marked(name, (outlines,)) for (name, _), outlines in parts.items())
        yield Imported(picture_name(path, root), (path,), objects, left=left)
    if not found:
        raise InputError(f"{root}: has no labelme file (shapes, imagePath) in it")


def _outline(shape: dict[str, Any], file: Path) -> list[float] | None:
    """A shape as a polygon; None if it has no inside."""
    try:
        points = [(float(x), float(y)) for x, y in shape.get("points", [])]
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: points of a shape are not pairs of numbers") from error
    kind = shape.get("shape_type") or "polygon"
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif kind == "circle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        radius, turn = math.hypot(x1 - x0, y1 - y0), 2 * math.pi / _CIRCLE
        points = [
            (x0 + radius * math.cos(turn * i), y0 + radius * math.sin(turn * i))
            for i in range(_CIRCLE)
        ]
    elif kind != "polygon" or len(points) < 3:
        return None
    return [value for point in points for value in point]


def read_yolo(root: Path) -> Iterator[Imported]:
    """The pictures of a YOLO-seg dataset: data.yaml, images/…, labels/… with one line for each object.

    Raises:
        InputError: there is no data.yaml with names, or a line is not made of numbers.
    """
    names = _names(root)
    for path in pictures_below(root):
        places = [i for i, part in enumerate(path.parts) if part == "images"]
        if not places:
            continue
        parts = list(path.parts)
        parts[places[-1]] = "labels"
        file = Path(*parts).with_suffix(".txt")
        height, width = ImageFile(path).size()
        objects, left = [], Counter[str]()
        for number, line in enumerate(file.read_text().splitlines() if file.is_file() else [], 1):
            if not line.strip():
                continue
            kind, values = _line(line, f"{file}: line {number}")
            if kind not in names:
                raise InputError(f"{file}: line {number}: class {kind} is not in data.yaml")
            if len(values) < 6 or len(values) % 2:
                left["a box without a mask"] += 1
                continue
            outline = [v * (height if i % 2 else width) for i, v in enumerate(values)]
            objects.append(Marked(names[kind], ([outline],)))
        split = next((SPLITS[p] for p in path.relative_to(root).parts if p in SPLITS), "")
        yield Imported(picture_name(path, root), (path,), tuple(objects), split=split, left=left)


def _names(root: Path) -> dict[int, str]:
    for file in sorted((*root.glob("*.yaml"), *root.glob("*.yml"))):
        values = read_yaml_file(file)
        names = values.get("names") if isinstance(values, dict) else None
        if isinstance(names, dict):
            return {int(k): str(v) for k, v in names.items()}
        if isinstance(names, list):
            return {i: str(name) for i, name in enumerate(names)}
    raise InputError(f"{root}: has no YAML file with the names of the classes (data.yaml)")


def _line(line: str, where: str) -> tuple[int, Sequence[float]]:
    first, *rest = line.split()
    try:
        return int(first), [float(word) for word in rest]
    except ValueError:
        raise InputError(f"{where}: expected a class and numbers, not {line[:40]!r}") from None
