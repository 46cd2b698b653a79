# SPDX-License-Identifier: Apache-2.0
"""Small datasets in the layouts that are published, made on the fly. Pictures are 24 x 32, objects are rectangles."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sa2va_cli.output import VideoWriter
from sa2va_training.data.masks import encode_mask
from sa2va_training.data.readers.shards import folder_records, write_shards
from sa2va_training.data.readers.simple import SimpleFolder

H, W = 24, 32
SAV = Path(__file__).parents[1] / "data" / "sav_cut_manual.json"


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


LEFT, RIGHT = rectangle(2, 4, 12, 20), rectangle(18, 6, 30, 16)


def polygon(mask: np.ndarray) -> list[list[float]]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, x1 = float(columns[0]), float(columns[-1] + 1)
    y0, y1 = float(rows[0]), float(rows[-1] + 1)
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def counts(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed RLE: run lengths in column order, starting with zeros."""
    flat = mask.T.ravel().astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": [H, W], "counts": runs if not flat[0] else [0, *runs]}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".p", ".pkl"):
        path.write_bytes(pickle.dumps(value, protocol=2))  # as the published ones
    else:
        path.write_text(json.dumps(value))


def picture(path: Path, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.full((H, W, 3), shade, np.uint8)
    rgb[LEFT] = (200, 30, 30)
    cv2.imwrite(str(path), rgb[:, :, ::-1])


def frames(folder: Path, count: int = 3, step: int = 1) -> list[str]:
    names = [f"{t * step:05d}" for t in range(count)]
    for t, name in enumerate(names):
        picture(folder / f"{name}.jpg", 60 + 20 * t)
    return names


def palette(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0] + [0] * (768 - 9))
    image.save(path)


def video(path: Path, count: int, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(path, 24.0)
    for t in range(count):
        writer.add(np.full((*size, 3), min(8 * t, 255), np.uint8), t / 24)
    writer.close()


def coco_instances() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": H, "width": W}
        ],
        "annotations": [
            {"id": 70, "image_id": 7, "category_id": 1, "segmentation": polygon(LEFT)},
            {"id": 71, "image_id": 7, "category_id": 1, "segmentation": counts(RIGHT)},
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }


def ref(number: int, ann_id: Any, split: str, *sentences: str) -> dict[str, Any]:
    return {
        "ref_id": number, "ann_id": ann_id, "image_id": 7, "category_id": 1, "split": split,
        "file_name": f"COCO_train2014_000000000007_{number}.jpg",
        "sentences": [
            {"sent_id": 10 * number + i, "sent": s.lower().rstrip("."), "raw": s, "tokens": s.split()}
            for i, s in enumerate(sentences)
        ],
    }  # fmt: skip


def refcoco(root: Path, folder: str = "refcoco", file: str = "refs(unc).p") -> None:
    refs = [
        ref(0, 70, "train", "The LEFT thing.", "red one"),
        ref(1, 71, "train", "right thing"),
        ref(2, 70, "testA", "Left"),
        ref(3, 71, "testB", "Right"),
        ref(4, 71, "val", "Right val"),
    ]
    if folder == "grefcoco":
        refs = [ref(0, [70, 71], "train", "both"), ref(1, [-1], "train", "the dog")]
    write(root / folder / file, refs)
    write(root / folder / "instances.json", coco_instances())
    picture(root / "coco2014/train2014/COCO_train2014_000000000007.jpg")


def llava(root: Path) -> None:
    talk = [
        {"from": "gpt", "value": "left over"},
        {"from": "human", "value": "What is this?\n<image>"},
        {"from": "gpt", "value": "A red thing."},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "Yes."},
    ]
    rows = [
        {"id": "1", "image": "coco/train2017/a.jpg", "conversations": talk},
        {
            "id": "2",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        },
    ]
    write(root / "LLaVA-Instruct-150K/llava_v1_5_mix665k.json", rows)
    picture(root / "llava_images/coco/train2017/a.jpg")


def video_chat(root: Path) -> None:
    talk = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "Grey."}]
    rows = [
        {"q": "Which colour?", "a": "Grey", "video_id": "v_one"},
        {"id": "2", "video": "v_one.pkl", "conversations": talk},
        {"video": "v_one.mkv", "conversations": talk},
    ]
    write(root / "video_chat.json", rows)
    video(root / "Activity_Videos/v_one.mp4", 6)


