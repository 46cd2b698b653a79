# SPDX-License-Identifier: Apache-2.0
"""Quick measures on held-out pictures while training: the packed forward pass, by kind of expression.

The final figures come from `sa2va evaluate`, which asks as a user does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sa2va_training.tiny.data.batches import Library, PictureBatch, held_batches
from sa2va_training.tiny.data.feeder import moved
from sa2va_training.tiny.data.packing import read
from sa2va_training.tiny.data.scenes import BOX
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.objectives.aids import box_iou
from sa2va_training.tiny.stages import exact_codes, questions

_EACH = 8


class Tally:
    """Values by kind of expression."""

    def __init__(self) -> None:
        self.rows: dict[str, list[np.ndarray]] = {}

    def add(self, **columns: torch.Tensor | np.ndarray) -> None:
        """One value per expression in every column."""
        for name, values in columns.items():
            values = values.cpu() if isinstance(values, torch.Tensor) else values
            self.rows.setdefault(name, []).append(np.asarray(values))

    def column(self, name: str) -> np.ndarray:
        """All values of a column."""
        return np.concatenate(self.rows[name])

    def means(self, name: str) -> dict[str, float]:
        """Mean over all targets and by kind."""
        values, kinds, found = self.column(name), self.column("kind"), self.column("found")
        out = {"all": _mean(values[found])}
        out.update({str(kind): _mean(values[kinds == kind]) for kind in sorted(set(kinds[found]))})
        return out

    def decision(self, name: str) -> dict[str, float]:
        """A yes-or-no column: how many targets are kept, how many absent ones are refused."""
        said, found = self.column(name), self.column("found")
        return {"keep": _mean(said[found]), "refuse": _mean(~said[~found])}


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 4) if len(values) else float("nan")


@torch.no_grad()
def evaluate(learner: TinyLearner, held: Library, count: int, kind: str) -> dict[str, Any]:
    """Measures by stage: `sam` from exact codes, `words` boxes and decisions, `together` everything.

    Args:
        count: pictures of every held-out shard.
    """
    out: dict[str, Any] = {}
    here = torch.get_default_device()
    with torch.device("cpu"):
        batches = held_batches(held, images=10, each=_EACH, total=count)
    for source, chosen in _by_source(held, batches, count).items():
        tally = Tally()
        for batch in chosen:
            _measure(learner, moved(batch, here), kind, tally)
        out[source] = summary(tally, kind)
    return out


def _by_source(
    held: Library, batches: list[PictureBatch], count: int
) -> dict[str, list[PictureBatch]]:
    """Batches by the kind of their shard, in the order of `held_batches`."""
    out: dict[str, list[PictureBatch]] = {}
    queue = iter(batches)
    for folder in sorted(held.shards):
        length = min(count, len(held.shards[folder]))
        for _ in range(0, length, 10):
            out.setdefault(folder.parts[-3], []).append(next(queue))
    return out


def _measure(learner: TinyLearner, batch: PictureBatch, kind: str, tally: Tally) -> None:
    found, each = batch.found, batch.targets.shape[1]
    kinds = np.array([e.kind for row in batch.expressions for e in row])
    tally.add(found=found, kind=kinds)
    codes = exact_codes(learner, batch)
    if kind != "sam":
        packed = learner.packer.pack(questions(batch, None))
        seen = read(learner.mllm, batch.pixels, packed)
        sure = learner.packer.first_token
        yes = learner.mllm.language_model.lm_head(seen.decide).argmax(-1) == sure
        boxes = learner.word_aids.seg_box(seen.seg).sigmoid()
        tally.add(says=yes, boxes=box_iou(boxes, batch.meant[:, BOX]))
        codes = learner.model.text_hidden_fcs(seen.seg)
    if kind != "words":
        decoded = learner.decode(learner.encode(batch.pixels).features, codes, each)
        masks = learner.sam2.image_logits(decoded.logits)[:, 0] > 0
        truth = batch.masks(learner.side)
        ious = (masks & truth).flatten(1).sum(1) / (masks | truth).flatten(1).sum(1).clamp(min=1)
        tally.add(iou=ious, sees=decoded.object_scores[:, 0] > 0)


def summary(tally: Tally, kind: str) -> dict[str, Any]:
    """The figures of a tally: mean IoU by kind, decisions of the language model, of the decoder and of both."""
    out: dict[str, Any] = {"n": int(tally.column("found").sum())}
    if kind != "sam":
        out["box"] = tally.means("boxes")
        out["says"] = tally.decision("says")
    if kind != "words":
        out["giou"] = tally.means("iou")
        out["sees"] = tally.decision("sees")
    if kind == "together":
        tally.rows["both"] = [tally.column("says") & tally.column("sees")]
        tally.rows["answered"] = [tally.column("iou") * tally.column("both")]
        out["both"] = tally.decision("both")
        out["answered"] = tally.means("answered")
    return out
