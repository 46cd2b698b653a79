# SPDX-License-Identifier: Apache-2.0
"""COCO instance annotations, as CVAT, Roboflow, Label Studio and FiftyOne export them, both ways, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_training.data.exchange.imported import (
    Imported,
    Marked,
    picture_beside,
    picture_name,
    pictures_below,
    split_of,
)
from sa2va_training.data.masks import encode_mask
from sa2va_training.data.readers.simple import SimpleFolder


def read_coco(root: Path) -> Iterator[Imported]:
    """Every picture of every COCO file below a folder.

    Raises:
        InputError: there is none, one cannot be read, or a picture is not there.
    """
    files = [file for file in sorted(root.rglob("*.json")) if _is_coco(file)]
    if not files:
        raise InputError(f"{root}: has no COCO file (images, annotations, categories) in it")
    places: dict[str, list[Path]] = {}
    for path in pictures_below(root):
        places.setdefault(path.name, []).append(path)
    for file in files:
        coco = _load(file)
        names = {c["id"]: str(c["name"]) for c in coco.loadCats(coco.getCatIds())}
        for number in coco.getImgIds():
            (image,) = coco.loadImgs(number)
            path = _picture(image, file, root, places)
            objects, left = [], Counter[str]()
            for entry in coco.loadAnns(coco.getAnnIds(imgIds=number)):
                if not entry.get("segmentation"):
                    left["a box without a mask"] += 1
                    continue
                objects.append(
                    Marked(names.get(entry["category_id"], ""), (entry["segmentation"],))
                )
            split = split_of(file.parent.name, file.stem)
            yield Imported(
                picture_name(path, root), (path,), tuple(objects), split=split, left=left
            )


def _is_coco(file: Path) -> bool:
    try:
        return {"images", "annotations", "categories"} <= read_json(file, dict).keys()
    except InputError:
        return False


def _load(file: Path) -> COCO:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how long it takes
            return COCO(str(file))
    except (KeyError, TypeError, AssertionError) as error:
        raise InputError(f"{file}: is no COCO file ({error!r})") from error


def _picture(image: dict[str, Any], file: Path, root: Path, places: dict[str, list[Path]]) -> Path:
    """Where a picture lies: beside the file, or the one below the folder whose path ends as its name."""
    name = Path(str(image["file_name"]))
    if beside := picture_beside(file, image["file_name"], root):
        return beside
    found = places.get(name.name, [])
    if len(found) > 1:
        tail = name.parts
        found = [p for p in found if p.parts[-len(tail) :] == tail] or [
            p for p in found if file.stem.partition("_")[2] in p.parts
        ]
    if len(found) != 1:
        raise InputError(
            f"{file}: picture {image['file_name']!r:.120} is not there, or not one only"
        )
    return found[0]


def write_coco(folder: SimpleFolder, file: Path) -> dict[str, int]:
    """Write the named objects of a simple folder as COCO; frames of clips are pictures.

    Returns:
        how many images, annotations and categories there are.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    done: set[str] = set()
    for index in range(len(folder)):
        sample = folder[index]
        for t, frame in enumerate(sample.frames):
            if frame.name in done or not any(o.masks[t] is not None for o in sample.objects):
                continue
            done.add(frame.name)
            height, width = sample.size()
            name = Path(frame.name).relative_to(folder.root).as_posix()
            number = len(images) + 1
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for thing in sample.objects:
                mask = thing.masks[t]
                if mask is None or not (pixels := mask.read(height, width)).any():
                    continue
                rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
                left, top = int(columns[0]), int(rows[0])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": categories.setdefault(thing.name, len(categories) + 1),
                        "segmentation": encode_mask(pixels),
                        "area": int(pixels.sum()),
                        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                        "iscrowd": 0,
                    }
                )
    values = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in categories.items()],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values), encoding="utf-8")
    return {key: len(value) for key, value in values.items()}
