# SPDX-License-Identifier: Apache-2.0
"""Every reader on a small dataset of the published layout, whole and damaged."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_training.data.masks import decode_mask, encode_mask
from sa2va_training.data.readers import FORMATS, DatasetConfig, open_dataset
from sa2va_training.data.sample import Dataset, Sample

from .layouts import LEFT, MAKERS, OPTIONS, RIGHT, H, W, counts, polygon, write

BOTH = LEFT | RIGHT
LLAVA = "LLaVA-Instruct-150K/llava_v1_5_mix665k.json"
REGIONS = "region_caption/refcocog/finetune_refcocog_val_with_mask.json"


def opened(name: str, root: Path, **options: Any) -> Dataset:
    MAKERS[name](root)
    return open_dataset(DatasetConfig(name, root, options={**OPTIONS.get(name, {}), **options}))


def masks(sample: Sample, number: int = 0) -> np.ndarray:
    target = sample.referrings[number].target
    assert target is not None
    return target.read(*sample.size())


def texts(sample: Sample) -> list[str]:
    return [r.text for r in sample.referrings]


def said(sample: Sample) -> list[str]:
    return [turn.text for turn in sample.turns]


@pytest.mark.parametrize(
    "form",
    [
        polygon,
        lambda m: polygon(m)[0],
        counts,
        encode_mask,
        lambda m: encode_mask(m) | {"counts": encode_mask(m)["counts"].encode()},
        lambda m: [encode_mask(m), counts(m)],
        lambda m: [*polygon(m), *polygon(m)],  # overlapping parts stay 0 and 1
    ],
)
def test_every_form_of_mask(form: Callable[[np.ndarray], Any]) -> None:
    assert (decode_mask(form(LEFT), H, W) == LEFT).all()
    assert not decode_mask(None, H, W).any()
    assert not decode_mask([], H, W).any()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": [H, W]}, "no field 'counts'"),
        (encode_mask(np.ones((4, 4), bool)), r"size is \[4, 4\]"),
        ({"size": [H, W], "counts": [3, 4]}, "add up to 7"),
        ({"size": [H, W], "counts": 3}, "counts are a int"),
        ([[1, 2, 3]], "3 numbers"),
        ([[1, 2, 3, 4, 5, "six"]], "no number"),
        ("abc", "is a str"),
    ],
)
def test_a_wrong_mask_is_named(wrong: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"file.json: record 3.*{words}"):
        decode_mask(wrong, H, W, "file.json: record 3")


def test_every_format_has_a_layout() -> None:
    assert set(MAKERS) == set(FORMATS)


@pytest.mark.parametrize("name", list(FORMATS))
def test_samples_are_whole(name: str, tmp_path: Path) -> None:
    """What holds for every dataset: pictures and masks can be read, ids are unique, order is fixed."""
    dataset = opened(name, tmp_path)
    samples = [dataset[i] for i in range(len(dataset))]
    again = open_dataset(DatasetConfig(name, tmp_path, options=OPTIONS.get(name, {})))
    assert [s.id for s in samples] == [again[i].id for i in range(len(again))]
    assert len({s.id for s in samples}) == len(samples)
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    for sample in samples:
        assert str(tmp_path) in sample.record
        assert sample.turns or sample.referrings
        pictures = sample.read_frames()
        assert all(p.shape == (*sample.size(), 3) and p.dtype == np.uint8 for p in pictures)
        assert sample.clip or len(sample.frames) <= 1
        assert sample.read_masks().shape[:2] == (len(sample.targets), len(sample.frames))
        for referring in sample.referrings:
            if referring.target is not None:
                read = referring.target.read(*sample.size())
                assert read.shape == (len(sample.frames), *sample.size())
                assert read.any() != referring.absent
        if sample.frames:
            assert sample.with_frames([0]).read_frames()[0].shape == pictures[0].shape


def test_refcoco(tmp_path: Path) -> None:
    dataset = opened("refcoco", tmp_path)
    assert len(dataset) == 1
    assert texts(dataset[0]) == ["the left thing", "red one", "right thing"]
    assert (masks(dataset[0])[0] == LEFT).all()
    assert (masks(dataset[0], 2)[0] == RIGHT).all()
    assert dataset[0].frames[0].name.endswith("COCO_train2014_000000000007.jpg")
    for split, expected in (("testA", ["left"]), ("testB", ["right"]), ("test", ["left", "right"])):
        config = DatasetConfig("refcoco", tmp_path, options={"split": split})
        assert texts(open_dataset(config)[0]) == expected


def test_grefcoco_may_mean_several_or_nothing(tmp_path: Path) -> None:
    sample = opened("grefcoco", tmp_path)[0]
    assert (masks(sample)[0] == BOTH).all()
    assert sample.referrings[1].absent
    assert not masks(sample, 1).any()


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path) -> None:
    MAKERS["refcoco"](tmp_path)
    (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps([Path("x")]))
    with pytest.raises(InputError, match=r"refs\(unc\).p: is no pickle of plain data"):
        open_dataset(DatasetConfig("refcoco", tmp_path))


def test_llava(tmp_path: Path) -> None:
    dataset = opened("llava", tmp_path)
    assert said(dataset[0]) == ["<image>\nWhat is this?", "A red thing.", "Sure?", "Yes."]
    assert said(dataset[1]) == ["Hi", "Hello"]
    assert dataset[1].modality == "none"
    without = DatasetConfig("llava", tmp_path, options={"text_only": False})
    assert len(open_dataset(without)) == 1


def test_video_chat_in_both_shapes(tmp_path: Path) -> None:
    dataset = opened("video_chat", tmp_path)
    assert [said(dataset[i])[0] for i in range(3)] == ["<image>\nWhich colour?"] + [
        "<image>\nWhat?"
    ] * 2
    assert len(dataset[0].frames) == 6
    assert dataset[2].modality == "clip"
    picked = dataset[0].with_frames([4, 1]).read_frames()
    assert picked[0].mean() > picked[1].mean()


@pytest.mark.parametrize("name", ["grandf", "openpsg"])
def test_grounded_captions(name: str, tmp_path: Path) -> None:
    sample = opened(name, tmp_path)[0]
    assert sample.turns[1].text == "<p> A red thing </p> [SEG] beside <p> a grey thing </p> [SEG]."
    assert (sample.read_masks()[:, 0] == np.stack([BOTH, RIGHT])).all()
    assert sample.references == ("A red thing beside a grey thing.",)


def test_refcocog_grounded_captions(tmp_path: Path) -> None:
    sample = opened("refcocog_gcg", tmp_path)[0]
    # "thing near a wall" begins inside "red thing", which therefore ends there; the dog is not in the caption
    assert sample.turns[1].text == "a <p> red </p> [SEG]<p> thing near a wall </p> [SEG]"
    assert (sample.read_masks()[:, 0] == np.stack([LEFT, RIGHT])).all()


def test_flickr_grounded_captions(tmp_path: Path) -> None:
    dataset = opened("flickr_gcg", tmp_path)
    assert len(dataset) == 1
    assert dataset[0].turns[1].text == "<p> A man </p> [SEG] with <p> a hat </p> [SEG]"
    assert (dataset[0].read_masks()[:, 0] == np.stack([BOTH, RIGHT])).all()


def test_gcg_evaluation_set(tmp_path: Path) -> None:
    sample = opened("gcg_eval", tmp_path)[0]
    assert sample.turns[1].text == "<p> A thing </p> [SEG] <p> a thing </p> [SEG]"
    assert (sample.read_masks()[:, 0] == np.stack([LEFT, RIGHT])).all()


def test_mevis(tmp_path: Path) -> None:
    dataset = opened("mevis", tmp_path)
    assert [dataset[i].id for i in range(2)] == ["clip_a", "clip_b"]
    assert texts(dataset[0]) == ["both things", "the left one", "the right one"]
    assert (masks(dataset[0]) == np.stack([BOTH, RIGHT, BOTH])).all()
    secret = open_dataset(DatasetConfig("mevis", tmp_path, options={"split": "valid"}))[0]
    assert secret.referrings[0].target is None
    assert not secret.referrings[0].absent


def test_revos(tmp_path: Path) -> None:
    sample = opened("revos", tmp_path)[0]
    assert [r.kind for r in sample.referrings] == ["referring", "reasoning", "none"]
    assert not masks(sample, 2).any()
    assert len(sample.foreground) == 3
    assert (sample.foreground[0].read(H, W) == BOTH).all()  # type: ignore[union-attr]


def test_ref_youtube_vos(tmp_path: Path) -> None:
    dataset = opened("ref_youtube_vos", tmp_path)
    assert (masks(dataset[0], 3) == LEFT).all()
    assert (masks(dataset[0], 4) == RIGHT).all()
    valid = open_dataset(DatasetConfig("ref_youtube_vos", tmp_path, options={"split": "valid"}))
    assert [valid[i].id for i in range(len(valid))] == ["c"]  # without the test videos


def test_ref_davis17(tmp_path: Path) -> None:
    sample = opened("ref_davis17", tmp_path)[1]
    assert (masks(sample, 0) == LEFT).all()
    assert (masks(sample, 7)[0] == RIGHT).all()
    assert not masks(sample, 7)[1].any()
    assert [r.kind for r in sample.referrings[:5]] == [
        "annotator 1", "annotator 2", "annotator 3", "annotator 4", "annotator 1",
    ]  # fmt: skip


def test_ref_sav_on_a_cut_of_a_real_annotation(tmp_path: Path) -> None:
    sample = opened("ref_sav", tmp_path, captions="both")[0]
    assert [(r.id, r.kind) for r in sample.referrings] == [
        ("0.0", "long"), ("0.1", "short"), ("0.2", "short"), ("1.0", "long"),
    ]  # fmt: skip
    assert sample.size() == (848, 480)
    # areas as pycocotools sees them; over the whole file their mean is SA-V's own masklet_size_abs, 38512.49
    assert [int(m.sum()) for m in masks(sample)] == [52965, 51599, 33580, 13167]
    # the second object is not seen before the last frame
    assert [bool(m.any()) for m in masks(sample, 3)] == [False, False, False, True]
    shades = [int(f.mean()) for f in sample.read_frames()]
    assert shades == pytest.approx([0, 32, 64, 96], abs=6)  # every fourth frame of the video


def test_ref_sav_eval(tmp_path: Path) -> None:
    sample = opened("ref_sav_eval", tmp_path)[0]
    assert [r.kind for r in sample.referrings] == ["long", "short"]
    assert [bool(m.any()) for m in masks(sample, 1)] == [False, False, True]


def test_osprey(tmp_path: Path) -> None:
    sample = opened("osprey", tmp_path)[0]
    assert said(sample) == ["<image>\nWhat is region1 beside region2?", "A thing."]
    assert (sample.read_regions() == np.stack([LEFT, RIGHT])).all()
    options = {"annotations": "Osprey-724K/osprey_detail_description.json"}
    details = open_dataset(DatasetConfig("osprey", tmp_path, options=options))
    assert [said(details[i])[1] for i in range(2)] == ["A red thing.", "A grey thing like region1."]
    assert (details[1].read_regions()[0] == RIGHT).all()
    # RIGHT covers 120 of 768 pixels, 40 of 256 cells
    for cells, count in ((40, 1), (41, 0)):
        MAKERS["osprey"](tmp_path)
        found = FORMATS["osprey"](tmp_path, "osprey", min_cells=cells)
        assert len(found) == count


def test_region_captions(tmp_path: Path) -> None:
    sample = opened("region_captions", tmp_path)[0]
    assert sample.references == ("a thing", "red thing")
    assert (sample.read_regions()[0] == LEFT).all()


def test_simple_folder(tmp_path: Path) -> None:
    dataset = opened("simple", tmp_path)
    parts = [dataset[i] for i in range(len(dataset))]
    assert len(parts) == 6
    expressions, colour, region, grounded, plain, clip = parts
    assert [r.kind for r in expressions.referrings] == ["attribute", "", "none"]
    assert (masks(expressions, 1)[0] == BOTH).all()
    assert (colour.kind, colour.references) == ("colour", ("red",))
    assert (region.read_regions()[0] == RIGHT).all()
    assert grounded.turns[1].text == "A <p> red thing </p> [SEG] and <p> another </p> [SEG]."
    assert grounded.references == ("A red thing and another.",)
    assert plain.kind == "caption"
    assert clip.referrings[0].target is not None
    assert clip.referrings[0].target.annotated == (0, 2)
    assert clip.referrings[1].target is not None
    assert clip.referrings[1].target.annotated == (0, 2)
    assert [bool(m.any()) for m in masks(clip, 1)] == [True, False, False]
    for split, count in (("val", 5), ("train", 1)):
        chosen = open_dataset(DatasetConfig("simple", tmp_path, options={"split": split}))
        assert len(chosen) == count


def read_all(config: DatasetConfig) -> None:
    dataset = open_dataset(config)
    for i in range(len(dataset)):
        sample = dataset[i]
        sample.read_frames()
        sample.read_masks()
        for number in range(len(sample.referrings)):
            masks(sample, number)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "words"),
    [
        ("simple", "annotations.jsonl", '"image":', '"imgae":',
         "line 1: unknown field 'imgae', did you mean 'image'"),
        ("simple", "annotations.jsonl", '"text": "the red thing"', '"txt": "x"',
         "expressions .0.*'txt'.*did you mean 'text'"),
        ("simple", "annotations.jsonl", '"objects": ["1", "2"]', '"objects": ["9"]',
         "object '9', which is not in 'objects'"),
        ("simple", "annotations.jsonl", '"clip": "images/run", ', "", "line 2: has no picture"),
        ("simple", "annotations.jsonl", ", null, []", ", nul, []", "line 2: not valid JSON"),
        ("simple", "annotations.jsonl", "null, []]", "null]", "object 'hand' has 2 masks, expected 3"),
        ("simple", "annotations.jsonl", '[["1"], ["2"]]', '[["1"]]', "2 <p>phrases</p> and 'objects' 1"),
        ("simple", "annotations.jsonl", '"image": "images/a.png", "labels": "masks/a.png"', '"clip": "images/run"',
         "questions .1.: 'regions' in a clip"),
        ("finetune", "annotations.json", '["left", "right"]', '["left"]', "record 0.*2 objects and 'text' 1"),
        ("llava", LLAVA, '"human"', '"user"', "record 0.*'from' is 'user'"),
        ("llava", LLAVA, '"coco/train2017/a.jpg"', "5", "record 0: field 'image' is 5, expected text"),
        ("video_chat", "video_chat.json", "v_one", "v_two", "record 0: video 'v_two' is not in"),
        ("refcoco", "refcoco/instances.json", '"id": 70', '"id": 72', "ann_id 70 is not in"),
        ("refcoco", "refcoco/instances.json", '"segmentation"', '"segment"',
         "annotation 70.*'segmentation' is missing.*'segment'"),
        ("grandf", "annotations/GranDf_HA_GCG_train.json", "[19, 31]", "[31, 19]", "a grey thing.*span is"),
        ("grandf", "annotations/GranDf_HA_GCG_train.json", "[19, 31]", "[19, 99]", "19 to 99, expected at most 32"),
        ("flickr_gcg", "annotations/flickr_mergedGT_GCG_train.json", '"sam_mask"', '"mask"', "'sam_mask' is missing"),
        ("mevis", "train/mask_dict.json", '"1":', '"5":', "clip_a.*expression '0'.*anno_id 1 is not in"),
        ("mevis", "train/meta_expressions.json", '"00002"]', '"00002", "00003"]', "has 3 masks, expected 4"),
        ("revos", "meta_expressions_valid_.json", '"type_id": 0', '"typ_id": 0',
         "expression '0'.*'type_id' is missing"),
        ("revos", "mask_dict_foreground.json", '"masks_rle"', '"masks"', "'masks_rle' is missing"),
        ("ref_sav", "Ref-SAV.json", '"formated"', '"formatted"',
         "objects: 0.*'formated' is missing.*'formatted'"),
        ("ref_sav", "Ref-SAV.json", '"1":', '"7":', "object '7' is not in"),
        ("ref_sav", "sam_v_full/sav_000/sav_000001_manual.json", "13.0", "20.0", "has 4 frames, expected 5"),
        ("osprey", "Osprey-724K/osprey_conversation.json", "o.jpg", "x.jpg", "record 0: file 'x.jpg' is not in"),
        ("region_captions", REGIONS, '"id": 3', '"id": 4', "no annotation"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    name: str, file: str, old: str, new: str, words: str, tmp_path: Path
) -> None:
    MAKERS[name](tmp_path)
    change(tmp_path / file, old, new)
    config = DatasetConfig(name, tmp_path, options=OPTIONS.get(name, {}))
    with pytest.raises(InputError, match=words) as error:
        read_all(config)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no annotations\.jsonl"):
        open_dataset(DatasetConfig("simple", tmp_path))
    with pytest.raises(InputError, match="is no folder"):
        open_dataset(DatasetConfig("simple", tmp_path / "nothing"))
    MAKERS["finetune"](tmp_path)
    (tmp_path / "images/a.jpg").unlink()
    with pytest.raises(InputError, match=r"a\.jpg: No such file"):
        open_dataset(DatasetConfig("finetune", tmp_path))[0].read_frames()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format": "simpel", "root": "."}, "did you mean 'simple'"),
        ({"root": "."}, "field 'format' is None"),
        (
            {"format": "mevis", "root": ".", "spilt": "x"},
            "unknown option 'spilt'.*did you mean 'split'",
        ),
        ({"format": "mevis", "root": ".", "limit": 0}, "limit is 0"),
        ({"format": "mevis", "root": ".", "repeats": -1}, "repeats is -1"),
        ({"format": "mevis", "root": ".", "limit": "many"}, "'limit' is 'many'"),
    ],
)
def test_descriptions_are_checked(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"data.yaml: .*{words}"):
        DatasetConfig.from_mapping(values, tmp_path, "data.yaml")


def test_a_limit_takes_the_first(tmp_path: Path) -> None:
    MAKERS["mevis"](tmp_path)
    config = DatasetConfig.from_mapping({"format": "mevis", "root": ".", "limit": 1}, tmp_path, "x")
    dataset = open_dataset(config)
    assert (len(dataset), dataset[0].id) == (1, "clip_a")
    with pytest.raises(IndexError):
        dataset[1]


def test_a_size_that_the_annotations_deny_is_named(tmp_path: Path) -> None:
    MAKERS["osprey"](tmp_path)
    path = tmp_path / "Osprey-724K/osprey_conversation.json"
    rows = json.loads(path.read_text())
    rows[0]["height"] = 99
    write(path, rows)
    with pytest.raises(InputError, match=re.escape("is 32x24, expected 32x99")):
        open_dataset(DatasetConfig("osprey", tmp_path))[0].read_frames()
