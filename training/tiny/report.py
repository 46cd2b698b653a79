# SPDX-License-Identifier: Apache-2.0
"""The figures of the model card: held-out pictures and clips through the run time's own path, as a user would ask.

python -m sa2va_training.tiny report weights=DIR scenes=300 clips=60
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sa2va_model import images
from sa2va_model.checkpoints import SHIPPED, load_model
from sa2va_model.grounding import Prompt
from sa2va_model.sa2va import Sa2VA
from sa2va_model.tracker import OnlineTracker
from sa2va_training.tiny.batches import Expression, Library, Shard
from sa2va_training.tiny.scenes import ROOT

_VISIBLE_PIXELS = 16


def report(
    weights: Path = SHIPPED, *, scenes: int = 300, clips: int = 60, data: Path = ROOT
) -> dict[str, Any]:
    """Measures a folder of weights on the held-out shards of `data`."""
    model = load_model(weights, device="cpu")
    out: dict[str, Any] = {}
    for kind in ("sim", "flat"):
        held = Library({kind: 1.0}, "held", data)
        out[kind] = picture_figures(model, held, scenes)
    for kind in ("sim-clips", "flat-clips"):
        held = Library({kind: 1.0}, "held", data)
        out[kind] = clip_figures(model, held, clips)
    return out


def _pictures(held: Library, count: int) -> Iterator[tuple[Shard, int]]:
    for folder in sorted(held.shards):
        shard = held.shards[folder]
        yield from ((shard, i) for i in range(min(count, len(shard))))


def picture_figures(model: Sa2VA, held: Library, count: int) -> dict[str, Any]:
    """Mean IoU by kind of expression (a target that is not found scores 0), and how absence is treated.

    Returns:
        `giou` and `over_half` (share of IoU > 0.5) by kind; `kept`: targets that got a mask; `refused`: absent
        ones that got none; `n`.
    """
    ious: dict[str, list[float]] = {}
    kept, refused = [], []
    for shard, i in tqdm(list(_pictures(held, count)), desc="pictures", leave=False):
        image, instances = np.asarray(shard.rgb[i]), np.asarray(shard.instances[i])
        for expression in shard.expressions[i]:
            seen = model.segment(image, expression.text)
            if expression.target < 0:
                refused.append(not seen.found)
                continue
            kept.append(seen.found)
            truth = instances == expression.target + 1
            ious.setdefault(expression.kind, []).append(
                iou(seen.masks[0], truth) if seen.found else 0.0
            )
    every = [value for values in ious.values() for value in values]
    groups = {"all": every, **dict(sorted(ious.items()))}
    return {
        "giou": {kind: _mean(values) for kind, values in groups.items()},
        "over_half": {kind: _mean([v > 0.5 for v in values]) for kind, values in groups.items()},
        "kept": _mean(kept),
        "refused": _mean(refused),
        "n": {**{kind: len(values) for kind, values in groups.items()}, "none": len(refused)},
    }


def clip_figures(model: Sa2VA, held: Library, count: int) -> dict[str, Any]:
    """Objects named on the first frame and followed by memory.

    Returns:
        `J` over later frames that show the object, `first` on the first frame, `away`: share of frames without the
        object that have no mask, `stale`: what the first frame's true mask would score as J; `tracks`.
    """
    values: dict[str, list[float]] = {"first": [], "J": [], "away": [], "stale": []}
    tracks = 0
    for shard, i in tqdm(list(_pictures(held, count)), desc="clips", leave=False):
        frames, instances = np.asarray(shard.rgb[i]), np.asarray(shard.instances[i])
        features = [model.encode_image(frame) for frame in frames]
        for expression in _one_per_target(shard.expressions[i]):
            reply = model.ground([frames[0]], expression.text)
            tracks += 1
            truths = instances == expression.target + 1
            masks = np.zeros_like(truths)
            if reply.found:
                tracker = OnlineTracker(model.grounder)
                tracker.add("0", Prompt(embedding=reply.embeddings[0]))
                for t, feature in enumerate(features):
                    logits = tracker.step(feature)["0"].logits
                    size = frames.shape[1:3]
                    masks[t] = (
                        images.masks_to_image(logits, model.config.sam2.image_size, *size)[
                            0
                        ].numpy()
                        > 0
                    )
            values["first"].append(iou(masks[0], truths[0]))
            for mask, truth in zip(masks[1:], truths[1:], strict=True):
                if truth.sum() >= _VISIBLE_PIXELS:
                    values["J"].append(iou(mask, truth))
                    values["stale"].append(iou(truths[0], truth))
                else:
                    values["away"].append(float(not mask.any()))
    return {**{name: _mean(found) for name, found in values.items()}, "tracks": tracks}


def _one_per_target(expressions: list[Expression]) -> list[Expression]:
    """The first attribute expression of each object."""
    chosen: dict[int, Expression] = {}
    for expression in expressions:
        if expression.kind == "attribute":
            chosen.setdefault(expression.target, expression)
    return list(chosen.values())


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of bool arrays; 1 if both are empty."""
    union = int((mask | truth).sum())
    return float((mask & truth).sum() / union) if union else 1.0


def _mean(values: list[Any]) -> float:
    return round(float(np.mean(values)), 4) if values else float("nan")


def write_report(weights: Path, file: Path, **options: Any) -> dict[str, Any]:
    """Measures and keeps the figures as JSON beside the weights."""
    figures = report(weights, **options)
    file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures
