# SPDX-License-Identifier: Apache-2.0
"""MemberChecks: is each of several alike still there, and where are those that were lost?

Words that mean many say nothing about one of them. So the model is asked with all others painted over: then there is
one left that they can mean. A yes on a member's mask confirms it, a no is weighed like any other
(`language_updates.py`); what the words find while members are lost is the one that it is most likely to be, by its look
and by where it was seen last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.object_check import CheckedThing
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import ImageFeatures
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.frame_ring import FrameRing, RingFrame
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingQuestion,
    GroundingService,
    Purpose,
)
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.instances.groups import InstanceGroups, Resting
from sa2va_model.tracking.instances.start import InstanceStart
from sa2va_model.tracking.judgement.visibility_test import (
    EmbeddingProbe,
    Glance,
    VisibilityTest,
    overlap,
)
from sa2va_model.tracking.language_updates import LOOK_WEIGHT
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracking.track_table import TrackTable
from sa2va_model.tracks import Reason, TrackState

WANDERS = 0.25  # of the image's side: how far from its last place a lost thing is expected


@dataclass(frozen=True)
class _Check:
    """An open question.

    Attributes:
        group: the name of its group.
        mask: what the member showed on the frame; None = the question is about all that are lost.
        original: the frame as it is.
    """

    question: GroundingQuestion
    group: str
    mask: Tensor | None
    original: RingFrame | None


class MemberChecks:
    """Asks about members of groups in turn, from the thread of the frames; one question a group at a time."""

    def __init__(
        self,
        config: LiveConfig,
        calibration: Calibration,
        table: TrackTable,
        groups: InstanceGroups,
        *,
        grounding: GroundingService,
        vision: Vision,
        visibility: VisibilityTest,
        probe: EmbeddingProbe,
        tracker: OnlineTracker,
        ring: FrameRing,
        start: InstanceStart,
    ) -> None:
        self._config, self._calibration = config, calibration
        self._table, self._groups = table, groups
        self._grounding, self._vision, self._visibility = grounding, vision, visibility
        self._probe, self._tracker, self._ring, self._start = probe, tracker, ring, start
        self._open: dict[str, _Check] = {}  # by the id of the track that a question is about
        self._seconds = 0.0  # that the last answer took

    def reconfigure(self, config: LiveConfig) -> None:
        """Use other periods and limits from now on."""
        self._config = config

    def forget(self) -> None:
        """Wait for no answer any more."""
        self._open.clear()

    # Questions.

    def ask_due(self, frame: Frame) -> None:
        """Check the member of each group whose turn it is."""
        if self._config.verify_period <= 0:
            return
        self._drop_unanswered(frame)
        groups = list(self._groups.resting())
        waited_for = {check.group for check in self._open.values()}
        pause = self._pause(sum(len(group.members) for group in groups))
        for group in groups:
            records = self._records(group.members)
            for record in records:
                record.among(others=group.denies)
            due = [r for r in records if self._is_due(r, group, frame)]
            if due and group.name not in waited_for:
                self._ask(min(due, key=lambda r: r.next_question), group, frame, pause)

    def _drop_unanswered(self, frame: Frame) -> None:
        """Wait no more for what a newer question about the same track, or its end, has put aside."""
        oldest = frame.stamp - self._config.answer_limit
        self._open = {k: c for k, c in self._open.items() if c.question.stamp >= oldest}

    def _records(self, names: Iterable[str]) -> list[TrackRecord]:
        return [record for name in names if (record := self._table.get(name)) is not None]

    @staticmethod
    def _is_due(record: TrackRecord, group: Resting, frame: Frame) -> bool:
        if record.life is None or frame.stamp < record.next_question:
            return False
        return group.denies or record.state == TrackState.TRACKING

    def _pause(self, members: int) -> float:
        """Seconds between two checks of one member."""
        config = self._config
        if not config.background:
            return config.verify_period
        return max(config.verify_period, members * self._seconds / config.verify_share)

    def _ask(self, record: TrackRecord, group: Resting, frame: Frame, pause: float) -> None:
        view = record.view(frame.index) if record.state == TrackState.TRACKING else None
        others = [
            other.id
            for other in self._records(group.members)
            if other is not record and other.state == TrackState.TRACKING
        ]
        purpose = Purpose.VERIFY
        if record.lost:
            purpose = Purpose.SEARCH
            record.search_at(frame.stamp, min(record.wait * 1.5, self._config.search_limit))
        else:
            record.check_at(frame.stamp + pause)
        question = GroundingQuestion(
            record.id,
            group.one,
            [self._groups.painted(others, frame)],
            frame.index,
            frame.index,
            frame.stamp,
            purpose,
        )
        mask = None if view is None else view.mask
        self._open[record.id] = _Check(question, group.name, mask, self._ring.newest())
        self._grounding.ask(question)

    # What comes of them.

    def takes(self, answered: Answered) -> bool:
        """Return whether an answer is to a question about a member."""
        check = self._open.get(answered.question.track_id)
        return check is not None and check.question is answered.question

    def again(self, answered: Answered, frame: Frame) -> None:
        """An answer came on a frame that cannot be used: the next check comes in its time."""
        self._open.pop(answered.question.track_id, None)

    def take(self, answered: Answered, frame: Frame) -> None:
        """Take an answer."""
        check = self._open.pop(answered.question.track_id)
        self._seconds = answered.milliseconds / 1e3
        record = self._table.get(check.question.track_id)
        if record is None or record.life is None or answered.error:
            return
        reply = answered.reply
        found = reply is not None and reply.found
        embedding = reply.embeddings[0].clone() if reply is not None and found else None
        features = self._vision.encode(check.question.frames[-1]) if found else None
        glance = self._look(embedding, features, record)
        if embedding is None or features is None or glance is None:
            record.denied(self._calibration.denied)
            return
        if check.mask is None:
            self._found(check, embedding, features, frame)
        elif overlap(glance.mask, check.mask) >= self._config.agreement:
            record.affirmed()
            record.confirmed(self._calibration.confirmed)
            # What it was prompted with draws it to where it stood then, and there its twin may be now.
            self._tracker.remove(record.id)
            self._follow(record, check.mask, embedding, check, frame)

    def _look(
        self, embedding: Tensor | None, features: ImageFeatures | None, record: TrackRecord
    ) -> Glance | None:
        """What an answer shows on the picture that was asked about; None = nothing."""
        if embedding is None or features is None:
            return None
        glance = self._probe.look(embedding, features, self._tracker.row(record.id))
        return glance if glance.visible else None

    def _found(
        self, check: _Check, embedding: Tensor, features: ImageFeatures, frame: Frame
    ) -> None:
        """One of those that are not in view has been found: which?"""
        best: tuple[float, TrackRecord, Glance] | None = None
        for record in self._records(self._groups.members(check.group)):
            if record.life is None or record.state == TrackState.TRACKING:
                continue
            glance = self._look(embedding, features, record)
            if glance is None:
                continue
            likely = (
                glance.evidence - 0.5 * (_distance(glance.mask, record.shown_mask) / WANDERS) ** 2
            )
            if best is None or likely > best[0]:
                best = likely, record, glance
        if best is None:
            return
        _, record, glance = best
        assert record.life is not None
        record.affirmed()
        ratio = self._calibration.confirmed + LOOK_WEIGHT * glance.evidence
        record.confirmed(ratio, at_least=0.0)
        if not record.life.likely:
            return
        record.returning(Reason.WORDS)
        self._follow(record, glance.mask, embedding, check, frame)

    def _follow(
        self, record: TrackRecord, shown: Tensor, embedding: Tensor, check: _Check, frame: Frame
    ) -> None:
        [mask] = self._visibility.masks([shown.float() - 0.5], frame.rgb)
        thing = CheckedThing(mask, 0.0, embedding)
        self._start.follow(record, thing, check.question, check.original, frame)


def _distance(one: Tensor, other: Tensor | None) -> float:
    """Between the middles of two masks, [1, 1, h, w], in sides of the image."""
    if other is None:
        return 0.0
    middles = []
    for mask in (one, other):
        places = mask[0, 0].nonzero().float().mean(0)
        middles.append(places / max(mask.shape[-2:]))
    return float((middles[0] - middles[1]).norm())
