# SPDX-License-Identifier: Apache-2.0
"""LiveTracker: sentences, clicks and boxes in; tracks and events for every frame out.

One thread calls `process` with frames; commands may come from any thread and take effect at the next frame. The
language model is asked by `questions.Questioner`; when its answer comes late, the object is replayed over the frames
since then, so that its first published mask belongs to the newest frame.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from sa2va_model import images, prompts
from sa2va_model.errors import InputError
from sa2va_model.grounding import Prompt
from sa2va_model.judgement import Judge, overlap
from sa2va_model.keyframes import FrameRing
from sa2va_model.lifecycle import Lifecycle, LifecycleConfig
from sa2va_model.pointing import visual_prompt
from sa2va_model.questions import Answered, Question, Questioner
from sa2va_model.records import Record
from sa2va_model.sa2va import Sa2VA
from sa2va_model.sources import Frame
from sa2va_model.tracker import Observation, OnlineTracker, TrackerConfig
from sa2va_model.tracks import Event, EventKind, FrameResult, Track, TrackState


@dataclass(frozen=True)
class LiveConfig:
    """How a stream is followed; times in seconds of the frames' stamps.

    Attributes:
        background: ask the language model on its own thread while tracking goes on (a robot), or within
            `process` (a file: slower frames, but the same result on every run).
        max_objects: tracks at once; a further command fails.
        ring: frames kept to replay a late answer on.
        search_period: between two questions for a lost object; grows by half each time up to `search_limit`.
        verify_period: between two checks that a tracked object is still what was asked for; 0 = never.
        verify_strikes: so many failed checks in a row take the mask away, or restart a memory that has drifted.
        agreement: IoU of memory's mask and the words' mask from which on they mean the same.
        verify_share: a check that takes long is made rarer, so that checks take at most this share of the time.
    """

    background: bool = False
    max_objects: int = 16
    ring: int = 32
    search_period: float = 0.5
    search_limit: float = 4.0
    verify_period: float = 1.0
    verify_strikes: int = 2
    verify_share: float = 0.2
    agreement: float = 0.5
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.max_objects <= 254:
            raise InputError(f"max_objects is {self.max_objects}; expected 1 to 254")
        if self.search_period <= 0:
            raise InputError(f"search_period is {self.search_period} s; expected more than 0")


class LiveTracker:
    """Follows what it is told to."""

    def __init__(self, model: Sa2VA, config: LiveConfig | None = None) -> None:
        self._model = model
        self._config = config or LiveConfig()
        tracker = TrackerConfig(
            max_objects=self._config.max_objects,
            max_conditioning=max(4, model.config.keyframes),
            gate_memory=True,
            min_quality=self._config.lifecycle.min_quality,
            reuse_embedding=model.config.sam2.object_score_gate,
        )
        self._tracker = OnlineTracker(model.grounder, tracker)
        self._judge = Judge(model.grounder, self._config.lifecycle)
        self._questioner = Questioner(model, background=self._config.background)
        self._ring = FrameRing(max(self._config.ring, model.config.keyframes), model.encode_image)
        self._lock = threading.Lock()
        self._commands: list[Callable[[Frame], None]] = []
        self._ids: set[str] = set()
        self._records: dict[str, Record] = {}
        self._events: list[Event] = []
        self._milliseconds: dict[str, float] = {}
        self._size: tuple[int, ...] | None = None
        self._question_seconds = 0.0

    # Commands, from any thread.

    def track(self, expression: str, *, track_id: str | None = None, replace: bool = False) -> str:
        """Finds and follows what `expression` names, from the next frame on.

        Args:
            track_id: a name for it; None = made from the words.
            replace: stop all other tracks.

        Returns:
            The track's id.

        Raises:
            InputError: the expression is empty or too long.
        """
        words = prompts.clean_expression(expression)
        name = self._new_id(track_id or words)
        self._command(lambda frame: self._start_spoken(name, words, replace, frame))
        return name

    def prompt(
        self,
        *,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: Sequence[float] | None = None,
        mask: np.ndarray | None = None,
        label: str = "",
        track_id: str | None = None,
    ) -> str:
        """Follows what is pointed at on the next frame; an existing `track_id` is corrected.

        Args:
            points: [N, 2] x and y in pixels, with `labels` [N]: 1 = on the object, 0 = not on it.
            box: x0, y0, x1, y1 in pixels.
            mask: bool [H, W].

        Returns:
            The track's id.

        Raises:
            InputError: not exactly one of points, box and mask, or labels that do not fit.
        """
        if sum(given is not None for given in (points, box, mask)) != 1:
            raise InputError("prompt: expected exactly one of points, box and mask")
        if points is not None:
            points = np.asarray(points, np.float32).reshape(-1, 2)
            labels = np.ones(len(points), int) if labels is None else np.asarray(labels, int)
            if len(labels) != len(points) or not len(points):
                raise InputError(
                    f"prompt: {len(points)} points and {len(labels)} labels; expected as many"
                )
        corners = None if box is None else tuple(float(v) for v in box)
        if corners is not None and len(corners) != 4:
            raise InputError(f"prompt: box is {corners}; expected x0, y0, x1, y1")
        with self._lock:
            known = track_id is not None and track_id in self._ids
        name = track_id if known and track_id else self._new_id(track_id or label or "object")

        def start(frame: Frame) -> None:
            self._start_prompted(
                name, label, frame, points=points, labels=labels, box=corners, mask=mask
            )

        self._command(start)
        return name

    def stop(self, track_id: str | None = None) -> int:
        """Stops one track, or all; the number of tracks stopped."""
        with self._lock:
            names = [name for name in self._ids if track_id in (None, name)]
            self._ids.difference_update(names)
        for name in names:
            self._command(lambda frame, name=name: self._end(name, frame, "asked to stop"))  # type: ignore[misc]
        return len(names)

    def _command(self, action: Callable[[Frame], None]) -> None:
        with self._lock:
            self._commands.append(action)

    def _new_id(self, words: str) -> str:
        """A free name made of the words, safe as a file name and as a topic's value."""
        slug = re.sub(r"[^a-z0-9]+", "_", re.sub(r"^(the|a|an)\s+", "", words.lower())).strip("_")[
            :40
        ]
        with self._lock:
            name, number = slug or "object", 2
            while name in self._ids:
                name, number = f"{slug or 'object'}_{number}", number + 1
            self._ids.add(name)
        return name

    # Frames, from one thread.

    @torch.inference_mode()
    def process(self, frame: Frame) -> FrameResult:
        """One frame.

        Raises:
            InputError: the frame is no uint8 RGB image, or its size differs from the stream's. The tracks live on.
        """
        images.check_rgb(frame.rgb, f"frame {frame.index}")
        if self._size is not None and frame.rgb.shape != self._size:
            (h, w), (gh, gw) = self._size[:2], frame.rgb.shape[:2]
            raise InputError(f"frame {frame.index}: size is {gw}x{gh}; expected {w}x{h} as before")
        self._size = frame.rgb.shape
        self._milliseconds = {}
        start = time.perf_counter()
        newest = self._ring.append(frame)
        with self._lock:
            commands, self._commands = self._commands, []
        if not self._records and not commands:
            height, width = frame.rgb.shape[:2]
            return FrameResult(frame.stamp, frame.index, height, width, ())
        features = newest.features
        self._lap("encode", start)
        for command in commands:
            command(frame)
        for answered in self._questioner.answers():
            self._answered(answered, frame)
        start = time.perf_counter()
        seen = self._tracker.step(features)
        self._lap("track", start)
        tracks = [
            self._track(record, seen.get(record.id), frame)
            for record in list(self._records.values())
        ]
        self._drop_finished()
        self._ask_again(frame)
        events, self._events = tuple(self._events), []
        height, width = frame.rgb.shape[:2]
        return FrameResult(
            frame.stamp, frame.index, height, width, tuple(tracks), events, dict(self._milliseconds)
        )

    def reset(self, reason: str) -> None:
        """Forgets frames, tracks and memory, as when time jumps back; the next result carries the event."""
        with self._lock:
            self._commands.clear()
            self._ids.clear()
        self._questioner.forget()
        for name in list(self._records):
            self._tracker.remove(name)
        self._records.clear()
        self._ring.clear()
        self._size = None

        def tell(frame: Frame) -> None:
            self._tell(EventKind.MEMORY_RESET, None, frame, reason)

        self._command(tell)

    def reconfigure(self, config: LiveConfig) -> None:
        """Takes over thresholds and periods at the next frame; `background`, `max_objects` and `ring` stay."""
        now = self._config
        changed = replace(
            config, background=now.background, max_objects=now.max_objects, ring=now.ring
        )

        def take_over(frame: Frame) -> None:
            self._config = changed
            self._judge = Judge(self._model.grounder, changed.lifecycle)
            for record in self._records.values():
                if record.life is not None:
                    record.life.reconfigure(changed.lifecycle)

        self._command(take_over)

    def close(self, timeout: float = 30.0) -> bool:
        """Ends the thread of the language model; False if it works for longer than `timeout` seconds."""
        return self._questioner.close(timeout)

    def _lap(self, stage: str, start: float) -> None:
        spent = (time.perf_counter() - start) * 1e3
        self._milliseconds[stage] = self._milliseconds.get(stage, 0.0) + spent

    def _tell(
        self,
        kind: EventKind,
        record: Record | None,
        frame: Frame,
        detail: str = "",
        score: float = 0.0,
    ) -> None:
        name, words = (record.id, record.expression) if record else ("", "")
        self._events.append(Event(kind, name, words, frame.stamp, frame.index, score, detail))

    # Starting and ending tracks.

    def _new_record(self, name: str, words: str, frame: Frame, *, spoken: bool) -> Record | None:
        used = {record.mask_value for record in self._records.values()}
        record = Record(name, words, next(v for v in range(1, 256) if v not in used), spoken)
        if len(self._records) >= self._config.max_objects:
            self._tell(
                EventKind.FAILED,
                record,
                frame,
                f"{len(self._records)} objects are tracked; max_objects is {self._config.max_objects}",
            )
            with self._lock:
                self._ids.discard(name)
            return None
        self._records[name] = record
        self._tell(EventKind.STARTED, record, frame)
        return record

    def _start_spoken(self, name: str, words: str, replace: bool, frame: Frame) -> None:
        if replace:
            for other in list(self._records):
                self._end(other, frame, f"replaced by {name!r}")
            self._drop_finished()
        record = self._new_record(name, words, frame, spoken=True)
        if record is not None:
            self._ask(record, frame, "find")

    def _start_prompted(
        self,
        name: str,
        label: str,
        frame: Frame,
        *,
        points: np.ndarray | None,
        labels: np.ndarray | None,
        box: tuple[float, ...] | None,
        mask: np.ndarray | None,
    ) -> None:
        record = self._records.get(name) or self._new_record(name, label, frame, spoken=False)
        if record is None:
            return
        try:
            prompt = visual_prompt(
                frame.rgb.shape, points=points, labels=labels, box=box, mask=mask
            )
            self._tracker.add(name, prompt)
        except InputError as error:
            self._fail(record, frame, str(error))
            return
        self._found(record, frame.stamp, frame, label)

    def _end(self, name: str, frame: Frame, why: str) -> None:
        record = self._records.get(name)
        if record is not None and record.state != TrackState.STOPPED:
            record.state, record.life = TrackState.STOPPED, None
            self._questioner.forget(name)
            self._tracker.remove(name)
            self._tell(EventKind.STOPPED, record, frame, why)

    def _fail(self, record: Record, frame: Frame, why: str) -> None:
        self._tell(EventKind.FAILED, record, frame, why)
        if record.life is None:
            record.state = TrackState.STOPPED

    def _drop_finished(self) -> None:
        """Stopped tracks and those not found are shown once."""
        finished = (TrackState.STOPPED, TrackState.NOT_FOUND)
        for name in [n for n, record in self._records.items() if record.state in finished]:
            del self._records[name]
            self._tracker.remove(name)
            with self._lock:
                self._ids.discard(name)

    # The language model.

    def _ask(self, record: Record, frame: Frame, purpose: str) -> None:
        record.asked = True
        keyframes = self._ring.latest(self._model.config.keyframes)
        question = Question(
            record.id,
            record.expression,
            [item.frame.rgb for item in keyframes],
            keyframes[0].frame.index,
            frame.index,
            frame.stamp,
            purpose,
        )
        self._questioner.ask(question)

    def _ask_again(self, frame: Frame) -> None:
        """Searches for lost objects and checks tracked ones when their time has come."""
        for record in self._records.values():
            if not record.spoken or record.asked or record.life is None:
                continue
            if frame.stamp < record.next_question:
                continue
            if record.state == TrackState.LOST:
                record.wait = min(record.wait * 1.5, self._config.search_limit)
                record.next_question = frame.stamp + record.wait
                self._ask(record, frame, "search")
            elif record.state == TrackState.TRACKING and self._config.verify_period > 0:
                record.next_question = frame.stamp + self._pause()
                self._ask(record, frame, "verify")

    def _pause(self) -> float:
        """Seconds between two checks of one track."""
        spoken = sum(record.spoken for record in self._records.values())
        needed = spoken * self._question_seconds / self._config.verify_share
        return max(self._config.verify_period, needed)

    def _answered(self, answered: Answered, frame: Frame) -> None:
        question = answered.question
        record = self._records.get(question.track_id)
        self._milliseconds["ground"] = self._milliseconds.get("ground", 0.0) + answered.milliseconds
        self._question_seconds = answered.milliseconds / 1e3
        if record is None or record.expression != question.expression:
            return
        if record.state == TrackState.STOPPED:
            return
        record.asked = False
        prompt, reason = None, answered.error
        if answered.reply is not None:
            if answered.reply.found:
                prompt = Prompt(embedding=answered.reply.embeddings[0].clone())
            reason = answered.reply.text
        if question.purpose == "verify":
            self._verified(record, prompt, question, frame)
        elif answered.error:
            self._fail(record, frame, answered.error)
        elif prompt is None or self._glance(prompt, question) is None:
            if question.purpose == "find":
                record.state = TrackState.NOT_FOUND
                self._tell(EventKind.NOT_FOUND, record, frame, reason)
        else:
            self._catch_up(record, prompt, question, frame)
            record.confirmed = True
            if question.purpose == "find":
                self._found(record, question.stamp, frame, reason)
            else:
                record.last_keyframe, record.strikes = question.stamp, 0

    def _found(self, record: Record, keyframe: float, frame: Frame, label: str) -> None:
        record.label, record.last_keyframe = label, keyframe
        if record.life is None:
            record.first_seen = keyframe
            record.life = Lifecycle(self._config.lifecycle, frame.stamp)
            record.state = TrackState.TRACKING
            record.next_question = frame.stamp + self._pause()
            record.wait = self._config.search_period
            self._tell(EventKind.FOUND, record, frame, label)

    def _glance(self, prompt: Prompt, question: Question) -> Observation | None:
        """What SAM-2 sees where the language model points, on the question's newest keyframe; None = nothing."""
        item = self._ring.at(question.frame_index) or self._ring.newest()
        return None if item is None else self._judge.glance(prompt, item.features)

    def _catch_up(self, record: Record, prompt: Prompt, question: Question, frame: Frame) -> None:
        """Prompts the keyframes and replays the frames between them and this one.

        Keyframes that have left the ring are left out; without any, this frame is prompted.
        """
        kept = (
            self._ring.since(question.first_index) or self._ring.since(question.frame_index) or []
        )
        prompted = sum(item.frame.index <= question.frame_index for item in kept)
        self._tracker.add(record.id, prompt, frames=max(prompted, 1))
        for item in kept:
            if item.frame.index < frame.index:
                self._tracker.step(item.features, only=[record.id])

    def _verified(
        self, record: Record, prompt: Prompt | None, question: Question, frame: Frame
    ) -> None:
        """Compares what memory follows with what the words mean now.

        The same: the keyframe becomes a new conditioning frame. Nothing there, repeatedly: the mask is taken away.
        Something else, repeatedly: memory has drifted; it is forgotten and starts again from the words.
        """
        if record.state != TrackState.TRACKING or record.life is None:
            return
        glance = None if prompt is None else self._glance(prompt, question)
        if prompt is None or glance is None:
            record.strikes += 1
            record.next_question = frame.stamp + self._pause() / 3
            return
        record.strikes = 0
        followed = record.view(question.frame_index)
        if followed is None:
            return
        if overlap(glance.logits > 0, followed) < self._config.agreement:
            record.doubts += 1
            record.next_question = frame.stamp + self._pause() / 3
            if record.doubts < self._config.verify_strikes:
                return
            self._tracker.remove(record.id)
            self._tell(EventKind.REGROUNDED, record, frame, "memory had drifted from the words")
        record.doubts, record.last_keyframe = 0, question.stamp
        self._catch_up(record, prompt, question, frame)

    # What a frame showed.

    def _track(self, record: Record, seen: Observation | None, frame: Frame) -> Track:
        record.age += 1
        if record.life is None:
            return record.report(None, 0.0)
        shown = seen is not None and self._judge.trusts(seen)
        if seen is not None and record.spoken:
            record.views.append((frame.index, seen.logits > 0))
        if record.strikes >= self._config.verify_strikes:
            shown = False
        score = self._judge.score(seen) if seen is not None else 0.0
        sure = record.confirmed or not record.spoken
        happened = record.life.update(frame.stamp, seen=shown, confirmed=sure)
        record.confirmed = False
        record.state = record.life.state
        if happened is not None:
            kind, why = happened
            self._tell(kind, record, frame, why, score)
            if kind == EventKind.LOST:
                record.next_question, record.wait = frame.stamp, self._config.search_period
            elif kind == EventKind.REACQUIRED:
                record.strikes = 0
                record.next_question = frame.stamp + self._pause()
        mask = None
        if shown and seen is not None and record.state == TrackState.TRACKING:
            mask = self._judge.mask(seen, *frame.rgb.shape[:2])
        return record.report(mask, score)
