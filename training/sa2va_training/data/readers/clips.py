# SPDX-License-Identifier: Apache-2.0
"""Referring video object segmentation: MeViS, ReVOS, Ref-YouTube-VOS, Ref-DAVIS17 and the Ref-SAV evaluation set.

All have `meta_expressions.json` and folders of frames; they differ in where the masks are. A sample is a video with
all its expressions and all its frames.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_training.data.masks import CodedMask, EmptyMask, LabelMask, Mask, union
from sa2va_training.data.pictures import ImageFile
from sa2va_training.data.readers.records import (
    Record,
    Records,
    read_json_object,
    read_pickle,
)
from sa2va_training.data.sample import Dataset, ObjectMasks, Referring, Sample

MasksOf = Callable[[str, str, Record, list[str]], "ObjectMasks | None"]
"""(video, expression id, its record, frames) → its masks."""
KindOf = Callable[[str, str, Record], str]


def open_mevis(
    root: Path, name: str, *, split: str = "train", masks: str = "mask_dict.json"
) -> Dataset:
    """Opens MeViS.

    Args:
        split: train, valid_u (the offline one), valid or test (whose masks are secret).
        masks: masks by annotation id, in the folder of the split; "" where they are secret.
    """
    folder = root / split
    coded = _mask_dict(folder / masks) if masks and (folder / masks).is_file() else None
    if coded is None and split in ("train", "valid_u") and masks:
        raise InputError(f"{name}: {folder / masks} is no file, expected the masks of '{split}'")
    return _open(
        name, folder / "meta_expressions.json", folder / "JPEGImages", _by_annotation(coded)
    )


def open_revos(
    root: Path,
    name: str,
    *,
    split: str = "train",
    expressions: str = "meta_expressions_{split}_.json",
    masks: str = "mask_dict.json",
    foreground: str = "mask_dict_foreground.json",
) -> Dataset:
    """Opens ReVOS; kinds: referring, reasoning and none (its "hallucination" expressions).

    Args:
        split: train or valid.
        expressions: the expression file.
        masks: masks by annotation id, of both splits.
        foreground: masks of everything ever referred to in a video, for robustness; "" = do without.
    """
    coded = _mask_dict(root / masks)
    kinds = {0: "referring", 1: "reasoning", 2: "none"}
    whole: Record | None = None
    if foreground and split != "train":
        whole = read_json_object(root / foreground)
    return _open(
        name,
        root / expressions.format(split=split),
        root,
        _by_annotation(coded),
        kind=lambda _video, _id, record: kinds.get(record.number("type_id"), "referring"),
        foreground=whole,
    )


def open_ref_sav_eval(
    root: Path,
    name: str,
    *,
    expressions: str = "meta_expressions_valid.json",
    masks: str = "mask_dict.json",
    frames: str = "videos",
) -> Dataset:
    """Opens the Ref-SAV evaluation set; kinds: long and short.

    Args:
        expressions: the expression file.
        masks: masks by annotation id.
        frames: folder of the videos' frames.
    """
    kinds = {0: "long", 1: "short"}
    return _open(
        name,
        root / expressions,
        root / frames,
        _by_annotation(_mask_dict(root / masks)),
        kind=lambda _video, _id, record: kinds.get(record.number("type_id"), "long"),
    )


def open_ref_youtube_vos(
    root: Path, name: str, *, split: str = "train", masks: str = "mask_dict.pkl"
) -> Dataset:
    """Opens Ref-YouTube-VOS.

    The masks are the palette images of `<split>/Annotations` where that folder exists, else the pre-packed file that
    VISA and Sa2VA use. The validation file also holds the test videos, which are left out; its masks are secret.

    Args:
        split: train, valid or test.
        masks: the pre-packed masks, by a running number over sorted videos and expressions.
    """
    meta = root / "meta_expressions" / split / "meta_expressions.json"
    test = root / "meta_expressions" / "test" / "meta_expressions.json"
    skip: set[str] = set()
    if split == "valid" and test.is_file():
        skip = set(read_json_object(test).record("videos").data)
    folder = "valid" if split == "test" else split
    target: MasksOf = _secret
    if split == "train":
        target = _labels_or_packed(root / "train" / "Annotations", root / masks, meta)
    return _open(name, meta, root / folder / "JPEGImages", target, skip=skip)


def open_ref_davis17(
    root: Path, name: str, *, split: str = "valid", masks: str = "mask_dict.pkl"
) -> Dataset:
    """Opens Ref-DAVIS17 as ReferFormer's converter writes it; kinds: annotator 1 to 4.

    Every object has four consecutive expressions: two annotators, each from the first frame and from the full video.

    Args:
        split: valid or train.
        masks: pre-packed masks, used where `<split>/Annotations` is missing.
    """
    meta = root / "meta_expressions" / split / "meta_expressions.json"
    target = _labels_or_packed(root / split / "Annotations", root / masks, meta)
    return _open(
        name,
        meta,
        root / split / "JPEGImages",
        target,
        kind=lambda _video, key, record: f"annotator {_running(key, record) % 4 + 1}",
    )


def _running(key: str, record: Record) -> int:
    if not key.isdigit():
        raise InputError(f"{record.where}: expression id '{key}' is no number")
    return int(key)


def _open(
    name: str,
    meta: Path,
    folder: Path,
    target: MasksOf,
    *,
    kind: KindOf = lambda _video, _id, _record: "",
    foreground: Record | None = None,
    skip: set[str] | None = None,
) -> Dataset:
    videos = read_json_object(meta).record("videos")
    order = sorted(video for video in videos.data if video not in (skip or ()))

    def build(index: int) -> Sample:
        video = order[index]
        record = Record(videos.data[video], f"{meta}: video '{video}'")
        frames = record.texts("frames")
        size = (record.number("height"), record.number("width")) if "height" in record else None
        expressions = record.record("expressions")
        referrings = []
        for key in sorted(expressions.data, key=_expression_order):
            entry = Record(expressions.data[key], f"{record.where}: expression '{key}'")
            what = kind(video, key, entry)
            masks = target(video, key, entry, frames)
            referrings.append(Referring(entry.text("exp"), masks, what, key))
        return Sample(
            name,
            record.where,
            video,
            tuple(ImageFile(_frame(folder / video, f), size) for f in frames),
            clip=True,
            referrings=tuple(referrings),
            foreground=_foreground(foreground, video, len(frames)),
        )

    return Records(name, len(order), build)


def _expression_order(key: str) -> tuple[int, str]:
    return (int(key), "") if key.isdigit() else (1 << 30, key)


def _frame(folder: Path, name: str) -> Path:
    """The file of a frame: JPEG as published, unless only a PNG is there."""
    if Path(name).suffix:
        return folder / name
    jpeg, png = folder / f"{name}.jpg", folder / f"{name}.png"
    return png if png.is_file() and not jpeg.is_file() else jpeg


def _secret(_video: str, _key: str, _record: Record, _frames: list[str]) -> ObjectMasks | None:
    return None


def _mask_dict(path: Path) -> dict[str, list[Any]]:
    """`{annotation id: [RLE or null per frame]}` from JSON or a pickle."""
    value = read_pickle(path) if path.suffix in (".pkl", ".p") else read_json_object(path).data
    if not isinstance(value, dict):
        raise InputError(f"{path}: is no object, expected masks by annotation id")
    return {str(key): masks for key, masks in value.items()}


def _by_annotation(coded: dict[str, list[Any]] | None) -> MasksOf:
    """Masks by the expression's `anno_id`, joined; an expression without any means nothing."""
    if coded is None:
        return _secret

    def find(_video: str, _key: str, record: Record, frames: list[str]) -> ObjectMasks:
        each = []
        for number in record.entries("anno_id"):
            if str(number) not in coded:
                raise InputError(f"{record.where}: anno_id {number} is not in the mask file")
            each.append(
                _frame_masks(coded[str(number)], frames, f"{record.where}: anno_id {number}")
            )
        if not each:
            return ObjectMasks((EmptyMask(),) * len(frames))
        return ObjectMasks(tuple(union(masks) for masks in zip(*each, strict=True)))

    return find


