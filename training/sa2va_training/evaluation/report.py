# SPDX-License-Identifier: Apache-2.0
"""Records → the benchmarks' figures, per task and per kind of question. All figures are fractions, 0..1, but CIDEr."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from sa2va_training.data.masks import decode_mask
from sa2va_training.metrics import captions
from sa2va_training.metrics.clips import davis_unsupervised, merge_objects
from sa2va_training.metrics.grounded import (
    Grounded,
    Similarity,
    ap50,
    correct_pairs,
    mean_iou,
    recall,
    shared_words,
)
from sa2va_training.metrics.overlap import Overlap, ciou, giou

Json = dict[str, Any]
Figures = dict[str, dict[str, dict[str, float]]]
"""task → row ("all", a kind, …) → figure → value."""

ALL, NAMED, NONE = "all", "with target", "none"
_GROUPED = {
    "revos": ("referring", "reasoning"),
    "ref_sav": ("long", "short"),
    "ref_sav_eval": ("long", "short"),
}


def report(
    records: Sequence[Json],
    *,
    protocol: str = "",
    similarity: Similarity = shared_words,
    similarity_name: str = "words",
) -> Figures:
    """All figures that the records allow.

    Args:
        protocol: the dataset's format, which decides how groups are averaged; "ref_davis17:official" for the
            protocol that matches objects (records with masks).
        similarity: of phrases, for recall of grounded captions.
        similarity_name: stands in the figure's name, for other than BERT's are not comparable.
    """
    by_task: dict[str, list[Json]] = defaultdict(list)
    for record in records:
        by_task[record["task"]].append(record)
    out: Figures = {}
    if found := by_task.get("refer"):
        out["referring, images"] = _rows(found, _refer)
    if found := [r for r in by_task.get("track", []) if not r.get("secret")]:
        out["referring, clips"] = _track(found, protocol)
    if found := by_task.get("grounded"):
        out["grounded captions"] = {ALL: _grounded(found, similarity, similarity_name)}
    if found := by_task.get("caption"):
        out["captions"] = _rows(found, _captions)
    if found := by_task.get("answer"):
        out["questions"] = _rows(found, _answers)
    return out


def _rows(
    records: Sequence[Json], figures: Callable[[Sequence[Json]], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """All, those that mean something, and each kind if there is more than one."""
    rows = {ALL: figures(records)}
    kinds = sorted({str(r["kind"]) for r in records})
    if NONE in kinds and len(kinds) > 1:
        rows[NAMED] = figures([r for r in records if r["kind"] != NONE])
    if len(kinds) > 1:
        for kind in kinds:
            rows[kind or "(no kind)"] = figures([r for r in records if str(r["kind"]) == kind])
    return rows


def _refer(records: Sequence[Json]) -> dict[str, float]:
    overlaps = [Overlap(r["intersection"], r["union"]) for r in records]
    return {
        "gIoU": giou(overlaps),
        "cIoU": ciou(overlaps),
        "IoU>0.5": _mean(o.iou > 0.5 for o in overlaps),
        **_presence(records),
        "n": len(records),
    }


def _presence(records: Sequence[Json]) -> dict[str, float]:
    """How often what is there got a mask, and how often what is not there got none."""
    there = [r["marked"] for r in records if r["kind"] != NONE]
    gone = [not r["marked"] for r in records if r["kind"] == NONE]
    out = {}
    if there:
        out["marked"] = _mean(there)
    if gone:
        out["no-target acc."] = _mean(gone)
    return out


def _track(records: Sequence[Json], protocol: str) -> dict[str, dict[str, float]]:
    if protocol == "ref_davis17:official":
        return _davis(records)
    groups = _GROUPED.get(protocol)
    if groups is None:
        return _rows(records, _clips)
    rows = {}
    for group in groups:
        found = [r for r in records if r["kind"] == group]
        if found:
            rows[group] = _clips(found)
    # published: the mean of the groups, not of the expressions
    names = [name for name in next(iter(rows.values()), {}) if name != "n"]
    overall = {name: _mean(row[name] for row in rows.values()) for name in names}
    rows["overall"] = overall | {"n": len(records)}
    if gone := [r for r in records if r["kind"] == NONE]:
        rows[NONE] = _clips(gone)
    return rows


def _clips(records: Sequence[Json]) -> dict[str, float]:
    """Means over expressions of values rounded to 0.01 %, as the published scripts do."""
    j, f, accuracy = (_mean(round(r[key], 4) for r in records) for key in ("j", "f", "accuracy"))
    out = {"J&F": (j + f) / 2, "J": j, "F": f, "pixel acc.": accuracy}
    robust = [round(r["robustness"], 4) for r in records if r.get("robustness") is not None]
    if robust:
        out["R"] = _mean(robust)
    return out | _presence(records) | _events(records) | {"n": len(records)}


def _events(records: Sequence[Json]) -> dict[str, float]:
    """What happened while objects were followed live: means over those that know."""
    events = [r["events"] for r in records if "events" in r]
    counted = ("missed", "lost", "regained", "switched", "wrong", "told", "skipped")
    names = ("wait", *counted, "latency", "latency p95")
    timed = ("wait", "latency", "latency p95")
    return {
        f"{name}, s" if name in timed else name: _mean(e[name] for e in events if name in e)
        for name in names
        if any(name in e for e in events)
    }


def _davis(records: Sequence[Json]) -> dict[str, dict[str, float]]:
    """Ref-DAVIS17's own protocol: per annotator all objects of a clip together, matched; mean over objects."""
    clips: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for record in records:
        clips[record["kind"], record["id"].partition("|")[0]].append(record)
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (annotator, _), found in clips.items():
        ordered = sorted(found, key=lambda r: int(r["id"].partition("|")[2]))
        predicted = np.stack([_decoded(r["masks"]) for r in ordered]).astype(np.float32)
        truth = np.zeros(predicted.shape[1:], int)
        for number, record in enumerate(ordered, start=1):
            truth[_decoded(record["truth"])] = number
        matched = davis_unsupervised(merge_objects(predicted), truth)
        scores[annotator] += [(s.j, s.f) for s in matched]
    rows = {}
    for annotator, values in sorted(scores.items()):
        j, f = (float(v) for v in np.mean(values, axis=0))
        rows[annotator] = {"J&F": (j + f) / 2, "J": j, "F": f, "n": len(values)}
    overall = {name: _mean(row[name] for row in rows.values()) for name in ("J&F", "J", "F")}
    return {ALL: overall | {"n": len(records)}} | rows


