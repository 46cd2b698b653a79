# SPDX-License-Identifier: Apache-2.0
"""What is known of one track between frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sa2va_model.images import mask_box
from sa2va_model.lifecycle import Lifecycle
from sa2va_model.tracks import Track, TrackState


@dataclass
class Record:
    """One track.

    Attributes:
        spoken: named by words, so the language model can be asked again.
        life: None until the object is found.
        asked: a question about it is open.
        next_question: stamp in seconds before which no further one is asked; `wait`: the pause after it.
        strikes: checks in a row that did not find the object.
        confirmed: the language model found it for the frame at hand.
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
    confirmed: bool = False

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