def grandf(
    root: Path, file: str = "GranDf_HA_GCG_train.json", images: str = "grandf/train"
) -> None:
    caption = "A red thing beside a grey thing."
    groundings = {
        "a grey thing": {"token_positives": [19, 31], "rle_masks": [encode_mask(RIGHT)]},
        "A red thing": {
            "token_positives": [0, 11],
            "rle_masks": [encode_mask(LEFT), counts(RIGHT)],
        },
    }
    write(
        root / "annotations" / file,
        [{"file_name": "g.jpg", "caption": caption, "groundings": groundings}],
    )
    picture(root / "images" / images / "g.jpg")


def refcocog_gcg(root: Path) -> None:
    refs = [
        {"sentence": "Red thing", "segmentation": polygon(LEFT)},
        {"sentence": "thing near a wall", "segmentation": polygon(RIGHT)},
        {"sentence": "a dog", "segmentation": polygon(RIGHT)},
    ]
    entry = {"img_file_name": "g.jpg", "caption": '"A red thing near a wall"', "refs": refs}
    write(root / "annotations/RefCOCOg_GCG_train.json", [{"42": entry}])
    picture(root / "images/coco2014/train2014/g.jpg")


def flickr_gcg(root: Path) -> None:
    pictures = [
        {"id": 1, "file_name": "f.jpg", "caption": "A man with a hat", "height": 40, "width": 40},
        {"id": 2, "file_name": "f.jpg", "caption": "Too short", "height": 40, "width": 40},
        {
            "id": 3,
            "file_name": "f.jpg",
            "caption": "A very small picture",
            "height": 20,
            "width": 40,
        },
    ]
    annotations = [
        {"id": 1, "image_id": 1, "tokens_positive": [[11, 16]], "sam_mask": encode_mask(RIGHT)},
        {"id": 2, "image_id": 1, "tokens_positive": [[0, 5]], "sam_mask": encode_mask(LEFT)},
        {"id": 3, "image_id": 1, "tokens_positive": [[0, 5]], "sam_mask": encode_mask(RIGHT)},
        {"id": 4, "image_id": 1, "tokens_positive": [[0, 5]], "sam_mask": encode_mask(LEFT), "ignore": 1},
    ]  # fmt: skip
    write(
        root / "annotations/flickr_mergedGT_GCG_train.json",
        {"images": pictures, "annotations": annotations},
    )
    picture(root / "images/flickr30k/Flickr30K/f.jpg")


def gcg_eval(root: Path) -> None:
    folder = root / "annotations/gcg_val_test"
    masks = [
        {"id": 1, "image_id": 5, "category_id": 1, "segmentation": encode_mask(LEFT)},
        {"id": 2, "image_id": 5, "category_id": 1, "segmentation": encode_mask(RIGHT)},
    ]
    said = [
        {"id": 1, "image_id": 5, "caption": "A thing and a thing", "labels": ["A thing", "a thing"]}
    ]
    images = [{"id": 5, "file_name": "5.jpg"}]
    write(folder / "val_gcg_coco_mask_gt.json", {"images": images, "annotations": masks})
    write(folder / "val_gcg_coco_caption_gt.json", {"images": images, "annotations": said})
    picture(root / "images/grandf/val_test/5.jpg")


def mevis(root: Path) -> None:
    names = frames(root / "train/JPEGImages/clip_b")
    frames(root / "train/JPEGImages/clip_a")
    expressions = {
        "0": {"exp": "both things", "obj_id": [1, 2], "anno_id": [0, 1]},
        "10": {"exp": "the right one", "obj_id": [2], "anno_id": [1]},
        "2": {"exp": "the left one", "obj_id": [1], "anno_id": [0]},
    }
    videos = {
        v: {"vid_id": 1, "frames": names, "expressions": expressions} for v in ("clip_b", "clip_a")
    }
    masks = {
        "0": [encode_mask(LEFT), None, encode_mask(LEFT)],
        "1": [encode_mask(RIGHT)] * 3,
    }
    write(root / "train/meta_expressions.json", {"videos": videos})
    write(root / "train/mask_dict.json", masks)
    frames(root / "valid/JPEGImages/clip_c")
    secret = {"frames": names, "expressions": {"0": {"exp": "secret"}}}
    write(root / "valid/meta_expressions.json", {"videos": {"clip_c": secret}})


