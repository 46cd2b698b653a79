# SPDX-License-Identifier: Apache-2.0
"""What is known of one track between frames."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from sa2va_model.images import mask_box
from sa2va_model.lifecycle import Lifecycle
from sa2va_model.tracks import Track, TrackState

VIEWS = 64


@dataclass
class Record:
    """One track.

    Attributes:
        spoken: named by words, so the language model can be asked again.
        life: None until the object is found.
        asked: a question about it is open.
        next_question: stamp in seconds before which no further one is asked; `wait`: the pause after it.
        strikes: checks in a row that did not find the object; doubts: that found another one.
        confirmed: the language model found it for the frame at hand.
        views: (frame index, mask) of the last frames, to compare with late answers.
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
    strikes: int = 0
    doubts: int = 0
    confirmed: bool = False
    views: deque[tuple[int, Tensor]] = field(default_factory=lambda: deque(maxlen=VIEWS))

    def view(self, index: int) -> Tensor | None:
        """What memory showed on the frame of that index, bool [1, 1, 4h, 4w], if it is still known."""
        return next((mask for known, mask in self.views if known == index), None)

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
