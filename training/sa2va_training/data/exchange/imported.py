# SPDX-License-Identifier: Apache-2.0
"""What every importer finds, and how it becomes a simple folder.

Pictures are copied as they are. What an object is called becomes its name, and each name that a picture has one
expression, which means all objects of that name. What a tool could not carry over is counted and told.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.frames import IMAGE_SUFFIXES, natural_key
from sa2va_training.data.folder import ANNOTATIONS
from sa2va_training.data.masks import decode_mask
from sa2va_training.data.pictures import ImageFile

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Marked:
    """One object: its name, and its mask on each picture of its record in a form that `decode_mask` takes.

    Attributes:
        masks: [T]; None = not annotated there. Empty where `label` is given.
        label: pixel value in the record's label images; 0 = none.
    """

    name: str
    masks: tuple[Any, ...] = ()
    label: int = 0


@dataclass(frozen=True)
class Imported:
    """One picture or clip.

    Attributes:
        name: below `images/`, without ending; of a clip its folder.
        pictures: one file, or the frames of a clip.
        labels: [T], label images, None where there is none; () = masks stand with the objects.
        left: what was not understood, by kind.
    """

    name: str
    pictures: tuple[Path, ...]
    objects: tuple[Marked, ...]
    clip: bool = False
    labels: tuple[Path | None, ...] = ()
    split: str = ""
    left: Counter[str] = field(default_factory=Counter)


Importer = Callable[[Path], Iterator[Imported]]


@dataclass
class Written:
    """What was written."""

    records: int = 0
    pictures: int = 0
    objects: int = 0
    names: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def write_folder(found: Iterable[Imported], root: Path) -> Written:
    """Write a simple folder; one that is there already is not touched.

    Raises:
        InputError: the folder holds annotations already, nothing was found, or a file cannot be copied.
    """
    file = root / ANNOTATIONS
    if file.exists():
        raise InputError(f"{file}: is there already, expected a new folder")
    root.mkdir(parents=True, exist_ok=True)
    written, used = Written(), set[str]()
    fresh = file.with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as lines:
        for one in found:
            if one.name in used:
                raise InputError(f"{one.pictures[0]}: a picture called {one.name} was there before")
            used.add(one.name)
            lines.write(json.dumps(_record(one, root), ensure_ascii=False) + "\n")
            _count(one, written)
    if not written.records:
        fresh.unlink()
        raise InputError(f"{root}: nothing to write; the source holds no annotated picture")
    fresh.replace(file)
    return written


def _record(one: Imported, root: Path) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if one.clip:
        record["clip"] = f"images/{one.name}"
        for t, picture in enumerate(one.pictures):
            _copy(picture, root / "images" / one.name / f"{t:05d}{picture.suffix.lower()}")
    else:
        picture = one.pictures[0]
        record["image"] = f"images/{one.name}{picture.suffix.lower()}"
        _copy(picture, root / record["image"])
    if any(one.labels):
        ending = "" if one.clip else ".png"
        record["labels"] = f"masks/{one.name}{ending}"
        for t, labels in enumerate(one.labels):
            place = Path(record["labels"]) / f"{t:05d}.png" if one.clip else record["labels"]
            if labels is not None:
                _copy(labels, root / place)
    objects: dict[str, Any] = {}
    by_name: dict[str, list[str]] = {}
    for number, thing in enumerate(one.objects, 1):
        key = str(thing.label or number)
        objects[key] = {"name": thing.name} if thing.name else {}
        if thing.masks:
            _check_masks(one, thing)
            objects[key]["masks"] = list(thing.masks) if one.clip else thing.masks[0]
        if thing.name:
            by_name.setdefault(thing.name, []).append(key)
    record["objects"] = objects
    record["expressions"] = [{"text": n, "objects": keys} for n, keys in by_name.items()]
    if one.split:
        record["split"] = one.split
    return record


def _check_masks(one: Imported, thing: Marked) -> None:
    """InputError for a mask that no reader would take."""
    for picture, mask in zip(one.pictures, thing.masks, strict=True):
        decode_mask(mask, *ImageFile(picture).size(), f"{picture}: object {thing.name!r:.40}")


def picture_beside(file: Path, name: Any, root: Path) -> Path | None:
    """The picture that an annotation file names; None = it is not there, or not below `root`."""
    if not isinstance(name, str) or not name.isprintable():
        return None
    path = (file.parent / name.replace("\\", "/")).resolve()
    try:
        return path if path.is_file() and path.is_relative_to(root.resolve()) else None
    except OSError:  # a name too long for any file
        return None


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}, expected a file to copy") from error


def _count(one: Imported, written: Written) -> None:
    written.records += 1
    written.pictures += len(one.pictures)
    written.objects += len(one.objects)
    written.names.update(thing.name for thing in one.objects)
    written.left.update(one.left)


def split_of(*words: str) -> str:
    """The split that a path or a file's name speaks of, "" if none."""
    for word in words:
        for part in Path(word.lower()).parts:
            for piece in Path(part).stem.replace("-", "_").split("_"):
                if piece in SPLITS:
                    return SPLITS[piece]
    return ""


def pictures_below(folder: Path) -> list[Path]:
    """All picture files below a folder, in natural order."""
    found = [p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(found, key=lambda p: natural_key(p.as_posix()))


def picture_name(path: Path, root: Path) -> str:
    """A picture's name below `images/`: its path without ending."""
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    parts: Sequence[str] = [p for p in inside.parts if p not in ("images", "data", "JPEGImages")]
    return Path(*parts).with_suffix("").as_posix()
