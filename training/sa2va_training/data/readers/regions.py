# SPDX-License-Identifier: Apache-2.0
"""Words about marked regions: Osprey-724K (to learn from) and RefCOCOg's region captions (to be measured on)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_training.batches.wording import DESCRIBE_REGION, DETAIL_REGION, first_turn
from sa2va_training.data.masks import CodedMask, Mask, mask_area
from sa2va_training.data.pictures import ImageFile
from sa2va_training.data.readers.chat import conversation
from sa2va_training.data.readers.records import (
    Record,
    Records,
    find_file,
    read_json_list,
    read_json_object,
)
from sa2va_training.data.sample import Dataset, Message, Sample

CELLS = 256
_COCO = ("coco/train2014", "coco/val2014", "coco/train2017", "coco/val2017")


def open_osprey(
    root: Path,
    name: str,
    *,
    annotations: str = "Osprey-724K/osprey_conversation.json",
    images: list[str] | None = None,
    min_cells: int = 4,
) -> Dataset:
    """Opens one file of Osprey-724K: conversations, detailed descriptions or short forms.

    A record with `conversations` is one sample about all its regions; one with `description` gives a sample for each
    region.

    Args:
        annotations: the file, below `root`.
        images: folders to look for the pictures in, below `root`; COCO's four if not given.
        min_cells: records with a region below so many of the 256 visual tokens of a picture (by area) are left out, as
            published: too little is seen of it.
    """
    folders = [root / folder for folder in (images or _COCO)]
    path = root / annotations
    parts: list[tuple[int, Record, int]] = []
    for i, value in enumerate(read_json_list(path)):
        record = Record(value, f"{path}: record {i}")
        if min_cells and _smallest(record) * CELLS < min_cells:
            continue
        described = 0 if "conversations" in record else len(_descriptions(record))
        parts += [(i, record, k) for k in (range(described) if described else (-1,))]

    def build(index: int) -> Sample:
        number, record, k = parts[index]
        size = (record.number("height"), record.number("width"))
        file = find_file(record.text("file_name"), folders, record.where)
        masks = [_mask(entry) for entry in record.records("annotation")]
        if k < 0:
            turns = tuple(
                Message(turn.role, _region_names(turn.text))
                for turn in conversation(record, pictures=True)
            )
            shown, kind = masks, "region conversation"
        else:
            text = re.sub(r"^\s*<[^>]*>\s*:\s*", "", _descriptions(record)[k])
            if k >= len(masks):
                raise InputError(
                    f"{record.where}: description [{k}] has no region, there are {len(masks)}"
                )
            turns = (
                Message("user", first_turn(DETAIL_REGION)),
                Message("assistant", _region_names(text)),
            )
            shown, kind = [masks[k]], "region description"
        key = str(number) if k < 0 else f"{number}.{k}"
        return Sample(
            name,
            record.where,
            key,
            (ImageFile(file, size),),
            turns=turns,
            regions=tuple(shown),
            kind=kind,
        )

    return Records(name, len(parts), build)


def _smallest(record: Record) -> float:
    """Area of the record's smallest region, as a share of the picture; 1 without regions."""
    height, width = record.number("height"), record.number("width")
    areas = [
        mask_area(entry.raw("segmentation"), height, width, entry.where)
        for entry in record.records("annotation")
    ]
    return min(areas, default=height * width) / max(height * width, 1)


def _descriptions(record: Record) -> list[str]:
    """One text per region; a single text is a list of one."""
    for key in ("description", "descriptions"):
        if key in record:
            return [record.text(key)] if isinstance(record.raw(key), str) else record.texts(key)
    raise InputError(f"{record.where}: has neither 'conversations' nor 'description'")


def _region_names(text: str) -> str:
    """`<region1>` as the model is told: region1."""
    return re.sub(r"<(region\d+)>", r"\1", text)


def _mask(entry: Record) -> Mask:
    return CodedMask(entry.raw("segmentation"), entry.where)


def open_region_captions(
    root: Path,
    name: str,
    *,
    masks: str = "region_caption/refcocog/finetune_refcocog_val_with_mask.json",
    captions: str = "mdetr_annotations/finetune_refcocog_val_captions.json",
    images: str = "images/coco2014/train2014",
) -> Dataset:
    """Opens RefCOCOg's region captions (validation): one sample per region, with all its captions as references.

    Args:
        masks: COCO file whose images are the regions; the mask has the region's id.
        captions: COCO file of reference captions by region; "" = the caption of each region alone.
        images: the folder of the pictures.
    """
    path = root / masks
    whole = read_json_object(path)
    mask_of = {entry.number("id"): entry for entry in whole.records("annotations")}
    references: dict[Any, list[str]] = {}
    if captions:
        for entry in read_json_object(root / captions).records("annotations"):
            references.setdefault(entry.raw("image_id"), []).append(entry.text("caption"))
    pictures = whole.records("images")

    def build(index: int) -> Sample:
        record = pictures[index]
        number = record.number("id")
        if number not in mask_of:
            raise InputError(f"{record.where}: region {number} has no annotation with that id")
        known = references.get(number) or [record.text("caption")]
        size = (record.number("height"), record.number("width"))
        return Sample(
            name,
            record.where,
            str(number),
            (ImageFile(root / images / record.text("file_name"), size),),
            turns=(Message("user", first_turn(DESCRIBE_REGION)), Message("assistant", known[0])),
            regions=(_mask(mask_of[number]),),
            references=tuple(known),
            kind="region caption",
        )

    return Records(name, len(pictures), build)
