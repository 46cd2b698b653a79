# SPDX-License-Identifier: Apache-2.0
"""Which track is the target: what `target_pose` and requests without a name mean. No ROS.

The target is chosen, never guessed. It is the first track that was seen, or the one that somebody chose, and it stays
the target while it is out of sight, so that a robot never turns to something else. When it ends there is none until
somebody chooses again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from enum import Enum, auto

from sa2va_model.tracks import Event, EventKind, Reason, Track, TrackState

ENDED = (TrackState.NOT_FOUND, TrackState.STOPPED)


class _Mode(Enum):
    FIRST = auto()  # nobody chose: the first track that is seen
    CHOSEN = auto()
    NAMED = auto()  # chosen by a name that nothing has yet
    NONE = auto()  # it ended


class TargetChoice:
    """The target of one node; chosen from any thread, followed on the thread of the images."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mode = _Mode.FIRST
        self._name = ""  # an id, or with NAMED an id or an expression
        self._started = False  # the chosen track was in a result

    @property
    def id(self) -> str:
        """The id of the target; "" = none."""
        with self._lock:
            return self._name if self._mode is _Mode.CHOSEN else ""

    def choose(self, track_id: str) -> None:
        """From now on this track, which may be about to start."""
        self._set(_Mode.CHOSEN, track_id)

    def choose_named(self, name: str) -> None:
        """From now on the track of that id or expression, once there is one."""
        self._set(_Mode.NAMED, name)

    def choose_first(self) -> None:
        """From now on the first track that is seen."""
        self._set(_Mode.FIRST)

    def drop(self) -> None:
        """No target until somebody chooses."""
        self._set(_Mode.NONE)

    def observe(self, tracks: Sequence[Track], events: Sequence[Event] = ()) -> Track | None:
        """The target on one image, also where it is not seen; None if there is none."""
        living = [track for track in tracks if track.state not in ENDED]
        with self._lock:
            if self._mode in (_Mode.FIRST, _Mode.NAMED):
                self._look_for_one(living)
            if self._mode is not _Mode.CHOSEN:
                return None
            for event in events:
                if event.reason is Reason.DUPLICATE and event.track_id == self._name:
                    self._name = event.other_id  # the same object, which was tracked already
            found = next((track for track in living if track.id == self._name), None)
            if found is not None:
                self._started = True
            elif self._started or self._failed(tracks, events):
                self._mode, self._name = _Mode.NONE, ""
            return found

    def _look_for_one(self, living: Sequence[Track]) -> None:
        if self._mode is _Mode.FIRST:
            fits = [track for track in living if track.first_seen is not None]
        else:
            wanted = self._name.casefold()
            fits = [t for t in living if t.id == self._name]
            fits = fits or [t for t in living if t.expression.casefold() == wanted]
        if fits:
            self._mode, self._name, self._started = _Mode.CHOSEN, fits[0].id, True

    def _failed(self, tracks: Sequence[Track], events: Iterable[Event]) -> bool:
        """Whether the chosen track ended before it was alive in any result."""
        ended = any(track.id == self._name for track in tracks)
        failed = (e for e in events if e.kind is EventKind.FAILED and e.track_id == self._name)
        return ended or next(failed, None) is not None

    def _set(self, mode: _Mode, name: str = "") -> None:
        with self._lock:
            self._mode, self._name, self._started = mode, name, False
