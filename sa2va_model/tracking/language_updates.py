# SPDX-License-Identifier: Apache-2.0
"""What the language model is asked about tracks, and what its answers change.

find    a new sentence: the object is prompted on the keyframe and replayed to the newest frame, or it is not found
search  a lost object: a yes and a mask that looks right bring it back
verify  a tracked one: a yes raises the log-odds and refreshes memory, a no lowers them, another object starts again

No answer decides alone about an object that is known already: it is weighed with what the frames show
(`existence_filter.py`).
"""

from __future__ import annotations

from torch import Tensor

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.io.frames import Frame
from sa2va_model.mllm.word_probes import Likeness
from sa2va_model.results import GroundingResult
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.frame_ring import FrameRing
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingQuestion,
    GroundingService,
    Purpose,
)
from sa2va_model.tracking.judgement.evidence import clip_evidence
from sa2va_model.tracking.judgement.lifecycle import Lifecycle
from sa2va_model.tracking.judgement.visibility_test import EmbeddingProbe, Glance, overlap
from sa2va_model.tracking.replay import Replay
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracking.track_table import TrackTable
from sa2va_model.tracks import EventKind, Reason, TrackState

LOOK_WEIGHT = 0.5  # of the evidence of the one mask that an answer points at


class LanguageUpdates:
    """Asks and takes answers for all tracks of a stream.

    Args:
        keyframes: of a question.
    """

    def __init__(
        self,
        config: LiveConfig,
        calibration: Calibration,
        table: TrackTable,
        *,
        grounding: GroundingService,
        probe: EmbeddingProbe,
        tracker: OnlineTracker,
        ring: FrameRing,
        replay: Replay,
        keyframes: int,
    ) -> None:
        self._config, self._calibration, self._table = config, calibration, table
        self._grounding, self._probe, self._tracker = grounding, probe, tracker
        self._ring, self._replay, self._keyframes = ring, replay, keyframes
        self._seconds = 0.0  # that the last answer took

    def reconfigure(self, config: LiveConfig) -> None:
        """Use other periods and limits from now on."""
        self._config = config

    # Questions.

    def ask(self, record: TrackRecord, frame: Frame, purpose: Purpose) -> None:
        """Put a question about a track, on the newest frames."""
        record.asked()
        keyframes = self._ring.latest(self._keyframes)
        self._grounding.ask(
            GroundingQuestion(
                record.id,
                record.expression,
                [item.frame.rgb for item in keyframes],
                keyframes[0].frame.index,
                frame.index,
                frame.stamp,
                purpose,
            )
        )

    def ask_due(self, frame: Frame) -> None:
        """Search for lost objects and check tracked ones when their time has come.

        With `background` checks whose time is not far off join one that is due: the model looks at a picture once,
        which is most of a check, whatever is asked about it.
        """
        config = self._config
        idle = [
            r for r in self._table if r.from_text and not r.question_open and r.life is not None
        ]
        if not any(frame.stamp >= record.next_question for record in idle):
            return
        soon = frame.stamp + (self.pause() / 2 if config.background else 0.0)
        for record in idle:
            if record.lost:
                if frame.stamp >= record.next_question:
                    record.search_at(frame.stamp, min(record.wait * 1.5, config.search_limit))
                    self.ask(record, frame, Purpose.SEARCH)
            elif config.verify_period > 0 and soon >= record.next_question:
                record.check_at(frame.stamp + self.pause())
                self.ask(record, frame, Purpose.VERIFY)

    def pause(self) -> float:
        """Return the seconds between two checks of one track; in the foreground the frames' stamps alone decide.

        There nothing has to keep up, and a busy machine must not change what becomes of a file.
        """
        config = self._config
        if not config.background:
            return config.verify_period
        named = sum(record.from_text for record in self._table)
        return max(config.verify_period, named * self._seconds / config.verify_share)

    # What comes of them.

    def begin(self, record: TrackRecord, keyframe: float, frame: Frame, label: str) -> None:
        """Take a mask for a track: it is found, or corrected by a prompt."""
        if record.life is not None:
            record.pointed_at(self._calibration.start, keyframe, label)
            return
        life = Lifecycle(self._config.lifecycle, self._calibration, frame.stamp)
        record.found(life, keyframe, label)
        record.search_at(frame.stamp, self._config.search_period)
        record.check_at(frame.stamp + self.pause())

    def takes(self, answered: Answered) -> bool:
        """Return whether an answer is to a question about a track: all that nobody else has asked."""
        return True

    def again(self, answered: Answered, frame: Frame) -> None:
        """An answer came on a frame that cannot be used: ask again for what has not been found yet."""
        record = self._table.get(answered.question.track_id)
        if record is None:
            return
        record.answered()
        if record.life is None and not record.ended:
            self.ask(record, frame, Purpose.FIND)

    def take(self, answered: Answered, frame: Frame) -> None:
        """Take an answer."""
        question = answered.question
        self._seconds = answered.milliseconds / 1e3
        record = self._table.get(question.track_id)
        if record is None or record.ended or record.expression != question.expression:
            return
        record.answered()
        if (
            answered.error
        ):  # a check or a search that failed says nothing; the next one comes in its time
            if question.purpose == Purpose.FIND:
                self._table.fail(record, frame, Reason.MODEL, answered.error)
            return
        reply = answered.reply
        found = reply is not None and reply.found
        embedding = reply.embeddings[0].clone() if reply is not None and found else None
        if question.purpose == Purpose.FIND:
            self._find(record, embedding, reply, question, frame)
        elif record.life is not None:
            likeness = reply.likeness if reply is not None else None
            self._weigh(record, record.life, embedding, likeness, question, frame)

    def _find(
        self,
        record: TrackRecord,
        embedding: Tensor | None,
        reply: GroundingResult | None,
        question: GroundingQuestion,
        frame: Frame,
    ) -> None:
        likeness = reply.likeness if reply is not None else None
        glance = self._look(embedding, question, likeness=likeness)
        if embedding is None or glance is None or not glance.visible:
            record.not_found()
            absent = Reason.UNKNOWN_WORD if reply is not None and reply.unknown else Reason.ABSENT
            unlike = glance is not None and glance.unlike
            reason = absent if embedding is None or unlike else Reason.NO_MASK
            words = reply.in_vain if reply is not None else ""
            if unlike and likeness is not None:
                words = likeness.refusal
            self._table.tell(EventKind.NOT_FOUND, record, frame, reason, words)
            return
        self._catch_up(record, embedding, question, frame)
        label = reply.label if reply is not None else ""
        record.noted(reply.note if reply is not None else "")
        self.begin(record, question.stamp, frame, label or record.expression)

    def _weigh(
        self,
        record: TrackRecord,
        life: Lifecycle,
        embedding: Tensor | None,
        likeness: Likeness | None,
        question: GroundingQuestion,
        frame: Frame,
    ) -> None:
        """Take an answer about an object that was found before."""
        # What is followed is known by its look, also half hidden, when its name can no more be read off it.
        asked = likeness if record.lost else None
        glance = self._look(embedding, question, self._tracker.row(record.id), asked)
        if embedding is None or glance is None or not glance.visible:
            record.denied(self._calibration.denied)
            if not record.lost:
                record.check_at(frame.stamp + self.pause() / 3)
            return
        record.affirmed()
        if record.state == TrackState.TRACKING:
            self._compare(record, embedding, glance, question, frame)
            return
        # Whether it has come back in the meantime is open; the answer and its mask decide.
        ratio = self._calibration.confirmed + LOOK_WEIGHT * glance.evidence
        record.confirmed(ratio, at_least=0.0)
        if life.likely:
            record.returning(Reason.WORDS)
            self._catch_up(record, embedding, question, frame)

    def _compare(
        self,
        record: TrackRecord,
        embedding: Tensor,
        glance: Glance,
        question: GroundingQuestion,
        frame: Frame,
    ) -> None:
        """Compare what is followed with what the words mean now, on the same frame.

        The same: memory is refreshed. Another object, repeatedly, and with no less evidence: memory has drifted; it
        is forgotten and starts again from the words.
        """
        view = record.view(question.frame_index)
        if view is None:
            return
        config = self._config
        if overlap(glance.mask, view.mask) >= config.agreement:
            record.confirmed(self._calibration.confirmed)
        else:
            record.check_at(frame.stamp + self.pause() / 3)
            if glance.evidence < clip_evidence(view.evidence) - self._calibration.drift:
                return  # the words point at something that looks less like the object
            if record.doubted() < config.verify_strikes:
                return
            self._tracker.remove(record.id)
            why = "memory had drifted from the words"
            self._table.tell(EventKind.REGROUNDED, record, frame, Reason.DRIFTED, why)
        self._catch_up(record, embedding, question, frame)

    def _catch_up(
        self, record: TrackRecord, embedding: Tensor, question: GroundingQuestion, frame: Frame
    ) -> None:
        record.grounded(embedding, question.stamp)
        self._replay.catch_up(record.id, Prompt(embedding=embedding), question, frame.index)

    def _look(
        self,
        embedding: Tensor | None,
        question: GroundingQuestion,
        row: int | None = None,
        likeness: Likeness | None = None,
    ) -> Glance | None:
        """What SAM-2 sees where the language model points, on the question's newest keyframe."""
        item = self._replay.keyframe(question)
        if item is None or embedding is None:
            return None
        same = item.frame.index == question.frame_index  # that the words were held against
        return self._probe.look(embedding, item.features, row, likeness if same else None)
