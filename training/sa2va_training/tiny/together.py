# SPDX-License-Identifier: Apache-2.0
"""The last stage: masks from real sentences and through memory in every step, with the image encoder moving slowly.

One after the other they spoil each other: a decoder that learns sentences leaves the memory with J .25 of .73, and a
memory stage has too few sentences to teach the decoder. The language half stands still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sa2va_training.run.precision import half_precision
from sa2va_training.tiny.clips import (
    ClipBatch,
    ClipBatches,
    evaluate_clips,
    memory_stage,
    spoken_codes,
)
from sa2va_training.tiny.data.batches import Batches, Library, PictureBatch
from sa2va_training.tiny.evaluation import evaluate
from sa2va_training.tiny.learner import TinyLearner
from sa2va_training.tiny.objectives.losses import decoded_loss
from sa2va_training.tiny.stages import taught_loss

_CLIPS = "-clips"
_STILL_EACH = 4
_STILLS = 5
_TAUGHT_SHARE = 0.6


@dataclass(frozen=True)
class Both:
    """What one step sees."""

    stills: PictureBatch
    clips: ClipBatch


def libraries(library: Library) -> tuple[Library, Library]:
    """Pictures and clips of a library that has both."""

    def part(clips: bool) -> Library:
        shares = {k: v for k, v in library.shares.items() if k.endswith(_CLIPS) == clips}
        return Library(shares, library.split, library.root)

    return part(False), part(True)


class BothBatches:
    """The streams of pictures and clips of one run."""

    def __init__(
        self, library: Library, *, images: int, each: int, none_share: float, seed: int
    ) -> None:
        stills, clips = libraries(library)
        self.stills = Batches(
            stills, images=_STILLS, each=_STILL_EACH, none_share=none_share, seed=seed
        )
        self.clips = ClipBatches(clips, images=images, each=each, seed=seed + 1)

    def at(self, step: int) -> Both:
        """Both batches of that step."""
        return Both(self.stills.at(step), self.clips.at(step))


def together_stage(
    learner: TinyLearner, both: Both, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Masks of what sentences mean, of teacher codes, clicks and boxes, and of what memory follows."""
    batch = both.stills
    codes = spoken_codes(learner, batch)
    with half_precision():
        encoded = learner.encode(batch.pixels)
        spoken = learner.decode(encoded.features, codes, batch.targets.shape[1])
        taught = taught_loss(learner, encoded, batch, rng) if rng.random() < _TAUGHT_SHARE else None
    masks, report = decoded_loss(spoken, batch.cover(learner.cells), batch.found)
    followed, more = memory_stage(learner, both.clips, rng)
    loss = masks + followed if taught is None else masks + 0.5 * taught + followed
    return loss, {**report, **{f"clip {name}": value for name, value in more.items()}}


def evaluate_both(learner: TinyLearner, held: Library, count: int) -> Mapping[str, Any]:
    """Both kinds of measures on held-out pictures (four times `count` of each shard) and clips."""
    stills, clips = libraries(held)
    return {
        "stills": evaluate(learner, stills, 4 * count, "together"),
        "clips": evaluate_clips(learner, clips, count),
    }
