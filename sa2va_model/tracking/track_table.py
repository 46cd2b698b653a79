# SPDX-License-Identifier: Apache-2.0
"""Who is tracked: names, commands that wait for the next frame, records and events.

Names and commands come from any thread, the rest from the thread of the frames.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.tracking.track_names import TrackNames
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracks import Event, EventKind, Reason, TrackState

WAITING = 256  # commands that may wait for a frame
FINISHED = (TrackState.STOPPED, TrackState.NOT_FOUND)
Action = Callable[[Frame], None]


class TrackTable:
    """The tracks of one stream.

    Args:
        max_objects: records at once.
        names: gives the names; None = its own, unique in this stream.
    """

    def __init__(self, max_objects: int, names: TrackNames | None = None) -> None:
        self.max_objects = max_objects
        self._names = names or TrackNames()
        self.records: dict[str, TrackRecord] = {}
        self._lock = threading.Lock()
        self._ids: dict[str, str] = {}  # the words of those that live or are about to
        self._commands: list[Action] = []
        self._events: list[Event] = []

    # From any thread.

    def knows(self, name: str) -> bool:
        """Whether a track of that name lives or is about to."""
        with self._lock:
            return name in self._ids

    def new_id(self, wish: str, words: str = "") -> str:
        """A name made of the wish that no track had before; `words`: of a track that is named by words."""
        name = self._names.give(wish)
        self.keep(name, words)
        return name

    def keep(self, name: str, words: str) -> None:
        """Uses a name that was given before, for the same track."""
        with self._lock:
            self._ids[name] = words

    def spoken(self) -> dict[str, str]:
        """Names and words of the tracks that are named by words and live or are about to."""
        with self._lock:
            return {name: words for name, words in self._ids.items() if words}

    def release(self, track_id: str | None) -> list[str]:
        """Frees the name of one track, or all; the names that were taken."""
        with self._lock:
            names = [name for name in self._ids if track_id in (None, name)]
            for name in names:
                del self._ids[name]
        return names

    def command(self, action: Action) -> None:
        """Something to do on the next frame.

        Raises:
            InputError: too many wait already, because no frame comes.
        """
        with self._lock:
            if len(self._commands) >= WAITING:
                raise InputError(f"{WAITING} commands wait for a frame; expected frames to come")
            self._commands.append(action)

    def take_commands(self) -> list[Action]:
        """What is to be done on this frame."""
        with self._lock:
            commands, self._commands = self._commands, []
        return commands

    # From the thread of the frames.

    def add(self, name: str, words: str, frame: Frame, *, spoken: bool) -> TrackRecord | None:
        """A new record; None, with an event that says so, if there are too many."""
        used = {record.mask_value for record in self.records.values()}
        record = TrackRecord(name, words, next(v for v in range(1, 256) if v not in used), spoken)
        count, most = len(self.records), self.max_objects
        if count >= most:
            why = f"{count} objects are tracked; max_objects is {most}"
            self.tell(EventKind.FAILED, record, frame, Reason.LIMIT, why)
            self.release(name)
            return None
        self.records[name] = record
        self.tell(EventKind.STARTED, record, frame, Reason.ASKED)
        return record

    def fail(self, record: TrackRecord, frame: Frame, reason: Reason, why: str) -> None:
        """Something about a track went wrong; one that was never found ends with it."""
        self.tell(EventKind.FAILED, record, frame, reason, why)
        if record.life is None:
            record.state = TrackState.STOPPED

    def finished(self) -> list[str]:
        """Takes out what is stopped or not found; these were shown once."""
        names = [n for n, record in self.records.items() if record.state in FINISHED]
        for name in names:
            del self.records[name]
            self.release(name)
        return names

    def clear(self) -> None:
        """Forgets everything that waits or is tracked."""
        with self._lock:
            self._commands.clear()
            self._ids.clear()
        self.records.clear()

    def tell(
        self,
        kind: EventKind,
        record: TrackRecord | None,
        frame: Frame,
        reason: Reason,
        detail: str = "",
        score: float = 0.0,
    ) -> None:
        """Something happened on this frame."""
        name, words = (record.id, record.expression) if record else ("", "")
        event = Event(kind, name, words, frame.stamp, frame.index, score, detail, reason)
        self._events.append(event)

    def take_events(self) -> tuple[Event, ...]:
        """The events since the last call."""
        events, self._events = tuple(self._events), []
        return events