def revos(root: Path) -> None:
    names = frames(root / "JPEGImages/ovis/v1")
    expressions = {
        "0": {"exp": "the left thing", "anno_id": [0], "type_id": 0},
        "1": {"exp": "what could be eaten?", "anno_id": [1], "type_id": 1},
        "2": {"exp": "the flying dog", "anno_id": [], "type_id": 2},
    }
    entry = {"frames": names, "height": H, "width": W, "expressions": expressions}
    write(root / "meta_expressions_valid_.json", {"videos": {"JPEGImages/ovis/v1": entry}})
    write(root / "mask_dict.json", {"0": [encode_mask(LEFT)] * 3, "1": [encode_mask(RIGHT)] * 3})
    both = [encode_mask(LEFT | RIGHT)] * 3
    write(root / "mask_dict_foreground.json", {"JPEGImages/ovis/v1": {"masks_rle": both}})


def ref_sav_eval(root: Path) -> None:
    names = frames(root / "videos/v1")
    expressions = {
        "0": {"exp": "a long caption", "anno_id": [0], "type_id": 0},
        "1": {"exp": "short", "anno_id": [1], "type_id": 1},
    }
    entry = {"frames": names, "height": H, "width": W, "expressions": expressions}
    write(root / "meta_expressions_valid.json", {"videos": {"v1": entry}})
    write(root / "mask_dict.json", {"0": [encode_mask(LEFT)] * 3, "1": [None, None, counts(RIGHT)]})


