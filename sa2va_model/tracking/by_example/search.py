# SPDX-License-Identifier: Apache-2.0
"""Looks in the stream for what examples show, with growing pauses, for as long as it is not in view.

Until it is found the track is LOST, which is searched for, and has no mask. The model looks beside the stream
(`finder.py`). What it finds is prompted on that frame and replayed. The example's own pictures are no part of its
memory: another place and light in it made the object lost at once (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.types import Prompt
from sa2va_model.tracking.by_example.example import ObjectExample
from sa2va_model.tracking.by_example.finder import ExampleFinder
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.frame_ring import FrameRing, RingFrame
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingQuestion,
    GroundingService,
    Purpose,
)
from sa2va_model.tracking.replay import Replay
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracking.track_table import TrackTable
from sa2va_model.tracks import EventKind, Reason

Begin = Callable[[TrackRecord, float, Frame, str], None]


@dataclass
class _Sought:
    """What is looked for on behalf of a track.

    Attributes:
        seen: the frame of the open question; None = no question is open.
        look_at: stamp of the next look; `pause`: seconds behind it.
    """

    finder: ExampleFinder
    seen: RingFrame | None = None
    look_at: float = float("-inf")
    pause: float = 0.0


class ExampleSearch:
    """Looks for examples, from the thread of the frames.

    Args:
        begin: begins the life of a track that was prompted.
    """

    def __init__(
        self,
        config: LiveConfig,
        table: TrackTable,
        *,
        grounding: GroundingService,
        ring: FrameRing,
        replay: Replay,
        begin: Begin,
    ) -> None:
        self._config, self._table, self._begin = config, table, begin
        self._grounding, self._ring, self._replay = grounding, ring, replay
        self._sought: dict[str, _Sought] = {}

    def reconfigure(self, config: LiveConfig) -> None:
        """Use other periods from now on."""
        self._config = config

    def start(self, name: str, example: ObjectExample, frame: Frame) -> None:
        """Look for an example from this frame on; a track of that name looks for this one now."""
        record = self._table.get(name)
        record = record or self._table.add(name, example.name, frame, from_text=False)
        if record is not None:
            self._sought[name] = _Sought(ExampleFinder(example))
            self._look(record, self._sought[name], frame)

    def forget(self, name: str | None = None) -> None:
        """Look no more for one, or all."""
        for each in [key for key in self._sought if name in (None, key)]:
            del self._sought[each]

    def look_due(self, frame: Frame) -> None:
        """Look for what is not in view where the time has come; forget what has ended."""
        for name, sought in list(self._sought.items()):
            record = self._table.get(name)
            if record is None or record.ended:
                self.forget(name)
                continue
            away = record.life is None or record.lost
            if away and sought.seen is None and frame.stamp >= sought.look_at:
                self._look(record, sought, frame)

    def again(self, answered: Answered, frame: Frame) -> None:
        """An answer came on a frame that cannot be used: look again on the next, if it is still looked for."""
        sought = self._sought.get(answered.question.track_id)
        if sought is not None:
            sought.seen, sought.look_at = None, frame.stamp

    def takes(self, answered: Answered) -> bool:
        """Return whether an answer is to a question of this search."""
        return answered.question.example is not None

    def take(self, answered: Answered, frame: Frame) -> None:
        """Take an answer; one about an earlier example of the track counts no more."""
        question = answered.question
        sought, record = self._sought.get(question.track_id), self._table.get(question.track_id)
        if sought is None or record is None or record.ended:
            return
        if question.example is not sought.finder or sought.seen is None:
            return
        seen, sought.seen = sought.seen, None
        if answered.error:
            self._table.fail(record, frame, Reason.MODEL, answered.error)
            self._missed(record, sought, frame)
        elif answered.sighting is None:
            self._missed(record, sought, frame)
            if record.searched_for(frame.stamp):
                why = "nothing here looks like the example; it is searched for"
                self._table.tell(EventKind.LOST, record, frame, Reason.ABSENT, why)
        elif record.life is None or record.lost:
            self._found(record, sought, seen, answered, frame)

    def _look(self, record: TrackRecord, sought: _Sought, frame: Frame) -> None:
        sought.seen, index = self._ring.newest(), frame.index
        purpose = Purpose.FIND if record.life is None and not record.lost else Purpose.SEARCH
        words, finder = record.expression, sought.finder
        self._grounding.ask(
            GroundingQuestion(
                record.id, words, [frame.rgb], index, index, frame.stamp, purpose, finder
            )
        )

    def _missed(self, record: TrackRecord, sought: _Sought, frame: Frame) -> None:
        config = self._config
        sought.pause = min(max(sought.pause * 1.5, config.search_period), config.search_limit)
        sought.look_at = frame.stamp + sought.pause

    def _found(
        self,
        record: TrackRecord,
        sought: _Sought,
        seen: RingFrame,
        answered: Answered,
        frame: Frame,
    ) -> None:
        sighting, question = answered.sighting, answered.question
        assert sighting is not None
        sought.pause, embedding = 0.0, sighting.embedding
        prompt = Prompt(embedding=embedding)
        if embedding is None:
            prompt = Prompt(mask=torch.from_numpy(sighting.mask))
        if self._ring.at(question.frame_index) is None:
            self._replay.leap(record.id, prompt, seen)
        else:
            self._replay.catch_up(record.id, prompt, question, frame.index)
        record.grounded(embedding, question.stamp)
        self._begin(record, frame.stamp, frame, sought.finder.example.name)
        record.returning(Reason.EXAMPLE)
