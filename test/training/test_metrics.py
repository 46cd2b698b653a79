# SPDX-License-Identifier: Apache-2.0
"""The metrics against numbers of the benchmarks' own code (test/data/metrics, with the scripts that made them)."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sa2va_training.data.masks import decode_mask
from sa2va_training.metrics import answers, captions, clips, grounded, jf, overlap

DATA = Path(__file__).parents[1] / "data" / "metrics"
MASKS = json.loads((DATA / "masks.json").read_text())
CAPTIONS = json.loads((DATA / "captions.json").read_text())


def stack(coded: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([decode_mask(c, *c["size"]) for c in coded])


@pytest.mark.parametrize("clip", MASKS["clips"])
def test_clips_as_davis_and_revos(clip: dict[str, Any]) -> None:
    truth, prediction = stack(clip["truth"]), stack(clip["prediction"])
    foreground, void = stack(clip["foreground"]), stack(clip["void"])
    pairs = list(zip(prediction, truth, void, strict=True))
    assert [jf.region_similarity(p, t) for p, t, _ in pairs] == pytest.approx(clip["j"])
    assert [jf.boundary_accuracy(p, t) for p, t, _ in pairs] == pytest.approx(clip["f"])
    assert [jf.region_similarity(*pair) for pair in pairs] == pytest.approx(clip["j_void"])
    assert [jf.boundary_accuracy(*pair) for pair in pairs] == pytest.approx(clip["f_void"])
    statistics = clips.sequence_statistics(clip["j"])
    assert [statistics.mean, statistics.recall, statistics.decay] == pytest.approx(
        clip["j_statistics"]
    )
    score = clips.clip_score(prediction, truth, foreground)
    assert score.j == pytest.approx(np.mean(clip["j"]))
    assert score.f == pytest.approx(np.mean(clip["f"]))
    assert score.accuracy == pytest.approx(clip["accuracy"])
    assert score.robustness == pytest.approx(clip["robustness"])


@pytest.mark.parametrize("clip", MASKS["unsupervised"])
def test_matched_objects_as_davis(clip: dict[str, Any]) -> None:
    def labels(frames: list[list[dict[str, Any]]], values: tuple[int, ...]) -> np.ndarray:
        planes = np.stack([stack(frame) for frame in frames])
        return (planes * np.array(values)[:, None, None]).sum(axis=1)

    scores = clips.davis_unsupervised(
        labels(clip["labels"], (1, 2, 3)), labels(clip["truth"], (1, 2, 3, 255))
    )
    assert sorted(s.j for s in scores) == pytest.approx(clip["j"])
    assert sorted(s.f for s in scores) == pytest.approx(clip["f"])


def test_overlapping_instances_do_not_collapse_robustness() -> None:
    # the published script adds instances as uint8: 1 - 2 = 255 where they overlap
    truth, prediction = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    truth[:2], prediction[:3] = True, True
    assert clips.robustness(prediction, truth, truth) == pytest.approx(0.5)


def test_objects_are_merged_by_probability() -> None:
    probabilities = np.array([[[[0.05, 0.3, 0.6]]], [[[0.02, 0.5, 0.6]]]])
    assert clips.merge_objects(probabilities)[0, 0].tolist() == [0, 2, 1]


def test_grounded_captions_as_glamm() -> None:
    expected = MASKS["grounded"]
    truths, found = [], []
    for image in expected["images"]:
        truth = grounded.Grounded(tuple(image["truth"]), tuple(image["phrases"]))
        said = grounded.Grounded(tuple(image["found"]), tuple(image["said"]))
        assert grounded.mean_iou(truth, said) == pytest.approx(image["miou"])
        assert grounded.matched_phrases(truth, said) == image["matches"]
        truths.append(truth)
        found.append(said)
    assert grounded.ap50(truths, found) == pytest.approx(expected["ap50"])
    assert grounded.recall(truths, found) == pytest.approx(expected["recall"])


def test_grounded_captions_without_any_answer() -> None:
    mask = np.ones((4, 4), bool)
    truth, nothing = grounded.Grounded.of([mask], ["a mug"]), grounded.Grounded((), ())
    assert grounded.ap50([truth], [nothing]) == 0.0
    assert grounded.recall([truth], [nothing]) == 0.0
    assert grounded.mean_iou(truth, nothing) == 0.0
    assert grounded.correct_pairs(truth, nothing) == (0, 0)


def test_a_pair_needs_both_its_mask_and_its_phrase() -> None:
    left, right = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    left[:, :2], right[:, 2:] = True, True
    truth = grounded.Grounded.of([left, right], ["a red mug", "the blue box"])
    swapped = grounded.Grounded.of([left, right], ["a blue box", "a red mug"])
    twice = grounded.Grounded.of([left, left], ["the red mug", "the red mug"])
    assert grounded.correct_pairs(truth, truth) == (2, 2)
    assert grounded.correct_pairs(truth, swapped) == (0, 2)
    assert grounded.correct_pairs(truth, twice) == (1, 2)


def test_overlap_of_sentences() -> None:
    truth, empty = np.zeros((2, 5), bool), np.zeros((2, 5), bool)
    truth[0, :4] = True
    half = truth.copy()
    half[0, :2] = False
    scored = [
        overlap.overlap(half, truth),
        overlap.overlap(empty, empty),
        overlap.overlap(half, empty),
    ]
    assert [s.iou for s in scored] == pytest.approx([0.5, 1.0, 0.0], abs=1e-4)
    assert overlap.giou(scored) == pytest.approx(0.5, abs=1e-4)
    assert overlap.ciou(scored) == pytest.approx(2 / 6)
    with pytest.raises(ValueError, match="expected equal"):
        overlap.overlap(half, truth[:1])


def test_cider_as_the_coco_toolkit() -> None:
    entries = CAPTIONS["captions"]
    for entry in entries:
        assert " ".join(captions.tokens(entry["prediction"])) == entry["prediction_tokens"]
    scores = captions.cider([e["prediction"] for e in entries], [e["references"] for e in entries])
    assert scores == pytest.approx([e["cider"] for e in entries], abs=1e-9)
    assert np.mean(scores) == pytest.approx(CAPTIONS["cider"])


def test_meteor_names_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert captions.meteor_name() == "METEOR-nltk-stem"
    entries = CAPTIONS["captions"]
    said, true = [e["prediction"] for e in entries], [e["references"] for e in entries]
    stand_in = captions.meteor(said, true)
    published = [e["meteor"] for e in entries]
    # another formula: it ranks captions alike, but its numbers are larger
    assert np.corrcoef(stand_in, published)[0, 1] > 0.8
    assert np.mean(stand_in) > 1.3 * np.mean(published)
    assert stand_in[5] == 0.0


@pytest.mark.skipif(
    not (shutil.which("java") and importlib.util.find_spec("pycocoevalcap")),
    reason="the published METEOR needs Java and pycocoevalcap",
)
def test_meteor_as_published() -> None:
    entries = CAPTIONS["captions"]
    scores = captions.meteor([e["prediction"] for e in entries], [e["references"] for e in entries])
    assert scores == pytest.approx([e["meteor"] for e in entries])


@pytest.mark.parametrize(
    ("answer", "truths", "right"),
    [
        ("Red.", ["red"], True),
        ("It is red", ["red"], True),
        ("There are three.", ["3"], True),
        ("the red mug", ["red mug", "mug"], True),
        ("gray", ["grey"], True),
        ("blue", ["red"], False),
        ("red and blue", ["red"], False),
        ("", ["red"], False),
    ],
)
def test_short_answers(answer: str, truths: list[str], right: bool) -> None:
    assert answers.is_right(answer, truths) is right
