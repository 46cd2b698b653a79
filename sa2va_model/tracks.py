# SPDX-License-Identifier: Apache-2.0
"""What the tracker tells its users: tracks, events and the result of one frame.

Plain values without tensors of the model, so that the node, the command line and the tests speak the same words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

import numpy as np


class TrackState(IntEnum):
    """Where a track is in its life; the numbers are those of `Track.msg`."""

    PENDING = 0  # accepted, grounding not finished
    TRACKING = 1
    OCCLUDED = 2  # not seen for a moment; its memory waits
    LOST = 3  # not seen for longer; it is searched for
    NOT_FOUND = 4  # the model answered that there is no such object
    STOPPED = 5


class EventKind(IntEnum):
    """What can happen to a track; the numbers are those of `TrackEvent.msg`."""

    STARTED = 0
    FOUND = 1
    NOT_FOUND = 2
    LOST = 3
    REACQUIRED = 4
    STOPPED = 5
    REGROUNDED = 6
    MEMORY_RESET = 7
    FAILED = 8
    OCCLUDED = 9
    DEGRADED = 10  # sentences are not understood for now; what is followed lives on
    RESTORED = 11


class Reason(str, Enum):
    """Why something happened, for programs; `Event.detail` says it for people."""

    NONE = ""
    ASKED = "asked"  # by the user
    REPLACED = "replaced"  # by a new sentence
    WORDS = "words"  # the language model found it
    POINTED = "pointed"  # a point, box or mask was given
    EXAMPLE = "example"  # it looks like the example that was shown
    ABSENT = "absent"  # the language model says it is not there
    UNKNOWN_WORD = "unknown_word"  # the model was never taught the words for it
    NO_MASK = "no_mask"  # the language model points at it, SAM-2 sees nothing there
    UNSEEN = "unseen"  # no trusted mask
    DENIED = "denied"  # and the language model denied it last
    RETURNED = "returned"  # memory shows it again
    REDETECTED = "redetected"  # the stored [SEG] embedding shows it again
    DRIFTED = "drifted"  # memory and words meant different things
    GIVEN_UP = "given_up"  # lost for too long
    DUPLICATE = "duplicate"  # the same words on the same pixels as another track
    LIMIT = "limit"  # max_objects
    INPUT = "input"  # a prompt that does not fit the image
    MODEL = "model"  # the model failed
    LINK = "link"  # to the server that understands sentences
    RESET = "reset"  # the stream began anew


@dataclass(frozen=True)
class Event:
    """One thing that happened, at the frame where it was seen.

    Attributes:
        stamp: seconds, the stamp of that frame.
        frame_index: index of that frame in its source.
        score: 0..1, as in `Track`; 0 where there is no mask.
        detail: the reason, in words for people.
        reason: the same for programs.
        other_id: the track that took its place (REPLACED) or is the same object (DUPLICATE).
    """

    kind: EventKind
    track_id: str
    expression: str
    stamp: float
    frame_index: int
    score: float = 0.0
    detail: str = ""
    reason: Reason = Reason.NONE
    other_id: str = ""


@dataclass(frozen=True)
class Track:
    """One followed object on one frame.

    Attributes:
        id: stable, unique while the tracker lives.
        mask_value: value of this track in the label image, 1..254; 0 while it has no mask.
        mask: bool [H, W] in the frame's own pixels, or None where nothing is seen.
        box: (x0, y0, x1, y1) pixels, x1 and y1 exclusive; None without a mask.
        score: 0..1, predicted mask quality times the probability that the object is visible.
        label: what the model named, or the expression where its answer names nothing; for prompts their own label.
        first_seen, last_seen, last_keyframe: stamps in seconds; None if never.
        age: frames since the track was accepted.
    """

    id: str
    expression: str
    state: TrackState
    mask_value: int = 0
    mask: np.ndarray | None = None
    box: tuple[int, int, int, int] | None = None
    area: int = 0
    score: float = 0.0
    label: str = ""
    first_seen: float | None = None
    last_seen: float | None = None
    last_keyframe: float | None = None
    age: int = 0


@dataclass(frozen=True)
class FrameResult:
    """All tracks and the new events of one frame.

    Attributes:
        stamp, index: those of the frame the masks belong to.
        height, width: size of that frame in pixels.
        milliseconds: time of each stage of this frame, by stage name.
        companion: the frame's own (`Frame.companion`).
    """

    stamp: float
    index: int
    height: int
    width: int
    tracks: tuple[Track, ...]
    events: tuple[Event, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)
    companion: object = field(default=None, compare=False, repr=False, kw_only=True)

    def track(self, track_id: str) -> Track | None:
        """Return the track of that id, if it is there."""
        return next((track for track in self.tracks if track.id == track_id), None)

    def labels(self) -> np.ndarray:
        """Draw the label image: uint8 [H, W], 0 = background, else the track's `mask_value`."""
        image = np.zeros((self.height, self.width), np.uint8)
        for track in self.tracks:
            if track.mask is not None:
                image[track.mask] = track.mask_value
        return image
