# SPDX-License-Identifier: Apache-2.0
"""Files that would take the machine, or name what is not theirs: one error at once, whatever they are called."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from sa2va_model.errors import InputError
from sa2va_training.data.exchange.formats import FORMATS
from sa2va_training.data.exchange.imported import write_folder
from sa2va_training.data.plain_yaml import parse_yaml
from sa2va_training.data.readers.registry import read_yaml
from sa2va_training.run.settings_files import load_settings

TENS = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 10))
MERGED = "".join(f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 8)}]}}\n" for n in range(1, 12))
YAML = {
    "a billion values in ten lines": "x0: &x0 [1, 2]\n" + TENS,
    "mappings that are merged": "x0: &x0 {a: 1}\n" + MERGED,
    "a list in itself": "a: &a [*a]",
    "brackets without a bottom": "[" * 100_000,
    "dashes without a bottom": "- " * 100_000,
    "a number without an end": "a: " + "9" * 5000,
    "a float that is none": "a: !!float x",
    "a truth that is none": "a: !!bool x",
    "a date that is none": "a: !!timestamp 99",
    "code": "a: !!python/object/apply:os.system [id]",
}


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", YAML)
def test_yaml(name: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(YAML[name])
    (tmp_path / "d.yaml").write_text(YAML[name])
    for read in (read_yaml, load_settings):
        with pytest.raises(InputError, match=r"d\.yaml: not valid YAML") as caught:
            read(tmp_path / "d.yaml")
        assert len(str(caught.value)) < 600


def test_aliases_and_merges_of_a_usual_size_are_read() -> None:
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\nd: 2026-11-27"
    inner = {"x": 1, "y": [1, 2]}
    found = {"a": inner, "b": {**inner, "x": 2}, "c": [inner, inner], "d": "2026-11-27"}
    assert parse_yaml(text) == found


@pytest.mark.parametrize(
    "setting",
    [
        "steps=.inf",
        "steps=-1",
        "steps=10000000000000000000000",
        "seed=.nan",
        "epochs=.inf",
        "train.dropout=1e18",
        "train.rank=1000000000",
        "optimiser.rate=.nan",
        "optimiser.betas=[.9]",
        "loss.mask=-.inf",
        "batches.workers=1000000000",
        "batches.frames=-1",
        "steps={a: {b: 1}}",
        "train=5",
        f"steps={'9' * 5000}",
    ],
)
def test_settings(setting: str) -> None:
    with pytest.raises(InputError, match=r"expected") as caught:
        load_settings("finetune.yaml", ["data=x", setting])
    assert setting.partition("=")[0] in str(caught.value) or "override" in str(caught.value)
    assert len(str(caught.value)) < 400


SQUARE = [[10, 10, 30, 10, 30, 30]]


def coco(file_name: object, segmentation: object) -> dict[str, object]:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation}
    return {
        "images": [{"id": 1, "file_name": file_name, "width": 40, "height": 40}],
        "annotations": [entry],
        "categories": [{"id": 1, "name": "cup"}],
    }


def labelme(path: object, points: object) -> dict[str, object]:
    return {"imagePath": path, "shapes": [{"label": "cup", "points": points}]}


CORNERS = [[10, 10], [30, 10], [30, 30]]


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        ("coco", coco("a.png", SQUARE), ""),
        ("labelme", labelme("a.png", CORNERS), ""),
        ("coco", coco("a.png", [[1e300, 1, 5, 5, 7, 7]]), "no number of pixels"),
        ("coco", coco("a.png", [[float("nan"), 1, 5, 5, 7, 7]]), "no number of pixels"),
        ("coco", coco("a.png", {"size": [10**9, 10**9], "counts": [5]}), "RLE size"),
        ("coco", coco("a.png", {"size": [40, 40], "counts": [-5, 1605]}), "RLE counts"),
        ("coco", coco("a.png", "word"), "segmentation is a str"),
        ("coco", coco("../other.png", SQUARE), "is not there"),
        ("coco", coco(5, SQUARE), "is not there"),
        ("coco", coco("x" * 5000, SQUARE), "is not there"),
        ("labelme", labelme("../other.png", CORNERS), "is not there"),
        ("labelme", labelme("/etc/hostname", CORNERS), "is not there"),
        ("labelme", labelme("a\0.png", CORNERS), "is not there"),
        ("labelme", labelme("a.png", 5), "not pairs of numbers"),
        ("labelme", labelme("a.png", [[1e300, 1], [2, 2], [3, 5]]), "no number of pixels"),
        ("labelme", {"imagePath": "a.png", "shapes": 5}, "shapes is 5"),
    ],
)
def test_folders_of_other_tools(
    kind: str, values: dict[str, object], says: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in (source / "a.png", tmp_path / "other.png"):
        cv2.imwrite(str(path), np.zeros((40, 40, 3), np.uint8))
    (source / "a.json").write_text(json.dumps(values))
    if not says:
        assert write_folder(FORMATS[kind](source), tmp_path / "out").objects == 1
        return
    with pytest.raises(InputError, match=says):
        write_folder(FORMATS[kind](source), tmp_path / "out")
    assert not (tmp_path / "out" / "annotations.jsonl").exists()
