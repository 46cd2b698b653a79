# SPDX-License-Identifier: Apache-2.0
"""The formats that `sa2va data import` knows, and which of them a folder is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_training.data.exchange.coco import read_coco
from sa2va_training.data.exchange.imported import Imported, Importer
from sa2va_training.data.exchange.label_images import read_davis, read_index, read_voc
from sa2va_training.data.exchange.lerobot import is_lerobot
from sa2va_training.data.exchange.outlines import read_labelme, read_yolo

LEROBOT = "lerobot"
"""Videos without marks; see `lerobot.read_lerobot`."""
FORMATS: Mapping[str, Importer] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "voc": read_voc,
    "davis": read_davis,
    "index": read_index,
}


def recognise(root: Path) -> str:
    """The format of a folder.

    Raises:
        InputError: it is in none of them.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a dataset to import")
    if is_lerobot(root):
        return LEROBOT
    if any((root / name).is_dir() for name in ("SegmentationObject", "SegmentationClass")):
        return "voc"
    if (root / "JPEGImages").is_dir() and (root / "Annotations").is_dir():
        return "davis"
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "index"
    for file in sorted(root.rglob("*.json")):
        values = _json(file)
        if {"shapes", "imagePath"} <= values.keys():
            return "labelme"
        if {"images", "annotations"} <= values.keys():
            return "coco"
    if any(root.glob("*.y*ml")) and (root / "images").is_dir() | bool([*root.glob("*/images")]):
        return "yolo"
    raise InputError(f"{root}: is in no known format; expected one of {', '.join(FORMATS)}")


def _json(file: Path) -> dict[str, object]:
    try:
        return dict(read_json(file, dict))
    except InputError:
        return {}


def named(found: Iterator[Imported], names: Mapping[int, str]) -> Iterator[Imported]:
    """The same with the objects of label images called something, by pixel value.

    Raises:
        InputError: no label image has one of the values.
    """
    unused = set(names)
    for one in found:
        unused -= {thing.label for thing in one.objects}
        things = (replace(thing, name=names.get(thing.label, thing.name)) for thing in one.objects)
        yield replace(one, objects=tuple(things))
    if unused:
        raise InputError(f"--name {min(unused)}: no label image has an object {min(unused)}")
