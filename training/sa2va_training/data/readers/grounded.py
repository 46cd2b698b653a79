# SPDX-License-Identifier: Apache-2.0
"""Grounded captions (GCG): GranD-f, OpenPSG, RefCOCOg and Flickr30k as GLaMM publishes them, and its evaluation set.

A caption with phrases becomes one conversation: `… <p> phrase </p> [SEG] …`, one target for each phrase, in the order
of the text. Where phrases overlap, the earlier one ends where the later begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import PHRASE_END, PHRASE_START, SEG
from sa2va_training.batches.wording import DESCRIBE_GROUNDED, first_turn
from sa2va_training.data.masks import CodedMask, Mask, union
from sa2va_training.data.pictures import ImageFile
from sa2va_training.data.readers.records import (
    Record,
    Records,
    find_file,
    read_json_list,
    read_json_object,
)
from sa2va_training.data.sample import Dataset, Message, ObjectMasks, Sample

KIND = "grounded caption"


@dataclass(frozen=True)
class Grounding:
    """A span of a caption and its mask.

    Attributes:
        begin, end: characters of the caption.
    """

    begin: int
    end: int
    mask: Mask


def open_grandf(
    root: Path,
    name: str,
    *,
    annotations: str = "annotations/GranDf_HA_GCG_train.json",
    images: str = "images/grandf/train",
) -> Dataset:
    """Opens GranD-f.

    Args:
        annotations: the captions, below `root`.
        images: the folder of the pictures, below `root`.
    """
    return _open_grounded(root, name, root / annotations, [root / images])


def open_openpsg(
    root: Path,
    name: str,
    *,
    annotations: str = "annotations/OpenPsgGCG_train.json",
    images: str = "images/coco2017",
) -> Dataset:
    """Opens OpenPSG's grounded captions; options as `open_grandf`."""
    folder = root / images
    return _open_grounded(
        root, name, root / annotations, [folder, folder / "train2017", folder / "val2017"]
    )


def _open_grounded(root: Path, name: str, path: Path, folders: list[Path]) -> Dataset:
    records = _list(path)

    def build(index: int) -> Sample:
        record = records[index]
        groundings = []
        phrases = record.record("groundings")
        for phrase in phrases.data:
            entry = phrases.record(phrase)
            begin, end = _span(entry.raw("token_positives"), entry)
            masks: list[Mask | None] = [
                CodedMask(m, f"{entry.where}: rle_masks [{i}]")
                for i, m in enumerate(entry.entries("rle_masks"))
            ]
            mask = union(masks)
            if mask is not None:
                groundings.append(Grounding(begin, end, mask))
        file = find_file(record.text("file_name"), folders, record.where)
        return grounded_sample(name, record, str(index), file, record.text("caption"), groundings)

    return Records(name, len(records), build)


def open_refcocog_gcg(
    root: Path,
    name: str,
    *,
    annotations: str = "annotations/RefCOCOg_GCG_train.json",
    images: str = "images/coco2014/train2014",
) -> Dataset:
    """Opens RefCOCOg's grounded captions; options as `open_grandf`.

    A phrase counts where it stands in the caption, both in lower case.
    """
    path = root / annotations
    records = []
    for record in _list(path):
        if len(record.data) != 1:
            raise InputError(f"{record.where}: has {len(record.data)} keys, expected one image id")
        (key,) = record.data
        records.append((str(key), record.record(key)))

    def build(index: int) -> Sample:
        key, record = records[index]
        caption = record.text("caption").strip('"').strip().lower()
        groundings = []
        for entry in record.records("refs"):
            phrase = entry.text("sentence").lower()
            begin = caption.find(phrase)
            if begin >= 0:
                mask = CodedMask(entry.raw("segmentation"), entry.where)
                groundings.append(Grounding(begin, begin + len(phrase), mask))
        file = root / images / record.text("img_file_name")
        return grounded_sample(name, record, key, file, caption, groundings)

    return Records(name, len(records), build)


def open_flickr_gcg(
    root: Path,
    name: str,
    *,
    annotations: str = "annotations/flickr_mergedGT_GCG_train.json",
    images: str = "images/flickr30k/Flickr30K",
) -> Dataset:
    """Opens Flickr30k's grounded captions; options as `open_grandf`.

    Captions of fewer than three words and pictures below 32 pixels are left out, as published.
    """
    path = root / annotations
    whole = read_json_object(path)
    by_image: dict[int, list[Record]] = {}
    for entry in whole.records("annotations"):
        if not entry.data.get("ignore"):
            by_image.setdefault(entry.number("image_id"), []).append(entry)
    pictures = [
        entry
        for entry in whole.records("images")
        if len(entry.text("caption").split()) >= 3
        and min(entry.number("height"), entry.number("width")) >= 32
    ]

    def build(index: int) -> Sample:
        record = pictures[index]
        number = record.number("id")
        spans: dict[tuple[int, int], list[Mask | None]] = {}
        for entry in by_image.get(number, []):
            for position in entry.entries("tokens_positive"):
                part = CodedMask(entry.raw("sam_mask"), entry.where)
                spans.setdefault(_span(position, entry), []).append(part)
        groundings = [
            Grounding(begin, end, mask)
            for (begin, end), masks in spans.items()
            if (mask := union(masks)) is not None
        ]
        file = root / images / record.text("file_name")
        return grounded_sample(name, record, str(number), file, record.text("caption"), groundings)

    return Records(name, len(pictures), build)


