# SPDX-License-Identifier: Apache-2.0
"""Label images: DAVIS and YouTube-VOS clips, Pascal VOC, and any `images/` beside `masks/` of the same names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.data.exchange.imported import Imported, Marked, picture_name, pictures_below
from sa2va_training.data.masks import encode_mask, read_labels

VOID = 255
VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "television",
)  # fmt: skip


def read_davis(root: Path) -> Iterator[Imported]:
    """Clips: `JPEGImages/[480p/]CLIP/*.jpg` and `Annotations/[480p/]CLIP/*.png`; a frame without a PNG stays open.

    Raises:
        InputError: there is no clip, or a label image cannot be read.
    """
    yield from _clips(root / "JPEGImages", root / "Annotations", root)


def read_index(root: Path) -> Iterator[Imported]:
    """Pictures below `images/` and label images of the same names below `masks/`; folders of pictures are clips.

    Raises:
        InputError: no picture has a label image.
    """
    images, masks = root / "images", root / "masks"
    stills = [p for p in pictures_below(images) if p.parent == images]
    found = False
    for path in stills:
        labels = masks / f"{path.stem}.png"
        if labels.is_file():
            found = True
            objects = tuple(Marked("", label=value) for value in _values([labels]))
            yield Imported(path.stem, (path,), objects, labels=(labels,))
    if any(p.parent != images for p in pictures_below(images)):
        yield from _clips(images, masks, root)
    elif not found:
        raise InputError(f"{root}: no picture of images/ has a label image in masks/")


def _clips(images: Path, masks: Path, root: Path) -> Iterator[Imported]:
    clips: dict[Path, list[Path]] = {}
    for path in pictures_below(images):
        if path.parent != images:
            clips.setdefault(path.parent, []).append(path)
    marked = 0
    for folder, frames in clips.items():
        own = masks / folder.relative_to(images)
        labels = [file if (file := own / f"{f.stem}.png").is_file() else None for f in frames]
        if not any(labels):
            continue
        marked += 1
        objects = tuple(Marked("", label=v) for v in _values([f for f in labels if f]))
        yield Imported(
            folder.relative_to(images).as_posix(), tuple(frames), objects, True, tuple(labels)
        )
    if not marked:
        raise InputError(
            f"{root}: no folder of {images.name}/ has label images in {masks.name}/, expected clips"
        )


def _values(files: Sequence[Path]) -> list[int]:
    """The objects of some label images; 255 is what nobody decided, unless it is all there is."""
    found = {int(v) for file in files for v in np.unique(read_labels(file)) if v}
    return sorted(found - {VOID} or found)


def read_voc(root: Path) -> Iterator[Imported]:
    """Pascal VOC: `JPEGImages/`, `SegmentationObject/`, `SegmentationClass/`; CVAT's `labelmap.txt` names classes.

    Raises:
        InputError: a picture is not there, or no object image has a class image.
    """
    names = _class_names(root)
    files = sorted((root / "SegmentationObject").glob("*.png"))
    if not files:
        raise InputError(f"{root}: has no SegmentationObject/*.png; expected Pascal VOC's layout")
    for file in files:
        path = next((p for p in (root / "JPEGImages").glob(f"{file.stem}.*")), None)
        if path is None:
            raise InputError(f"{file}: has no picture in JPEGImages/")
        things, classes = read_labels(file), read_labels(root / "SegmentationClass" / file.name)
        objects = []
        for value in _values([file]):
            mask = things == value
            known = classes[mask & (classes != VOID) & (classes != 0)]
            kind = int(np.bincount(known).argmax()) if len(known) else 0
            objects.append(Marked(names.get(kind, ""), (encode_mask(mask),)))
        yield Imported(picture_name(path, root), (path,), tuple(objects))


def _class_names(root: Path) -> dict[int, str]:
    file = root / "labelmap.txt"
    if not file.is_file():
        return dict(enumerate(VOC, 1))
    lines = [line.partition(":")[0] for line in file.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line and not line.startswith("#")]
    return {i: name for i, name in enumerate(kept) if name != "background"}
