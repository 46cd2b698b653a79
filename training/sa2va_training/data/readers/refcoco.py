# SPDX-License-Identifier: Apache-2.0
"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: `refs(*).p` or a JSON of the same list, and COCO's `instances.json`.

A sample is an image with all expressions of the split about it. The file name comes from `instances.json`: the refs'
own carries the annotation's number. Training uses `raw` in lower case, evaluation `sent`, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_training.data.masks import CodedMask, EmptyMask, Mask, union
from sa2va_training.data.pictures import ImageFile
from sa2va_training.data.readers.records import (
    Record,
    Records,
    read_json_list,
    read_json_object,
    read_pickle,
)
from sa2va_training.data.sample import Dataset, ObjectMasks, Referring, Sample

IMAGES = "coco2014/train2014"
SPLITS = ("train", "val", "test", "testA", "testB")


def open_refcoco(
    root: Path,
    name: str,
    *,
    split: str = "train",
    refs: str = "refcoco/refs(unc).p",
    instances: str = "refcoco/instances.json",
    images: str = IMAGES,
    text: str = "",
) -> Dataset:
    """Opens RefCOCO.

    Args:
        split: train, val, testA or testB ("test" is testA and testB together, which nobody publishes).
        refs: the file of expressions, below `root`.
        instances: COCO's annotations, below `root`.
        images: the folder of the pictures, below `root`.
        text: "raw" or "sent"; "" = raw in training, sent otherwise.
    """
    return _open(root, name, split, refs, instances, images, text)


def open_refcoco_plus(
    root: Path,
    name: str,
    *,
    split: str = "train",
    refs: str = "refcoco+/refs(unc).p",
    instances: str = "refcoco+/instances.json",
    images: str = IMAGES,
    text: str = "",
) -> Dataset:
    """Opens RefCOCO+; options as `open_refcoco`."""
    return _open(root, name, split, refs, instances, images, text)


def open_refcocog(
    root: Path,
    name: str,
    *,
    split: str = "train",
    refs: str = "refcocog/refs(umd).p",
    instances: str = "refcocog/instances.json",
    images: str = IMAGES,
    text: str = "",
) -> Dataset:
    """Opens RefCOCOg (the umd split: train, val, test); options as `open_refcoco`."""
    return _open(root, name, split, refs, instances, images, text)


def open_grefcoco(
    root: Path,
    name: str,
    *,
    split: str = "train",
    refs: str = "grefcoco/grefs(unc).json",
    instances: str = "grefcoco/instances.json",
    images: str = IMAGES,
    text: str = "",
) -> Dataset:
    """Opens gRefCOCO, whose expressions may mean several objects or none; options as `open_refcoco`."""
    return _open(root, name, split, refs, instances, images, text)


def _open(
    root: Path, name: str, split: str, refs: str, instances: str, images: str, text: str
) -> Dataset:
    if split not in SPLITS:
        raise InputError(f"{name}: split is {split!r}, expected one of {', '.join(SPLITS)}")
    key = text or ("raw" if split == "train" else "sent")
    if key not in ("raw", "sent"):
        raise InputError(f"{name}: text is {text!r}, expected 'raw' or 'sent'")
    chosen = [r for r in _read_refs(root / refs) if in_split(r.text("split"), split)]
    by_image: dict[int, list[Record]] = {}
    for record in chosen:
        by_image.setdefault(record.number("image_id"), []).append(record)
    coco = _Coco(root / instances)
    order = sorted(by_image)

    def build(index: int) -> Sample:
        number = order[index]
        entry = coco.image(number, by_image[number][0].where)
        size = (entry.number("height"), entry.number("width"))
        found = [r for record in by_image[number] for r in _referrings(record, coco, key)]
        return Sample(
            name,
            f"{root / refs}: image {number}",
            str(number),
            (ImageFile(root / images / entry.text("file_name"), size),),
            referrings=tuple(found),
        )

    return Records(name, len(order), build)


def in_split(of_ref: str, wanted: str) -> bool:
    """Whether a ref belongs to a split: testA also takes refs of "testAB", test takes every test split."""
    if wanted in ("testA", "testB"):
        return of_ref.startswith("test") and wanted[-1] in of_ref[4:]
    return of_ref.startswith("test") if wanted == "test" else of_ref == wanted


class _Coco:
    """COCO's images and annotations by id."""

    def __init__(self, path: Path) -> None:
        whole = read_json_object(path)
        self._path = path
        self._images = _by_id(whole.entries("images"), f"{path}: images")
        self._annotations = _by_id(whole.entries("annotations"), f"{path}: annotations")

    def image(self, number: int, where: str) -> Record:
        if number not in self._images:
            raise InputError(f"{where}: image_id {number} is not in {self._path}")
        return Record(self._images[number], f"{self._path}: image {number}")

    def mask(self, number: int, where: str) -> Mask:
        if number not in self._annotations:
            raise InputError(f"{where}: ann_id {number} is not in {self._path}")
        record = Record(self._annotations[number], f"{self._path}: annotation {number}")
        return CodedMask(record.raw("segmentation"), record.where)


def _by_id(entries: Sequence[Any], where: str) -> dict[int, Any]:
    return {Record(e, f"{where} [{i}]").number("id"): e for i, e in enumerate(entries)}


def _read_refs(path: Path) -> list[Record]:
    if path.suffix == ".json":
        values: Any = read_json_list(path)
    else:
        values = read_pickle(path)
        if not isinstance(values, list):
            raise InputError(f"{path}: holds no list, expected a list of refs")
    return [Record(value, f"{path}: ref {i}") for i, value in enumerate(values)]


def _referrings(record: Record, coco: _Coco, key: str) -> list[Referring]:
    """One entry for each sentence of a ref."""
    wanted = record.raw("ann_id")
    numbers = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    present = [n for n in numbers if n != -1]
    masks = [coco.mask(n, record.where) for n in present]
    target = ObjectMasks((union(masks) or EmptyMask(),))
    kind = "" if present else "none"
    found = []
    for sentence in record.records("sentences"):
        text = sentence.text(key)
        if key == "raw":
            text = text.lower().strip().rstrip(".")
        found.append(Referring(text, target, kind, str(sentence.number("sent_id"))))
    return found