def open_gcg_eval(
    root: Path,
    name: str,
    *,
    split: str = "val",
    masks: str = "annotations/gcg_val_test/{split}_gcg_coco_mask_gt.json",
    captions: str = "annotations/gcg_val_test/{split}_gcg_coco_caption_gt.json",
    images: str = "images/grandf/val_test",
) -> Dataset:
    """Opens GranD-f's evaluation set: true masks and phrases per image, not tied to each other.

    Args:
        split: val or test.
        masks: COCO file of masks.
        captions: COCO file of captions with their phrases (`labels`).
        images: the folder of the pictures.
    """
    mask_file, caption_file = (root / f.format(split=split) for f in (masks, captions))
    by_image: dict[Any, list[Record]] = {}
    for entry in read_json_object(mask_file).records("annotations"):
        by_image.setdefault(entry.raw("image_id"), []).append(entry)
    said: dict[Any, list[Record]] = {}
    whole = read_json_object(caption_file)
    for entry in whole.records("annotations"):
        said.setdefault(entry.raw("image_id"), []).append(entry)
    pictures = whole.records("images")

    def build(index: int) -> Sample:
        record = pictures[index]
        number = record.raw("id")
        if number not in said:
            raise InputError(f"{record.where}: image {number} has no caption")
        first = said[number][0]
        true = [
            ObjectMasks((CodedMask(e.raw("segmentation"), e.where),))
            for e in by_image.get(number, [])
        ]
        # phrases and masks are lists side by side; the answer only has to hold as many [SEG] as there are masks
        phrases = first.texts("labels")
        spoken = [f"{PHRASE_START} {p} {PHRASE_END}" for p in phrases[: len(true)]]
        spoken += [""] * (len(true) - len(spoken))
        answer = " ".join(f"{phrase} {SEG}".strip() for phrase in spoken) or first.text("caption")
        file = find_file(_file_name(record), [root / images], record.where)
        return Sample(
            name,
            record.where,
            str(number),
            (ImageFile(file),),
            turns=(Message("user", first_turn(DESCRIBE_GROUNDED)), Message("assistant", answer)),
            targets=tuple(true),
            references=tuple(entry.text("caption") for entry in said[number]),
            kind=KIND,
        )

    return Records(name, len(pictures), build)


def grounded_sample(
    source: str,
    record: Record,
    key: str,
    file: Path,
    caption: str,
    groundings: Sequence[Grounding],
) -> Sample:
    """A caption with phrases as a conversation."""
    kept = without_overlap(groundings)
    for grounding in kept:
        if grounding.end > len(caption):
            raise InputError(
                f"{record.where}: phrase at characters {grounding.begin} to {grounding.end}, "
                f"expected at most {len(caption)}, the caption's length"
            )
    answer = caption
    for g in reversed(kept):
        phrase = f"{PHRASE_START} {answer[g.begin : g.end].strip()} {PHRASE_END} {SEG}"
        answer = answer[: g.begin] + phrase + answer[g.end :]
    return Sample(
        source,
        record.where,
        key,
        (ImageFile(file),),
        turns=(Message("user", first_turn(DESCRIBE_GROUNDED)), Message("assistant", answer)),
        targets=tuple(ObjectMasks((g.mask,), caption[g.begin : g.end].strip()) for g in kept),
        references=(caption,),
        kind=KIND,
    )


def without_overlap(groundings: Sequence[Grounding]) -> list[Grounding]:
    """Sorted by their start; one that reaches into the next ends there, and is dropped if nothing is left."""
    ordered = sorted(groundings, key=lambda g: (g.begin, -g.end))
    kept = []
    for i, g in enumerate(ordered):
        following = ordered[i + 1].begin if i + 1 < len(ordered) else g.end
        end = min(g.end, following)
        if end > g.begin:
            kept.append(Grounding(g.begin, end, g.mask))
    return kept


def _span(value: Any, entry: Record) -> tuple[int, int]:
    """A pair of character positions; some files wrap it in another list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(n, int) for n in value)
        or not 0 <= value[0] < value[1]
    ):
        raise InputError(f"{entry.where}: span is {value!r}, expected [begin, end] in characters")
    return value[0], value[1]


def _list(path: Path) -> list[Record]:
    return [Record(value, f"{path}: record {i}") for i, value in enumerate(read_json_list(path))]


def _file_name(record: Record) -> str:
    """The picture's file: its own field, or the id with .jpg, as the published script builds it."""
    return record.text("file_name") if "file_name" in record else f"{record.raw('id')}.jpg"