def _frame_masks(masks: Any, frames: list[str], where: str) -> list[Mask]:
    """One mask per frame; null = the object is not seen there."""
    if not isinstance(masks, list) or len(masks) != len(frames):
        count = len(masks) if isinstance(masks, list) else "no list of"
        raise InputError(f"{where}: has {count} masks, expected {len(frames)}, one for each frame")
    return [
        EmptyMask() if m is None else CodedMask(m, f"{where}, frame {f}")
        for m, f in zip(masks, frames, strict=True)
    ]


def _labels_or_packed(labels: Path, packed: Path, meta: Path) -> MasksOf:
    """Palette images where they are there, else the pre-packed masks."""
    if labels.is_dir():

        def from_labels(video: str, _key: str, record: Record, frames: list[str]) -> ObjectMasks:
            value = record.raw("obj_id")
            if not str(value).isdigit():
                raise InputError(f"{record.where}: field 'obj_id' is {value!r}, expected a number")
            files = [labels / video / f"{frame}.png" for frame in frames]
            return ObjectMasks(tuple(LabelMask(file, (int(value),)) for file in files))

        return from_labels
    coded = _mask_dict(packed)
    videos = read_json_object(meta).record("videos")
    numbers: dict[tuple[str, str], int] = {}
    for video in sorted(videos.data):  # both sorted as text: how the file was numbered
        for key in sorted(videos.record(video).record("expressions").data):
            numbers[video, key] = len(numbers)

    def from_packed(video: str, key: str, record: Record, frames: list[str]) -> ObjectMasks:
        number = str(numbers[video, key])
        if number not in coded:
            raise InputError(f"{record.where}: running number {number} is not in {packed}")
        where = f"{packed}: masks {number}"
        return ObjectMasks(tuple(_frame_masks(coded[number], frames, where)))

    return from_packed


def _foreground(whole: Record | None, video: str, count: int) -> tuple[Mask | None, ...]:
    if whole is None:
        return ()
    entry = whole.record(video)
    masks = entry.entries("masks_rle")
    if len(masks) != count:
        raise InputError(f"{entry.where}: 'masks_rle' has {len(masks)} masks, expected {count}")
    return tuple(EmptyMask() if m is None else CodedMask(m, entry.where) for m in masks)
