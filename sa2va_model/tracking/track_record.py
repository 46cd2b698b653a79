# SPDX-License-Identifier: Apache-2.0
"""TrackRecord: what is known of one track between frames. Others read it; its verbs alone write it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from sa2va_model.io.preprocessing import mask_box
from sa2va_model.tracking.config import LifecycleConfig
from sa2va_model.tracking.judgement.lifecycle import Lifecycle, Transition
from sa2va_model.tracks import EventKind, Reason, Track, TrackState

VIEWS = 64  # frames that are kept to compare with late answers


@dataclass(frozen=True)
class TrackedMask:
    """What was followed on one frame: bool [1, 1, 4h, 4w], and the evidence that it is right."""

    index: int
    mask: Tensor
    evidence: float


@dataclass
class TrackRecord:
    """One track.

    Attributes:
        from_text: named by words, so the language model can be asked again.
        state: PENDING until it is found or not, then that of `life`, at last NOT_FOUND or STOPPED.
        life: None until the object is found, and again when the track has ended.
        note: what of its words was not understood.
        announced: it was told that it is found.
        question_open: a question about it is open.
        next_question: stamp in seconds before which no further one is asked; `wait`: the pause after it.
        last_denied: the last answer was no; `doubts`: checks in a row that found another object.
        embedding: the last [SEG] embedding that was right, [C].
        disagreements: frames in a row on which memory and the embedding disagreed.
        return_reason: how a lost object was found again, for the next event.
        among_others: it is one of several alike, and words find it again: memory would go to any of them.
        shown_mask: bool [1, 1, 4h, 4w], on the last frame that showed it.
        stamp: of the last frame that was judged; `lost_since`: of the loss.
        age: frames since the track was accepted.
    """

    id: str
    expression: str
    mask_value: int
    from_text: bool
    state: TrackState = TrackState.PENDING
    life: Lifecycle | None = None
    label: str = ""
    note: str = ""
    announced: bool = False
    first_seen: float | None = None
    last_keyframe: float | None = None
    age: int = 0
    stamp: float | None = None
    lost_since: float = 0.0
    question_open: bool = False
    next_question: float = 0.0
    wait: float = 0.0
    doubts: int = 0
    last_denied: bool = False
    embedding: Tensor | None = None
    disagreements: int = 0
    frames_since_look: int = 0
    return_reason: Reason = Reason.RETURNED
    among_others: bool = False
    shown_mask: Tensor | None = None
    _views: deque[TrackedMask] = field(default_factory=lambda: deque(maxlen=VIEWS))

    @property
    def lost(self) -> bool:
        """Whether it is searched for."""
        return self.state == TrackState.LOST

    @property
    def ended(self) -> bool:
        """Whether it is over: shown once more, then dropped."""
        return self.state in (TrackState.STOPPED, TrackState.NOT_FOUND)

    @property
    def redetectable(self) -> bool:
        """Whether it is lost, and looked for with its [SEG] embedding or by words rather than with memory."""
        return self.lost and (self.embedding is not None or self.among_others)

    # The beginning and the end.

    def found(self, life: Lifecycle, keyframe: float, label: str) -> None:
        """Begin the life of the track: it has a mask for the first time."""
        self.life, self.state = life, life.state
        self.first_seen = self.last_keyframe = keyframe
        self.label = label

    def noted(self, note: str) -> None:
        """Keep what of its words was not understood, to be told when it is found."""
        self.note = note

    def announce(self) -> bool:
        """Return whether it is still to be told that the track is found, once."""
        first, self.announced = not self.announced and self.life is not None, True
        return first

    def first_reason(self) -> Reason:
        """Return how one that no words name was found for the first time; told once."""
        reason, self.return_reason = self.return_reason, Reason.RETURNED
        return reason if reason == Reason.EXAMPLE else Reason.POINTED

    def pointed_at(self, log_odds: float, keyframe: float, label: str) -> None:
        """Take a correction by a point, box or mask on a track that lives."""
        assert self.life is not None
        self.life.existence.log_odds = log_odds
        self.stamp = keyframe  # it is known for this frame: no time has passed since
        self.last_keyframe, self.label = keyframe, label
        self.return_reason = Reason.POINTED

    def searched_for(self, stamp: float) -> bool:
        """It is not in view, and is looked for; return whether that is new."""
        new, self.state = self.state == TrackState.PENDING, TrackState.LOST
        if new:
            self.lost_since = stamp
        return new

    def not_found(self) -> None:
        """End it: there is no such object."""
        self.state, self.life = TrackState.NOT_FOUND, None

    def stopped(self) -> None:
        """End it."""
        self.state, self.life = TrackState.STOPPED, None

    # Questions to the language model.

    def asked(self) -> None:
        """A question is open."""
        self.question_open = True

    def answered(self) -> None:
        """No question is open any more."""
        self.question_open = False

    def check_at(self, stamp: float) -> None:
        """Put the next question at that time."""
        self.next_question = stamp

    def search_at(self, stamp: float, wait: float) -> None:
        """Put the next search `wait` seconds after `stamp`."""
        self.wait, self.next_question = wait, stamp + wait

    def confirmed(self, ratio: float, *, at_least: float | None = None) -> None:
        """Take a yes: its log-likelihood ratio, after raising the log-odds to `at_least`."""
        assert self.life is not None
        existence = self.life.existence
        if at_least is not None:
            existence.log_odds = max(existence.log_odds, at_least)
        existence.update(ratio)

    def denied(self, ratio: float) -> None:
        """Take a no."""
        assert self.life is not None
        self.last_denied = True
        self.life.existence.update(ratio)

    def affirmed(self) -> None:
        """The last answer was a yes, whatever it points at."""
        self.last_denied = False

    def doubted(self) -> int:
        """Count a check that found another object; return how many did so in a row."""
        self.doubts += 1
        return self.doubts

    def grounded(self, embedding: Tensor | None, keyframe: float) -> None:
        """Take over what the words mean now."""
        self.embedding, self.last_keyframe, self.doubts = embedding, keyframe, 0

    def among(self, *, others: bool) -> None:
        """Tell whether it is one of several alike that words find again."""
        self.among_others = others

    def returning(self, reason: Reason) -> None:
        """Remember how it was found again."""
        self.return_reason = reason

    # Frames.

    def waited(self) -> None:
        """Count a frame on which it is not found yet, or over."""
        self.age += 1

    def viewed(self, index: int, mask: Tensor, evidence: float, *, shown: bool = True) -> None:
        """Keep what was followed on a frame, for answers that come late; none is asked for without words."""
        if shown:
            self.shown_mask = mask
        if not self.from_text:
            self._views.clear()
        self._views.append(TrackedMask(index, mask, evidence))

    def view(self, index: int) -> TrackedMask | None:
        """What was followed on the frame of that index, if still known."""
        return next((view for view in self._views if view.index == index), None)

    def advance(
        self, stamp: float, evidence: float, *, visible: bool
    ) -> tuple[Transition, Reason] | None:
        """Take one frame; return the change of state, if any, and why.

        Args:
            evidence: of its mask; NaN = nothing is known.
            visible: its mask may be shown.
        """
        assert self.life is not None
        seconds = 0.0 if self.stamp is None else max(stamp - self.stamp, 0.0)
        self.life.existence.observe(evidence, seconds)
        self.age, self.stamp = self.age + 1, stamp
        change = self.life.update(stamp, visible=visible)
        self.state = self.life.state
        if change is None:
            return None
        reason = Reason.DENIED if self.last_denied else Reason.UNSEEN
        if change.kind == EventKind.REACQUIRED:
            reason, self.return_reason = self.return_reason, Reason.RETURNED
            self.last_denied = False
        elif change.kind == EventKind.LOST:
            self.lost_since, self.frames_since_look = stamp, 0
        return change, reason

    def look_due(self, every: int) -> bool:
        """Count a frame of a lost object; return whether it is to be looked for on this one."""
        self.frames_since_look += 1
        if not every or self.frames_since_look < every:
            return False
        self.frames_since_look = 0
        return True

    def looked(self, evidence: float, frames: int) -> None:
        """Take what a look for a lost object showed; it stands for so many frames."""
        assert self.life is not None
        self.life.existence.observe(evidence, 0.0, frames)

    def disagreed(self, apart: bool, limit: int) -> bool:
        """Count frames in a row on which memory and the embedding are apart; return whether there are `limit`."""
        self.disagreements = self.disagreements + 1 if apart else 0
        if not limit or self.disagreements < limit:
            return False
        self.disagreements = 0
        return True

    def reconfigure(self, config: LifecycleConfig) -> None:
        """Use other limits from now on."""
        if self.life is not None:
            self.life.reconfigure(config)

    def report(self) -> Track:
        """Return the public view of this frame, without a mask (`with_mask`)."""
        return Track(
            id=self.id,
            expression=self.expression,
            state=self.state,
            label=self.label,
            first_seen=self.first_seen,
            last_seen=None if self.life is None else self.life.last_seen,
            last_keyframe=self.last_keyframe,
            age=self.age,
        )


def with_mask(track: Track, mask: np.ndarray, value: int, score: float) -> Track:
    """The track with what is shown of it.

    Args:
        mask: bool [H, W]; empty = nothing to show.
        value: of the label image.
        score: of the mask.
    """
    box, area = mask_box(mask)
    if not box:
        return track
    return replace(track, mask_value=value, mask=mask, box=box, area=area, score=score)
