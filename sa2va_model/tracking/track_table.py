# SPDX-License-Identifier: Apache-2.0
"""TrackTable: who is tracked. Names, commands that wait for the next frame, records and events.

Names and commands come from any thread, the rest from the thread of the frames.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.tracking.track_names import TrackNames
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracks import Event, EventKind, Reason

WAITING = 256  # commands that may wait for a frame
Command = Callable[[Frame], None]


def same_words(one: str, other: str) -> bool:
    """Return whether two expressions differ in nothing but case, blanks, an article and a full stop."""
    return _plain(one) == _plain(other)


def _plain(words: str) -> str:
    plain = " ".join(words.casefold().split()).strip(" .,;:!?")
    return re.sub(r"^(the|a|an) ", "", plain)


class TrackTable:
    """The tracks of one stream.

    Args:
        max_objects: records at once.
        names: gives the names; None = its own, unique in this stream.
    """

    def __init__(self, max_objects: int, names: TrackNames | None = None) -> None:
        self.max_objects = max_objects
        self._names = names or TrackNames()
        self._records: dict[str, TrackRecord] = {}
        self._lock = threading.Lock()
        self._words: dict[str, str] = {}  # of the tracks that live or are about to; "" = prompted
        self._commands: list[Command] = []
        self._events: list[Event] = []

    # From any thread.

    def knows(self, name: str) -> bool:
        """Return whether a track of that name lives or is about to."""
        with self._lock:
            return name in self._words

    def new_id(self, wish: str, words: str = "", *, numbered: bool = False) -> str:
        """Return a name made of the wish that no track had before.

        Args:
            words: of a track that is named by words.
            numbered: it is one of several.
        """
        name = self._names.give_numbered(wish) if numbered else self._names.give(wish)
        self.keep(name, words)
        return name

    def claim(
        self, words: str, track_id: str | None, *, merge: bool, one: str = ""
    ) -> tuple[str, bool]:
        """Return the id for a sentence, and whether a track that lives has it.

        Args:
            track_id: the wished id; None = made from the words.
            merge: the same words mean the same track, unless another id is wished.
            one: what one of several is called, from which the id of the first is made.
        """
        with self._lock:
            if merge:
                for name, known in self._words.items():
                    if track_id in (None, name) and known and same_words(known, words):
                        return name, True
            names = self._names
            wish = track_id or one or words
            name = names.give_numbered(wish) if one and not track_id else names.give(wish)
            self._words[name] = words
            return name, False

    def keep(self, name: str, words: str) -> None:
        """Use a name that was given before, for the same track."""
        with self._lock:
            self._words[name] = words

    def expressions(self) -> dict[str, str]:
        """Return names and words of the tracks that are named by words and live or are about to."""
        with self._lock:
            return {name: words for name, words in self._words.items() if words}

    def release(self, track_id: str | None) -> list[str]:
        """Free the name of one track, or all; return the names that were taken."""
        with self._lock:
            names = [name for name in self._words if track_id in (None, name)]
            for name in names:
                del self._words[name]
        return names

    def command(self, command: Command) -> None:
        """Do something on the next frame.

        Raises:
            InputError: too many wait already, because no frame comes.
        """
        with self._lock:
            if len(self._commands) >= WAITING:
                raise InputError(f"{WAITING} commands wait for a frame; expected frames to come")
            self._commands.append(command)

    def take_commands(self) -> list[Command]:
        """Return what is to be done on this frame."""
        with self._lock:
            commands, self._commands = self._commands, []
        return commands

    # From the thread of the frames.

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[TrackRecord]:
        """Iterate over the records as they are now, oldest first."""
        return iter(tuple(self._records.values()))

    def get(self, name: str) -> TrackRecord | None:
        """Return the record of that name."""
        return self._records.get(name)

    def add(self, name: str, words: str, frame: Frame, *, from_text: bool) -> TrackRecord | None:
        """Make a new record; None, with an event that says so, if there are too many."""
        used = {record.mask_value for record in self}
        value = next(v for v in range(1, 256) if v not in used)
        record = TrackRecord(name, words, value, from_text)
        count, most = len(self), self.max_objects
        if count >= most:
            why = f"{count} objects are tracked; max_objects is {most}"
            self.tell(EventKind.FAILED, record, frame, Reason.LIMIT, why)
            self.release(name)
            return None
        self._records[name] = record
        self.tell(EventKind.STARTED, record, frame, Reason.ASKED)
        return record

    def fail(self, record: TrackRecord, frame: Frame, reason: Reason, why: str) -> None:
        """Tell that something about a track went wrong; one that was never found ends with it."""
        self.tell(EventKind.FAILED, record, frame, reason, why)
        if record.life is None:
            record.stopped()

    def drop(self, name: str) -> None:
        """Take out one record."""
        self._records.pop(name, None)

    def drop_ended(self) -> list[str]:
        """Take out what is stopped or not found, which was shown once; return the names."""
        names = [record.id for record in self if record.ended]
        for name in names:
            del self._records[name]
            self.release(name)
        return names

    def clear(self) -> None:
        """Forget everything that waits or is tracked."""
        with self._lock:
            self._commands.clear()
            self._words.clear()
        self._records.clear()

    def tell(
        self,
        kind: EventKind,
        record: TrackRecord | None,
        frame: Frame,
        reason: Reason,
        detail: str = "",
        score: float = 0.0,
        other_id: str = "",
    ) -> None:
        """Tell that something happened on this frame; without a record, to all tracks."""
        name, words = (record.id, record.expression) if record else ("", "")
        self._events.append(
            Event(kind, name, words, frame.stamp, frame.index, score, detail, reason, other_id)
        )

    def take_events(self) -> tuple[Event, ...]:
        """Return the events since the last call."""
        events, self._events = tuple(self._events), []
        return events
