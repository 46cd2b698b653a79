# SPDX-License-Identifier: Apache-2.0
"""What a frame changes about the tracks: is each still there, has memory drifted, is a lost one back?

tracked ──► occluded ──► lost (`lifecycle.py`); a lost object is looked for with its stored [SEG] embedding every few
frames, and by the language model with growing pauses, until it is re-detected or given up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.tracker import Observation, OnlineTracker
from sa2va_model.segmentation.types import ImageFeatures, Prompt
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.judgement.evidence import EVIDENCE_LIMIT
from sa2va_model.tracking.judgement.memory_gate import Measured
from sa2va_model.tracking.judgement.visibility_test import EmbeddingProbe, VisibilityTest, overlap
from sa2va_model.tracking.track_record import TrackRecord, with_mask
from sa2va_model.tracking.track_table import TrackTable, same_words
from sa2va_model.tracks import EventKind, Reason, Track, TrackState


class FrameUpdates:
    """Judges all tracks of a stream, one frame at a time.

    Args:
        pause: tells the seconds until the next check of a track that was found again.
    """

    def __init__(
        self,
        config: LiveConfig,
        calibration: Calibration,
        table: TrackTable,
        *,
        tracker: OnlineTracker,
        probe: EmbeddingProbe,
        visibility: VisibilityTest,
        pause: Callable[[], float],
    ) -> None:
        self._config, self._calibration, self._table = config, calibration, table
        self._tracker, self._probe = tracker, probe
        self._visibility, self._pause = visibility, pause

    def reconfigure(self, config: LiveConfig) -> None:
        """Use other periods and limits from now on."""
        self._config = config

    # Before the step.

    def to_step(self, features: ImageFeatures) -> list[str]:
        """Return the objects that memory should follow on this frame, those just re-detected last."""
        followed: list[str] = []
        back: list[str] = []
        for record in self._table:
            if not record.redetectable:
                followed.append(record.id)
            elif self._redetect(record, features):
                back.append(record.id)
        return followed + back

    def _redetect(self, record: TrackRecord, features: ImageFeatures) -> bool:
        """Decode the stored embedding of a lost object every few frames; return whether it is followed again."""
        every = self._config.redetect_every if self._calibration.redetect else 0
        life, embedding = record.life, record.embedding
        if life is None:
            return False
        if record.return_reason in (Reason.WORDS, Reason.EXAMPLE) and life.likely:
            return True  # the language model found it for this frame, and it was replayed
        if embedding is None or not record.look_due(every):
            return False
        glance = self._probe.look(embedding, features, self._tracker.row(record.id))
        record.looked(glance.evidence, every)
        if life.likely:
            record.returning(Reason.REDETECTED)
            self._tracker.add(record.id, Prompt(embedding=embedding))
        return life.likely

    # After the step.

    def judge(self, frame: Frame, seen: Mapping[str, Observation]) -> tuple[Track, ...]:
        """Judge every track on this frame.

        Args:
            seen: of the objects that were stepped, with masks of the frame's size.
        """
        return tuple(self._judge(record, seen, frame) for record in self._table)

    def _judge(self, record: TrackRecord, seen: Mapping[str, Observation], frame: Frame) -> Track:
        if record.life is None:
            record.waited()
            self._give_up(record, frame)
            return record.report()
        own = seen.get(record.id)
        evidence = math.nan if own is None else Measured(*own.measured).evidence
        known = own is not None and not own.prompted  # a prompt's own mask says nothing new
        visible = own is not None and self._visibility.enough(
            own.quality, own.object_score, own.area
        )
        change = record.advance(frame.stamp, evidence if known else math.nan, visible=visible)
        shown, score = record.life.shown, 0.0
        if own is not None and shown:
            score = self._visibility.score(own.quality, own.object_score)
        if own is not None:
            record.viewed(frame.index, own.logits > 0, evidence, shown=shown)
        arrived = record.announce()
        if arrived:
            reason = Reason.WORDS if record.from_text else record.first_reason()
            words = ". ".join(part for part in (record.label, record.note) if part)
            self._table.tell(EventKind.FOUND, record, frame, reason, words, score)
        if change is not None:
            transition, reason = change
            self._rearm(record, transition.kind, frame)
            self._table.tell(transition.kind, record, frame, reason, transition.detail, score)
            arrived = arrived or transition.kind == EventKind.REACQUIRED
        self._give_up(record, frame)
        if own is None or not shown:
            return record.report()
        if arrived and self._merge(record, seen, frame):
            return record.report()
        self._check_drift(record, own, frame)
        assert own.mask is not None
        return with_mask(record.report(), own.mask, record.mask_value, score)

    def _rearm(self, record: TrackRecord, kind: EventKind, frame: Frame) -> None:
        """When the language model is asked next, after a change of state."""
        if kind == EventKind.REACQUIRED:
            record.search_at(frame.stamp, self._config.search_period)
            record.check_at(frame.stamp + self._pause())
        elif kind == EventKind.LOST:  # the stored embedding looks first, which costs little
            record.search_at(frame.stamp, self._config.search_period)

    def _give_up(self, record: TrackRecord, frame: Frame) -> None:
        away, limit = frame.stamp - record.lost_since, self._config.give_up_after
        if record.lost and 0 < limit <= away:
            record.stopped()
            why = f"given up: not found for {away:.0f} s"
            self._table.tell(EventKind.STOPPED, record, frame, Reason.GIVEN_UP, why)

    def _check_drift(self, record: TrackRecord, own: Observation, frame: Frame) -> None:
        """Prompt memory again where the embedding keeps seeing something else, with more evidence."""
        embedding, apart = record.embedding, False
        if embedding is not None and own.spoken is not None and not own.prompted:
            known = Measured(*own.measured)
            more = known.spoken - max(known.memory, -EVIDENCE_LIMIT)
            stronger = known.spoken > 0 and more >= self._calibration.drift
            apart = stronger and known.agreement < self._config.agreement
        if not record.disagreed(apart, self._config.drift_after) or own.spoken is None:
            return
        self._tracker.add(record.id, Prompt(embedding=embedding))
        if _same(own.logits, own.spoken.logits):
            return  # what is shown stays where it is: memory is refreshed quietly
        why = f"memory disagreed with the words' mask on {self._config.drift_after} frames"
        self._table.tell(EventKind.REGROUNDED, record, frame, Reason.DRIFTED, why)

    def _merge(self, record: TrackRecord, seen: Mapping[str, Observation], frame: Frame) -> bool:
        """End a track that came to lie on the mask of another one with the same words; return whether it did."""
        if not self._config.merge_duplicates or record.among_others:
            return False
        mask = seen[record.id].logits > 0
        for other in self._table:
            if other is record or other.state != TrackState.TRACKING or other.id not in seen:
                continue
            if other.from_text != record.from_text or not same_words(
                other.expression, record.expression
            ):
                continue
            if overlap(mask, seen[other.id].logits > 0) >= self._config.duplicate_overlap:
                record.stopped()
                why = f"the same object as {other.id!r}"
                self._table.tell(
                    EventKind.STOPPED, record, frame, Reason.DUPLICATE, why, other_id=other.id
                )
                return True
        return False


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(math.isclose(float(((one > 0) != (other > 0)).float().mean()), 0.0))
