# SPDX-License-Identifier: Apache-2.0
"""Datasets of other tools, laid out as they publish it, become the same masks and names here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from sa2va_cli.main import main
from sa2va_training.data.masks import encode_mask
from sa2va_training.data.readers.simple import SimpleFolder

H, W = 40, 60
SQUARE = [5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]
BLOCK = [30.0, 10.0, 50.0, 10.0, 50.0, 30.0, 30.0, 30.0]


def square(x: int, y: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y : y + side, x : x + side] = True
    return mask


TRUTH = {"mug": square(5, 5), "red block": square(30, 10)}


def picture(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((H, W, 3), value, np.uint8))
    return path


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def coco_file(name: str, image: str) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": image, "height": H, "width": W}],
        "categories": [{"id": 3, "name": "mug"}, {"id": 9, "name": "red block"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [SQUARE], "iscrowd": 0,
             "bbox": [5, 5, 20, 20], "area": 400},
            {"id": 2, "image_id": 7, "category_id": 9, "iscrowd": 1, "bbox": [30, 10, 20, 20], "area": 400,
             "segmentation": encode_mask(TRUTH["red block"])},
            {"id": 3, "image_id": 7, "category_id": 9, "segmentation": [], "bbox": [1, 1, 5, 5], "area": 25,
             "iscrowd": 0},
        ],
    }  # fmt: skip


def make_coco_cvat(root: Path) -> None:
    picture(root / "images" / "default" / "a.png")
    write(root / "annotations" / "instances_default.json", coco_file("default", "a.png"))


def make_coco_roboflow(root: Path) -> None:
    for split in ("train", "valid"):
        picture(root / split / f"{split}.png")
        write(root / split / "_annotations.coco.json", coco_file(split, f"{split}.png"))


def make_yolo(root: Path) -> None:
    picture(root / "images" / "train" / "a.png")
    picture(root / "images" / "val" / "b.png")
    write(
        root / "data.yaml", "train: images/train\nval: images/val\nnames: {0: mug, 1: red block}\n"
    )
    scale = [v / (H if i % 2 else W) for i, v in enumerate(SQUARE)]
    other = [v / (H if i % 2 else W) for i, v in enumerate(BLOCK)]
    lines = [f"{n} {' '.join(map(str, p))}" for n, p in ((0, scale), (1, other))]
    for split, name in (("train", "a"), ("val", "b")):
        write(root / "labels" / split / f"{name}.txt", "\n".join([*lines, "1 .5 .5 .1 .1"]) + "\n")


def make_labelme(root: Path) -> None:
    picture(root / "a.png")
    points = [SQUARE[i : i + 2] for i in range(0, 8, 2)]
    shapes = [
        {"label": "mug", "points": points, "shape_type": "polygon", "group_id": None},
        {
            "label": "red block",
            "points": [[30, 10], [50, 20]],
            "shape_type": "rectangle",
            "group_id": 1,
        },
        {
            "label": "red block",
            "points": [[30, 20], [50, 30]],
            "shape_type": "rectangle",
            "group_id": 1,
        },
        {"label": "red block", "points": [[1, 1]], "shape_type": "point"},
    ]
    write(
        root / "a.json",
        {"version": "5.4", "shapes": shapes, "imagePath": "a.png", "imageData": None},
    )


def labels_of(void: bool = False) -> np.ndarray:
    labels = TRUTH["mug"] + 2 * TRUTH["red block"].astype(np.uint8)
    if void:
        labels[0, 0] = 255
    return labels.astype(np.uint8)


def make_voc(root: Path) -> None:
    picture(root / "JPEGImages" / "a.jpg")
    classes = np.zeros((H, W), np.uint8)
    classes[TRUTH["mug"]], classes[TRUTH["red block"]] = 1, 2
    write(root / "labelmap.txt", "background:0,0,0::\nmug:128,0,0::\nred block:0,128,0::\n")
    for folder, values in (("SegmentationObject", labels_of(True)), ("SegmentationClass", classes)):
        (root / folder).mkdir(parents=True)
        cv2.imwrite(str(root / folder / "a.png"), values)


def make_davis(root: Path) -> None:
    for t in range(3):
        picture(root / "JPEGImages" / "480p" / "run" / f"{t:05d}.jpg", 60 + t)
    place = root / "Annotations" / "480p" / "run"
    place.mkdir(parents=True)
    cv2.imwrite(str(place / "00000.png"), labels_of())
    cv2.imwrite(str(place / "00002.png"), labels_of(True))


def make_index(root: Path) -> None:
    picture(root / "images" / "a.jpg")
    (root / "masks").mkdir()
    cv2.imwrite(str(root / "masks" / "a.png"), labels_of())


MAKERS = {
    "coco": make_coco_cvat,
    "coco roboflow": make_coco_roboflow,
    "yolo": make_yolo,
    "labelme": make_labelme,
    "voc": make_voc,
    "davis": make_davis,
    "index": make_index,
}
NAMES = ["--name", "1=mug", "--name", "2=red block"]


@pytest.mark.parametrize("name", MAKERS)
def test_masks_and_names_come_over(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MAKERS[name](tmp_path / "theirs")
    report = tmp_path / "r.json"
    words = ["data", "import", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]
    more = NAMES if name in ("davis", "index") else []
    assert main([*words, *more, "--json", str(report)]) == 0
    assert json.loads(report.read_text())["format"] == name.split()[0]
    folder = SimpleFolder(tmp_path / "ours")
    for index in range(len(folder)):
        sample = folder[index]
        found = {r.text: r.target for r in sample.referrings}
        assert found.keys() == TRUTH.keys()
        for text, target in found.items():
            assert target is not None
            for t in target.annotated:
                shown = target.read(H, W)[t]
                assert (shown ^ TRUTH[text]).sum() <= 50, text  # an outline's last row and column
    if name == "davis":
        (sample,) = [folder[0]]
        assert sample.clip
        assert sample.referrings[0].target is not None
        assert sample.referrings[0].target.annotated == (0, 2)
    splits = {record.data.get("split") for record in folder.records}
    assert splits == ({"train", "val"} if name in ("yolo", "coco roboflow") else {None})
    left = {"labelme": "a point, 1 times", "yolo": "a box without a mask, 2 times"}
    assert left.get(name, "") in capsys.readouterr().err
    assert main(words) == 2  # nothing is written over
    assert main(["data", "check", str(tmp_path / "ours")]) == 0


def test_there_and_back(tmp_path: Path) -> None:
    make_labelme(tmp_path / "theirs")
    first, second, file = tmp_path / "one", tmp_path / "two", tmp_path / "coco" / "instances.json"
    assert main(["data", "import", str(tmp_path / "theirs"), "-o", str(first)]) == 0
    assert main(["data", "export", str(first), "-o", str(file)]) == 0
    coco = COCO(str(file))
    assert {c["name"] for c in coco.loadCats(coco.getCatIds())} == TRUTH.keys()
    assert len(coco.getAnnIds()) == 2
    picture(tmp_path / "coco" / "images" / "a.png")
    assert main(["data", "import", str(tmp_path / "coco"), "-o", str(second)]) == 0
    masks = [
        {r.text: r.target.read(H, W) for r in SimpleFolder(f)[0].referrings if r.target}
        for f in (first, second)
    ]
    assert all(np.array_equal(mask, masks[1][text]) for text, mask in masks[0].items())


@pytest.mark.parametrize(
    ("name", "break_it", "expected"),
    [
        ("coco", lambda root: (root / "images/default/a.png").unlink(), "picture 'a.png' is not there"),
        ("yolo", lambda root: write(root / "labels/train/a.txt", "7 0 0 1 0 1 1\n"), "class 7 is not in data.yaml"),
        ("labelme", lambda root: (root / "a.png").unlink(), "its picture 'a.png' is not there"),
        ("voc", lambda root: (root / "JPEGImages/a.jpg").unlink(), "has no picture in JPEGImages/"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    name: str, break_it: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MAKERS[name](tmp_path / "theirs")
    break_it(tmp_path / "theirs")
    words = ["data", "import", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]
    assert main(words) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "ours" / "annotations.jsonl").exists()


def test_other_folders_and_lost_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["data", "import", str(tmp_path / "empty"), "-o", str(tmp_path / "o")]) == 2
    assert "is in no known format; expected one of coco" in capsys.readouterr().err
    make_index(tmp_path / "theirs")
    words = ["data", "import", str(tmp_path / "theirs"), "-o", str(tmp_path / "p")]
    assert main([*words, "--name", "9=cup"]) == 2
    assert "no label image has an object 9" in capsys.readouterr().err
    assert not (tmp_path / "p" / "annotations.jsonl").exists()