def _decoded(masks: Sequence[Json]) -> np.ndarray:
    return np.stack([decode_mask(m, *m["size"]) for m in masks])


def _grounded(records: Sequence[Json], similarity: Similarity, name: str) -> dict[str, float]:
    truths = [Grounded(tuple(r["truth"]), tuple(r["phrases"])) for r in records]
    found = [Grounded(tuple(r["masks"]), tuple(r["said"])) for r in records]
    pairs = [correct_pairs(t, f, similarity) for t, f in zip(truths, found, strict=True)]
    out = {
        "AP50": ap50(truths, found),
        "mIoU": _mean(mean_iou(t, f) for t, f in zip(truths, found, strict=True)),
        f"recall ({name})": recall(truths, found, similarity),
        "correct pairs": sum(c for c, _ in pairs) / max(sum(n for _, n in pairs), 1),
        "pairs found": sum(c for c, _ in pairs) / max(sum(len(t.masks) for t in truths), 1),
    }
    return out | _captions(records)


def _captions(records: Sequence[Json]) -> dict[str, float]:
    """CIDEr as printed by the COCO toolkit (0..10; papers often print it times 100), and METEOR."""
    known = [r for r in records if r["references"]]
    said, true = [r["text"] for r in known], [r["references"] for r in known]
    return {
        captions.meteor_name(): _mean(captions.meteor(said, true)),
        "CIDEr": _mean(captions.cider(said, true)),
        "n": len(records),
    }


def _answers(records: Sequence[Json]) -> dict[str, float]:
    return {"right": _mean(r["right"] for r in records), "n": len(records)}


def _mean(values: Iterable[Any]) -> float:
    found = [float(value) for value in values]
    return float(np.mean(found)) if found else math.nan
