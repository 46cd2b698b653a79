# SPDX-License-Identifier: Apache-2.0
"""What is known of one track between frames."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from sa2va_model.io.preprocessing import mask_box
from sa2va_model.tracking.existence_filter import ExistenceFilter
from sa2va_model.tracking.lifecycle import Lifecycle
from sa2va_model.tracks import Reason, Track, TrackState

VIEWS = 64


@dataclass
class TrackRecord:
    """One track.

    Attributes:
        spoken: named by words, so the language model can be asked again.
        life: None until the object is found.
        asked: a question about it is open.
        stamp: of the last frame that was judged; lost_since: of the loss.
        next_question: stamp in seconds before which no further one is asked; `wait`: the pause after it.
        doubts: checks in a row that found another object; denied: the last answer was no.
        belief: whether it is in view; with `life` from the moment it is found.
        embedding: the last [SEG] embedding that was right, [C].
        drift: frames in a row on which memory and the embedding disagreed.
        since_look: frames since a lost object was looked for with its embedding.
        how: the way in which a lost object was found again, for the next event.
        views: (frame index, mask, evidence) of the last frames, to compare with late answers.
    """

    id: str
    expression: str
    mask_value: int
    spoken: bool
    state: TrackState = TrackState.PENDING
    life: Lifecycle | None = None
    label: str = ""
    first_seen: float | None = None
    last_keyframe: float | None = None
    age: int = 0
    asked: bool = False
    next_question: float = 0.0
    wait: float = 0.0
    doubts: int = 0
    denied: bool = False
    belief: ExistenceFilter | None = None
    embedding: Tensor | None = None
    drift: int = 0
    since_look: int = 0
    how: Reason = Reason.RETURNED
    stamp: float | None = None
    lost_since: float = 0.0
    views: deque[tuple[int, Tensor, float]] = field(default_factory=lambda: deque(maxlen=VIEWS))

    @property
    def lost(self) -> bool:
        """Whether it is searched for."""
        return self.state == TrackState.LOST

    def view(self, index: int) -> tuple[Tensor, float] | None:
        """What was followed on the frame of that index, bool [1, 1, 4h, 4w], and its evidence, if still known."""
        found = (view[1:] for view in self.views if view[0] == index)
        return next(found, None)

    def report(self, mask: np.ndarray | None, score: float) -> Track:
        """The public view of this frame.

        Args:
            mask: bool [H, W]; None or empty = nothing to show.
        """
        box, area = (None, 0) if mask is None else mask_box(mask)
        return Track(
            id=self.id,
            expression=self.expression,
            state=self.state,
            mask_value=self.mask_value if box else 0,
            mask=mask if box else None,
            box=box,
            area=area,
            score=score if box else 0.0,
            label=self.label,
            first_seen=self.first_seen,
            last_seen=None if self.life is None else self.life.last_seen,
            last_keyframe=self.last_keyframe,
            age=self.age,
        )
