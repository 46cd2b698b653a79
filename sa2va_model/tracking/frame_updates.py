# SPDX-License-Identifier: Apache-2.0
"""Watches every track on every frame: is it still there, has memory drifted, is a lost one back?

tracked ──belief below `hide`──► occluded ──for `lost_after`──► lost ──► looked for with its stored [SEG] embedding
every few frames, and by the language model with growing pauses ──► reacquired, or given up.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.tracker import Observation
from sa2va_model.segmentation.types import Prompt
from sa2va_model.tracking.language_updates import LanguageUpdates
from sa2va_model.tracking.parts import Parts
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracks import EventKind, Reason, Track, TrackState


class FrameUpdates:
    """Judges all tracks of a stream, one frame at a time."""

    def __init__(self, parts: Parts, words: LanguageUpdates) -> None:
        self._parts, self._words = parts, words

    def stepped(self) -> list[str]:
        """The objects that memory should follow on this frame: all but those that are looked for otherwise."""
        records = self._parts.register.records
        return [i for i in self._parts.tracker.ids if i in records and not _searched(records[i])]

    def look_for_lost(self, frame: Frame) -> list[str]:
        """Decodes the stored embeddings of lost objects; those found again are prompted and returned."""
        every, item = self._parts.config.redetect_every, self._parts.ring.newest()
        every = every if self._parts.calibration.redetect else 0
        back: list[str] = []
        for record in self._parts.register.records.values():
            if not _searched(record) or record.belief is None or item is None:
                continue
            if record.how == Reason.WORDS and self._pending(record):
                back.append(record.id)
                continue
            record.since_look += 1
            if not every or record.since_look < every:
                continue
            record.since_look = 0
            assert record.embedding is not None
            shown = self._parts.decode(record.embedding, item.features)
            evidence = self._parts.evidence_for(record.id, item.features, shown)
            if not self._parts.judge.shows(shown):
                evidence = -4.0
            record.belief.frame(evidence, 0.0, every)
            if record.belief.odds >= self._parts.calibration.regain:
                record.how = Reason.REDETECTED
                self._parts.tracker.add(record.id, Prompt(embedding=record.embedding))
                back.append(record.id)
        return back

    def _pending(self, record: TrackRecord) -> bool:
        """The language model found it for this frame, and it was replayed."""
        assert record.belief is not None
        return record.belief.odds >= self._parts.calibration.regain

    def track(
        self, record: TrackRecord, seen: Observation | None, evidence: float, frame: Frame
    ) -> Track:
        """One track on this frame.

        Args:
            seen: None where it was not stepped.
            evidence: that its mask is right; NaN = none.
        """
        record.age += 1
        if record.life is None or record.belief is None:
            return record.report(None, 0.0)
        judge, values = self._parts.judge, self._parts.calibration
        known = seen is not None and not seen.prompted
        record.belief.frame(evidence if known else math.nan, self._since(record, frame))
        if seen is not None and record.spoken:
            record.views.append((frame.index, seen.logits > 0, evidence))
        needed = {TrackState.TRACKING: values.hide, TrackState.LOST: values.regain}
        enough = record.belief.odds >= needed.get(record.state, values.show)
        shown = seen is not None and enough and judge.shows(seen.decoded)
        score = judge.score(seen) if seen is not None else 0.0
        self._live(record, shown, score, frame)
        record.stamp = frame.stamp
        if seen is not None and shown:
            self._check_drift(record, seen, frame)
        mask: np.ndarray | None = None
        if shown and seen is not None and record.state == TrackState.TRACKING:
            mask = judge.mask(seen, *frame.rgb.shape[:2])
        return record.report(mask, score)

    def _live(self, record: TrackRecord, shown: bool, score: float, frame: Frame) -> None:
        """The state, and what is told of it."""
        assert record.life is not None
        register, config = self._parts.register, self._parts.config
        happened = record.life.update(frame.stamp, seen=shown)
        record.state = record.life.state
        if happened is not None:
            kind, why = happened
            reason = Reason.DENIED if record.denied else Reason.UNSEEN
            if kind == EventKind.REACQUIRED:
                reason, record.how, record.denied = record.how, Reason.RETURNED, False
                record.next_question = frame.stamp + self._words.pause()
                record.wait = config.search_period
            elif kind == EventKind.LOST:
                record.lost_since, record.since_look = frame.stamp, 0
                # The stored embedding looks first, which costs little.
                record.wait = config.search_period
                record.next_question = frame.stamp + record.wait
            register.tell(kind, record, frame, reason, why, score)
        if record.lost and 0 < config.give_up_after <= frame.stamp - record.lost_since:
            record.state, record.life = TrackState.STOPPED, None
            why = f"given up: not found for {frame.stamp - record.lost_since:.0f} s"
            register.tell(EventKind.STOPPED, record, frame, Reason.GIVEN_UP, why)

    def _check_drift(self, record: TrackRecord, seen: Observation, frame: Frame) -> None:
        """Memory is prompted again where the embedding keeps seeing something else, with more evidence."""
        limit, embedding = self._parts.config.drift_after, record.embedding
        if not limit or embedding is None or seen.spoken is None or seen.prompted:
            record.drift = 0
            return
        agreement, memory, spoken = self._parts.trust.rivals(self._parts.tracker.row(record.id))
        stronger = spoken > 0 and spoken - max(memory, -4.0) >= self._parts.calibration.drift
        apart = agreement < self._parts.config.agreement
        record.drift = record.drift + 1 if stronger and apart else 0
        if record.drift < limit:
            return
        record.drift = 0
        self._parts.tracker.add(record.id, Prompt(embedding=embedding))
        if _same(seen.logits, seen.spoken.logits):
            return  # what is shown stays where it is: memory is refreshed quietly
        why = f"memory disagreed with the words' mask on {limit} frames"
        self._parts.register.tell(EventKind.REGROUNDED, record, frame, Reason.DRIFTED, why)

    @staticmethod
    def _since(record: TrackRecord, frame: Frame) -> float:
        """Seconds since the track was last judged."""
        return 0.0 if record.stamp is None else max(frame.stamp - record.stamp, 0.0)


def _searched(record: TrackRecord) -> bool:
    """Lost, and looked for with its embedding rather than with memory."""
    return record.lost and record.embedding is not None


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(math.isclose(float(((one > 0) != (other > 0)).float().mean()), 0.0))
