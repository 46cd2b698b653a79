# SPDX-License-Identifier: Apache-2.0
"""The official fine-tuning format: `annotations.json` beside `images/`, polygons and one text per object.

[{"image": "a.jpg", "mask": [[[x1, y1, …], …], …], "text": ["the mug", …]}, …]
"""

from __future__ import annotations

from pathlib import Path

from sa2va_model.errors import InputError
from sa2va_training.data.masks import CodedMask
from sa2va_training.data.pictures import ImageFile
from sa2va_training.data.readers.records import Record, Records, read_json_list
from sa2va_training.data.sample import Dataset, ObjectMasks, Referring, Sample


def open_finetune(
    root: Path, name: str, *, annotations: str = "annotations.json", images: str = "images"
) -> Dataset:
    """Opens the official fine-tuning format.

    Args:
        annotations: the annotation file, below `root`.
        images: the folder of the pictures, below `root`.
    """
    path = root / annotations
    records = [Record(value, f"{path}: record {i}") for i, value in enumerate(read_json_list(path))]

    def build(index: int) -> Sample:
        record = records[index]
        masks, texts = record.entries("mask"), record.texts("text")
        if len(masks) != len(texts):
            raise InputError(
                f"{record.where}: 'mask' has {len(masks)} objects and 'text' {len(texts)}, "
                "expected one text for each object"
            )
        referrings = tuple(
            Referring(
                text,
                ObjectMasks((CodedMask(mask, f"{record.where}: mask [{i}]"),), text),
                id=str(i),
            )
            for i, (mask, text) in enumerate(zip(masks, texts, strict=True))
        )
        file = root / images / record.text("image")
        return Sample(name, record.where, str(index), (ImageFile(file),), referrings=referrings)

    return Records(name, len(records), build)