def _vos(root: Path, split: str, packed: bool) -> None:
    """Ref-YouTube-VOS and Ref-DAVIS17: expressions with obj_id, palette images or packed masks."""
    expressions = {str(i): {"exp": f"expression {i}", "obj_id": str(i // 4 + 1)} for i in range(8)}
    videos = {}
    for name in ("b", "a"):
        names = frames(root / split / "JPEGImages" / name, step=5)
        videos[name] = {"frames": names, "expressions": expressions}
        for frame in names:
            if not packed:
                labels = LEFT * 1 + RIGHT * 2
                palette(root / split / "Annotations" / name / f"{frame}.png", labels)
    write(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
    if packed:  # a running number over sorted videos and expressions
        masks = [encode_mask(LEFT)] * 3, [encode_mask(RIGHT), None, None]
        write(root / "mask_dict.pkl", {str(k): masks[k % 8 // 4] for k in range(16)})


def ref_youtube_vos(root: Path) -> None:
    _vos(root, "train", packed=False)
    names = frames(root / "valid/JPEGImages/c")
    videos = {v: {"frames": names, "expressions": {"0": {"exp": "secret"}}} for v in ("c", "d")}
    write(root / "meta_expressions/valid/meta_expressions.json", {"videos": videos})
    write(root / "meta_expressions/test/meta_expressions.json", {"videos": {"d": videos["d"]}})


def ref_davis17(root: Path) -> None:
    _vos(root, "valid", packed=True)


def ref_sav(root: Path) -> None:
    """A cut of a real SA-V annotation (see test/data/README.md)."""
    masklets = json.loads(SAV.read_text())
    objects = {
        "0": {"formated": "The first thing, at length.", "short_caps": ["first", "thing"]},
        "1": {"formated": "The second thing."},
    }
    folder = "sav_000/sav_train/sav_000"
    write(
        root / "Ref-SAV.json",
        {"sav_000001": {
            "video_path": f"{folder}/sav_000001.mp4", "anno_path": f"{folder}/sav_000001_manual.json",
            "objects": objects,
        }},
    )  # fmt: skip
    place = root / "sam_v_full/sav_000"
    write(place / "sav_000001_manual.json", masklets)
    size = int(masklets["video_height"]), int(masklets["video_width"])
    video(place / "sav_000001.mp4", int(masklets["video_frame_count"]), size)


def osprey(root: Path) -> None:
    regions = [
        {"segmentation": polygon(LEFT), "bbox": [2, 4, 10, 16]},
        {"segmentation": encode_mask(RIGHT)},
    ]
    talk = [
        {"from": "human", "value": "What is <region1> beside <region2>?"},
        {"from": "gpt", "value": "A thing."},
    ]
    base = {"file_name": "o.jpg", "height": H, "width": W, "annotation": regions}
    write(root / "Osprey-724K/osprey_conversation.json", [base | {"conversations": talk}])
    described = ["<region1>: A red thing.", "<region2>: A grey thing like <region1>."]
    write(root / "Osprey-724K/osprey_detail_description.json", [base | {"description": described}])
    picture(root / "coco/val2014/o.jpg")


def region_captions(root: Path) -> None:
    folder = root / "region_caption/refcocog"
    images = [{"id": 3, "file_name": "r.jpg", "height": H, "width": W, "caption": "red thing"}]
    annotations = [{"id": 3, "image_id": 3, "segmentation": polygon(LEFT)}]
    write(
        folder / "finetune_refcocog_val_with_mask.json",
        {"images": images, "annotations": annotations},
    )
    said = [
        {"id": i, "image_id": 3, "caption": text} for i, text in enumerate(["a thing", "red thing"])
    ]
    write(
        root / "mdetr_annotations/finetune_refcocog_val_captions.json",
        {"images": images, "annotations": said},
    )
    picture(root / "images/coco2014/train2014/r.jpg")


def finetune(root: Path) -> None:
    record = {"image": "a.jpg", "mask": [polygon(LEFT), polygon(RIGHT)], "text": ["left", "right"]}
    write(root / "annotations.json", [record])
    picture(root / "images/a.jpg")


def simple(root: Path) -> None:
    picture(root / "images/a.png")
    frames(root / "images/run")
    labels = LEFT * 1 + RIGHT * 2
    palette(root / "masks/a.png", labels)
    for name in ("00000", "00002"):
        palette(root / f"masks/run/{name}.png", labels)
    records = [
        {
            "image": "images/a.png", "labels": "masks/a.png", "split": "val",
            "objects": {"1": {"name": "red thing"}, "2": {}},
            "expressions": [
                {"text": "the red thing", "objects": ["1"], "kind": "attribute"},
                {"text": "everything", "objects": ["1", "2"]},
                {"text": "the dog", "objects": []},
            ],
            "questions": [
                {"question": "What colour?", "answer": "red", "kind": "colour"},
                {"question": "What is region1?", "answer": ["a thing", "thing"], "regions": ["2"]},
            ],
            "captions": [
                {"text": "A <p>red thing</p> and <p>another</p>.", "objects": [["1"], ["2"]]},
                {"text": "Two things."},
            ],
        },
        {
            "clip": "images/run", "labels": "masks/run",
            "objects": {"1": {}, "hand": {"masks": [counts(RIGHT), None, []]}},
            "expressions": [{"text": "left", "objects": ["1"]}, {"text": "hand", "objects": ["hand"]}],
        },
    ]  # fmt: skip
    lines = "\n".join(json.dumps(record) for record in records)
    (root / "annotations.jsonl").write_text(lines + "\n\n")


def shards(root: Path) -> None:
    """The simple folder as tar files of one record each."""
    simple(root / "made")
    write_shards(folder_records(SimpleFolder(root / "made")), root, per=1)


MAKERS: dict[str, Callable[[Path], None]] = {
    "shards": shards,
    "simple": simple,
    "finetune": finetune,
    "llava": llava,
    "video_chat": video_chat,
    "refcoco": refcoco,
    "refcoco+": lambda root: refcoco(root, "refcoco+"),
    "refcocog": lambda root: refcoco(root, "refcocog", "refs(umd).p"),
    "grefcoco": lambda root: refcoco(root, "grefcoco", "grefs(unc).json"),
    "grandf": grandf,
    "openpsg": lambda root: grandf(root, "OpenPsgGCG_train.json", "coco2017/train2017"),
    "refcocog_gcg": refcocog_gcg,
    "flickr_gcg": flickr_gcg,
    "gcg_eval": gcg_eval,
    "mevis": mevis,
    "revos": revos,
    "ref_youtube_vos": ref_youtube_vos,
    "ref_davis17": ref_davis17,
    "ref_sav": ref_sav,
    "ref_sav_eval": ref_sav_eval,
    "osprey": osprey,
    "region_captions": region_captions,
}
OPTIONS: dict[str, dict[str, Any]] = {"revos": {"split": "valid"}}
