# SPDX-License-Identifier: Apache-2.0
"""Grounded captions after GLaMM's `eval/gcg/evaluate.py`: AP50, mIoU and recall of masks and their phrases.

The published recall compares phrases by a BERT that would have to be downloaded. How similar two phrases are is
therefore a function that is passed in; the one here counts shared words and gives figures that are not comparable to
published ones (they carry another name in reports).
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sa2va_training.data.masks import encode_mask

Similarity = Callable[[str, str], float]
IOU_THRESHOLD = 0.5
TEXT_THRESHOLD = 0.5
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Grounded:
    """Masks of one image and what they were called.

    Attributes:
        masks: RLE as `masks.encode_mask` gives it.
        phrases: of the caption, in order; normally one for each mask.
    """

    masks: tuple[dict[str, object], ...]
    phrases: tuple[str, ...]

    @classmethod
    def of(cls, masks: Sequence[np.ndarray], phrases: Sequence[str]) -> Grounded:
        """From bool [H, W] masks."""
        return cls(tuple(encode_mask(mask) for mask in masks), tuple(phrases))


def shared_words(first: str, second: str) -> float:
    """F1 of the words of two phrases, articles left out: 1 = the same words, 0 = none in common."""
    a, b = _words(first), _words(second)
    common = len(a & b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def _words(phrase: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", phrase.lower())) - _ARTICLES


def iou_matrix(truth: Grounded, found: Grounded) -> np.ndarray:
    """IoU of every true mask (rows) with every found one: float [G, P]."""
    if not truth.masks or not found.masks:
        return np.zeros((len(truth.masks), len(found.masks)))
    matrix = coco_mask.iou(list(found.masks), list(truth.masks), [0] * len(truth.masks))
    return np.asarray(matrix).T


def mean_iou(truth: Grounded, found: Grounded) -> float:
    """mIoU of one image: greedy one-to-one pairs by IoU, mean over pairs that overlap at all.

    A true mask that nothing overlaps is not counted, as published.
    """
    matrix = iou_matrix(truth, found)
    pairs = []
    while matrix.size and matrix.max() > 0:
        g, p = np.unravel_index(int(matrix.argmax()), matrix.shape)
        pairs.append(float(matrix[g, p]))
        matrix = np.delete(np.delete(matrix, g, axis=0), p, axis=1)
    return float(np.mean(pairs)) if pairs else 0.0


def matched_phrases(truth: Grounded, found: Grounded, similarity: Similarity = shared_words) -> int:
    """True positives of recall: greedy pairs by IoU whose masks and phrases both agree.

    As published, matching ends at the first best pair that does not agree, and the n-th mask is taken to belong to
    the n-th phrase (the evaluation set lists them side by side).
    """
    size = min(len(truth.masks), len(truth.phrases)), min(len(found.masks), len(found.phrases))
    matrix = iou_matrix(truth, found)[: size[0], : size[1]].copy()
    matches = 0
    while matrix.size:
        g, p = np.unravel_index(int(matrix.argmax()), matrix.shape)
        alike = similarity(truth.phrases[g], found.phrases[p])
        if matrix[g, p] < IOU_THRESHOLD or alike < TEXT_THRESHOLD:
            break
        matches += 1
        matrix[g, :] = 0
        matrix[:, p] = 0
    return matches


def recall(
    truths: Sequence[Grounded], found: Sequence[Grounded], similarity: Similarity = shared_words
) -> float:
    """True positives over all true phrases of all images."""
    total = sum(len(truth.phrases) for truth in truths)
    hits = sum(matched_phrases(t, f, similarity) for t, f in zip(truths, found, strict=True))
    return hits / total if total else 0.0


def correct_pairs(
    truth: Grounded, found: Grounded, similarity: Similarity = shared_words
) -> tuple[int, int]:
    """(correct, all) phrase-mask pairs of an answer: a pair is correct if one true pair agrees with it.

    It agrees if the masks overlap by at least half and the phrases' similarity is at least half; each true pair counts
    once. Ours, for answers whose phrases have known masks: share of what was said that is right.
    """
    matrix = iou_matrix(truth, found)
    pairs = min(len(found.masks), len(found.phrases))
    free = set(range(min(len(truth.masks), len(truth.phrases))))
    correct = 0
    for p in range(pairs):
        fits = [
            g
            for g in free
            if matrix[g, p] >= IOU_THRESHOLD
            and similarity(truth.phrases[g], found.phrases[p]) >= TEXT_THRESHOLD
        ]
        if fits:
            free.discard(max(fits, key=lambda g: float(matrix[g, p])))
            correct += 1
    return correct, max(len(found.masks), len(found.phrases))


def ap50(truths: Sequence[Grounded], found: Sequence[Grounded]) -> float:
    """Average precision at IoU 0.5 by COCO's own code: one category, every prediction scored 1; nan without truth."""
    annotations = [
        {
            "id": 0,
            "image_id": i,
            "category_id": 1,
            "segmentation": mask,
            "iscrowd": 0,
            "area": float(coco_mask.area(mask)),
            "bbox": [float(v) for v in coco_mask.toBbox(mask)],
        }
        for i, truth in enumerate(truths)
        for mask in truth.masks
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    results = [
        {"image_id": i, "category_id": 1, "segmentation": mask, "score": 1.0}
        for i, prediction in enumerate(found)
        for mask in prediction.masks
    ]
    if not annotations:
        return float("nan")
    if not results:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # COCO's code reports its progress there
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [_image(i, truth, found[i]) for i, truth in enumerate(truths)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "object"}],
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), "segm")
        evaluation.params.catIds = [1]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


def _image(number: int, truth: Grounded, found: Grounded) -> dict[str, object]:
    """What COCO's code wants to know of an image."""
    size = next((mask["size"] for mask in (*truth.masks, *found.masks)), [1, 1])
    height, width = size if isinstance(size, list) else (1, 1)
    return {"id": number, "height": height, "width": width}
