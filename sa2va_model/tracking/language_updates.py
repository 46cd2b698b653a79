# SPDX-License-Identifier: Apache-2.0
"""What the language model is asked about tracks, and what its answers change.

find    a new sentence: the object is prompted on the keyframe and replayed to the newest frame, or it is not found
search  a lost object: a yes and a mask that looks right bring it back
verify  a tracked one: a yes strengthens the belief and refreshes memory, a no weakens it, another object starts again

No answer decides alone about an object that is known already: it is weighed with what the frames show
(`existence_filter.py`).
"""

from __future__ import annotations

from sa2va_model.io.frames import Frame
from sa2va_model.keyframes import Remembered
from sa2va_model.segmentation.types import Decoded, Prompt
from sa2va_model.tracking.existence_filter import ExistenceFilter
from sa2va_model.tracking.grounding_worker import Answered, Question
from sa2va_model.tracking.lifecycle import Lifecycle
from sa2va_model.tracking.parts import Parts
from sa2va_model.tracking.replay import healthy
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracking.visibility_test import overlap
from sa2va_model.tracks import EventKind, Reason, TrackState

LOOK_WEIGHT = 0.5  # of the evidence of the one mask that an answer points at


class LanguageUpdates:
    """Asks and takes answers for all tracks of a stream."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._seconds = 0.0  # that the last answer took

    def ask(self, record: TrackRecord, frame: Frame, purpose: str) -> None:
        """Puts the question about a track."""
        parts = self._parts
        record.asked = True
        keyframes = parts.ring.latest(parts.model.config.keyframes)
        question = Question(
            record.id,
            record.expression,
            [item.frame.rgb for item in keyframes],
            keyframes[0].frame.index,
            frame.index,
            frame.stamp,
            purpose,
        )
        parts.questioner.ask(question)

    def ask_again(self, frame: Frame) -> None:
        """Searches for lost objects and checks tracked ones when their time has come."""
        config = self._parts.config
        for record in self._parts.register.records.values():
            if not record.spoken or record.asked or record.life is None:
                continue
            if frame.stamp < record.next_question:
                continue
            if record.lost:
                record.wait = min(record.wait * 1.5, config.search_limit)
                record.next_question = frame.stamp + record.wait
                self.ask(record, frame, "search")
            elif config.verify_period > 0:
                record.next_question = frame.stamp + self.pause()
                self.ask(record, frame, "verify")

    def pause(self) -> float:
        """Seconds between two checks of one track; without a thread of its own only the frames' stamps decide.

        There nothing has to keep up, and a busy machine must not change what becomes of a file.
        """
        config = self._parts.config
        if not config.background:
            return config.verify_period
        spoken = sum(record.spoken for record in self._parts.register.records.values())
        return max(config.verify_period, spoken * self._seconds / config.verify_share)

    def found(self, record: TrackRecord, keyframe: float, frame: Frame, label: str) -> None:
        """A track has a mask for the first time, or was corrected by a prompt."""
        record.label, record.last_keyframe = label, keyframe
        config, values = self._parts.config, self._parts.calibration
        odds = max(values.regain, values.show, 2.0)
        if record.life is None:
            record.first_seen = keyframe
            record.life = Lifecycle(config.lifecycle, frame.stamp)
            record.belief = ExistenceFilter(odds, values.weight, values.floor)
            record.state = TrackState.TRACKING
            record.next_question = frame.stamp + self.pause()
            record.wait = config.search_period
            how = Reason.WORDS if record.spoken else Reason.POINTED
            self._parts.register.tell(EventKind.FOUND, record, frame, how, label)
        elif record.belief is not None:
            record.belief.odds, record.how = odds, Reason.POINTED

    def take(self, answered: Answered, frame: Frame) -> None:
        """An answer has come."""
        question, register = answered.question, self._parts.register
        self._seconds = answered.milliseconds / 1e3
        record = register.records.get(question.track_id)
        if record is None or record.expression != question.expression:
            return
        if record.state == TrackState.STOPPED:
            return
        record.asked = False
        if answered.error:
            if question.purpose == "find":
                register.fail(record, frame, Reason.MODEL, answered.error)
            return  # a check or a search that failed says nothing; the next one comes in its time
        prompt, words = None, ""
        if answered.reply is not None:
            words = answered.reply.text
            if answered.reply.found:
                prompt = Prompt(embedding=answered.reply.embeddings[0].clone())
        if question.purpose == "find":
            self._find(record, prompt, question, frame, words)
        elif record.life is not None and record.belief is not None:
            self._weigh(record, record.belief, prompt, question, frame)

    def _find(
        self,
        record: TrackRecord,
        prompt: Prompt | None,
        question: Question,
        frame: Frame,
        words: str,
    ) -> None:
        seen = None if prompt is None else self._glance(prompt, question)
        if prompt is None or seen is None or not self._parts.judge.shows(seen):
            record.state = TrackState.NOT_FOUND
            reason = Reason.ABSENT if prompt is None else Reason.NO_MASK
            self._parts.register.tell(EventKind.NOT_FOUND, record, frame, reason, words)
            return
        self._catch_up(record, prompt, question, frame)
        self.found(record, question.stamp, frame, words)

    def _weigh(
        self,
        record: TrackRecord,
        belief: ExistenceFilter,
        prompt: Prompt | None,
        question: Question,
        frame: Frame,
    ) -> None:
        """An answer about an object that was found before."""
        values = self._parts.calibration
        item = self._keyframe(question)
        seen = None if prompt is None else self._glance(prompt, question)
        if prompt is None or seen is None or item is None or not self._parts.judge.shows(seen):
            record.denied = True
            belief.told(values.denied)
            if not record.lost:
                record.next_question = frame.stamp + self.pause() / 3
            return
        record.denied = False
        evidence = self._parts.evidence_for(record.id, item.features, seen)
        evidence = max(-4.0, min(4.0, evidence))
        if record.state == TrackState.TRACKING:
            self._compare(record, belief, prompt, (seen, evidence), question, frame)
            return
        # Whether it has come back in the meantime is open; the answer and its mask decide.
        belief.odds = max(belief.odds, 0.0)
        belief.told(values.confirmed + LOOK_WEIGHT * evidence)
        if belief.odds >= (values.regain if record.lost else values.show):
            record.how, record.doubts = Reason.WORDS, 0
            record.last_keyframe = question.stamp
            self._catch_up(record, prompt, question, frame)

    def _compare(
        self,
        record: TrackRecord,
        belief: ExistenceFilter,
        prompt: Prompt,
        said: tuple[Decoded, float],
        question: Question,
        frame: Frame,
    ) -> None:
        """What is followed against what the words mean now, on the same frame.

        The same: memory is refreshed. Another object, repeatedly, and with no less evidence: memory has drifted; it
        is forgotten and starts again from the words.
        """
        view = record.view(question.frame_index)
        if view is None:
            return
        config, values = self._parts.config, self._parts.calibration
        followed, evidence = view
        if overlap(said[0].logits > 0, followed) >= config.agreement:
            belief.told(values.confirmed)
        else:
            record.next_question = frame.stamp + self.pause() / 3
            if said[1] < min(evidence, 4.0) - values.drift:
                return  # the words point at something that looks less like the object
            record.doubts += 1
            if record.doubts < config.verify_strikes:
                return
            self._parts.tracker.remove(record.id)
            why = "memory had drifted from the words"
            self._parts.register.tell(EventKind.REGROUNDED, record, frame, Reason.DRIFTED, why)
        record.doubts, record.last_keyframe = 0, question.stamp
        self._catch_up(record, prompt, question, frame)

    def _catch_up(
        self, record: TrackRecord, prompt: Prompt, question: Question, frame: Frame
    ) -> None:
        record.embedding = prompt.embedding
        self._parts.replay.catch_up(record.id, prompt, question, frame.index)

    def _keyframe(self, question: Question) -> Remembered | None:
        """The newest keyframe of a question, or the newest frame if it has left the ring."""
        item = self._parts.ring.at(question.frame_index)
        return item if item is not None and healthy(item) else self._parts.ring.newest()

    def _glance(self, prompt: Prompt, question: Question) -> Decoded | None:
        """What SAM-2 sees where the language model points, on the question's newest keyframe."""
        item = self._keyframe(question)
        if item is None or prompt.embedding is None:
            return None
        return self._parts.decode(prompt.embedding, item.features)
