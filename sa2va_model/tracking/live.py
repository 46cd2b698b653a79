# SPDX-License-Identifier: Apache-2.0
"""LiveTracker: sentences, clicks and boxes in; tracks and events for every frame out.

One thread calls `process` with frames; commands may come from any thread and take effect at the next frame. Frames do
not queue up here: the caller brings the newest one (the node's frame worker drops and counts the others). The language
model is asked beside (`language_updates.py`); what became of a track is judged in `frame_updates.py`. A model that
fails on a frame costs that frame, not the tracks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.io.frames import Frame
from sa2va_model.keyframes import Remembered
from sa2va_model.mllm import chat as prompts
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import Observation
from sa2va_model.segmentation.visual_prompts import visual_prompt
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.frame_updates import FrameUpdates
from sa2va_model.tracking.grounding_worker import Answered, QuestionCounts
from sa2va_model.tracking.language_updates import LanguageUpdates
from sa2va_model.tracking.parts import assemble
from sa2va_model.tracking.replay import usable
from sa2va_model.tracking.track_names import TrackNames
from sa2va_model.tracking.visibility_test import VisibilityTest
from sa2va_model.tracks import EventKind, FrameResult, Reason, TrackState

__all__ = ["LiveConfig", "LiveTracker"]


class LiveTracker:
    """Follows what it is told to.

    Args:
        names: gives the tracks' ids, none of them twice; None = its own. Trackers that follow each other in one session
            share theirs.
    """

    def __init__(
        self, model: Sa2VA, config: LiveConfig | None = None, names: TrackNames | None = None
    ) -> None:
        self._parts = assemble(model, config or LiveConfig(), names)
        self._register = self._parts.register
        self._words = LanguageUpdates(self._parts)
        self._watch = FrameUpdates(self._parts, self._words)
        self._milliseconds: dict[str, float] = {}
        self._size: tuple[int, ...] | None = None
        self._broken = ""  # why the last frame could not be used

    # Commands, from any thread.

    def track(self, expression: str, *, track_id: str | None = None, replace: bool = False) -> str:
        """Finds and follows what `expression` names, from the next frame on.

        Args:
            track_id: a name for it; None = made from the words. One that was used before gets a number.
            replace: stop all other tracks.

        Returns:
            The track's id.

        Raises:
            InputError: the expression is empty or too long.
        """
        words = prompts.clean_expression(expression)
        name = self._register.new_id(track_id or words, words)
        self._register.command(lambda frame: self._start_spoken(name, words, replace, frame))
        return name

    def resume(self, track_id: str, expression: str) -> None:
        """Goes on, from the words, with a track that ended or one of a tracker with the same `names`; as `track`."""
        words = prompts.clean_expression(expression)
        self._register.keep(track_id, words)
        self._register.command(lambda frame: self._start_spoken(track_id, words, False, frame))

    def spoken(self) -> dict[str, str]:
        """The expressions of the tracks that were named by words and are not over, by id."""
        return self._register.spoken()

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
        known = track_id is not None and self._register.knows(track_id)
        if not known or track_id is None:
            track_id = self._register.new_id(track_id or label or "object")
        name = track_id

        def start(frame: Frame) -> None:
            self._start_prompted(
                name, label, frame, points=points, labels=labels, box=corners, mask=mask
            )

        self._register.command(start)
        return name

    def stop(self, track_id: str | None = None) -> int:
        """Stops one track, or all; the number of tracks stopped."""
        names = self._register.release(track_id)
        for name in names:
            self._parts.questioner.forget(name)  # at once: the model works on it for nobody
            self._register.command(
                lambda frame, name=name: self._end(name, frame, Reason.ASKED, "asked to stop")  # type: ignore[misc]
            )
        return len(names)

    def reset(self, reason: str) -> None:
        """Forgets frames, tracks and memory, as when time jumps back; the next result carries the event."""
        parts = self._parts
        parts.questioner.forget()
        for name in list(self._register.records):
            parts.tracker.remove(name)
        self._register.clear()
        parts.ring.clear()
        self._size = None

        def tell(frame: Frame) -> None:
            self._register.tell(EventKind.MEMORY_RESET, None, frame, Reason.RESET, reason)

        self._register.command(tell)

    def reconfigure(self, config: LiveConfig) -> None:
        """Takes over thresholds and periods at the next frame; what sizes and threads depend on stays."""
        parts, now = self._parts, self._parts.config
        changed = replace(
            config,
            background=now.background,
            max_objects=now.max_objects,
            ring=now.ring,
            replay_periods=now.replay_periods,
            answer_limit=now.answer_limit,
            trust=now.trust,
            calibration=now.calibration,
        )

        def take_over(frame: Frame) -> None:
            parts.config = changed
            parts.judge = VisibilityTest(parts.vision.follower, changed.lifecycle)
            for record in self._register.records.values():
                if record.life is not None:
                    record.life.reconfigure(changed.lifecycle)

        self._register.command(take_over)

    def close(self, timeout: float = 30.0) -> bool:
        """Ends the thread of the language model; False if it works for longer than `timeout` seconds."""
        return self._parts.questioner.close(timeout)

    @property
    def questions(self) -> QuestionCounts:
        """What became of the questions to the language model."""
        return self._parts.questioner.counts

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
        newest = self._parts.ring.append(frame)
        commands = self._register.take_commands()
        height, width = frame.rgb.shape[:2]
        if not self._register.records and not commands:
            self._parts.questioner.answers()
            return FrameResult(
                frame.stamp, frame.index, height, width, (), companion=frame.companion
            )
        seen = self._see(newest, commands, frame)
        evidence = self._parts.trust.evidence.tolist() if seen else []
        tracks = []
        for record in list(self._register.records.values()):
            shown = seen.get(record.id)
            own = math.nan if shown is None else evidence[self._parts.tracker.row(record.id)]
            tracks.append(self._watch.track(record, shown, own, frame))
        self._drop_finished()
        if not self._broken:
            self._words.ask_again(frame)
        return FrameResult(
            frame.stamp,
            frame.index,
            height,
            width,
            tuple(tracks),
            self._register.take_events(),
            dict(self._milliseconds),
            companion=frame.companion,
        )

    def _see(
        self, newest: Remembered, commands: Sequence[object], frame: Frame
    ) -> dict[str, Observation]:
        """Encodes, obeys, takes answers and steps; nothing if the model fails on this frame."""
        parts, why = self._parts, ""
        seen: dict[str, Observation] = {}
        try:
            start = time.perf_counter()
            if not usable(newest.features):
                why = "the image features are not finite numbers"
            self._lap("encode", start)
        except Exception as error:  # noqa: BLE001  whatever a model throws, the stream goes on
            why = f"{type(error).__name__}: {error}"
        for command in commands:
            command(frame)  # type: ignore[operator]
        for answered in parts.questioner.answers():
            self._lap("ground", time.perf_counter() - answered.milliseconds / 1e3)
            if why:
                self._later(answered.question.track_id, frame)
            else:
                self._take(answered, frame)
        try:
            if not why:
                start = time.perf_counter()
                if parts.config.trust.motion:
                    parts.trust.camera_moves = parts.camera.update(frame.rgb)
                back = self._watch.look_for_lost(frame)
                seen = parts.tracker.step(newest.features, only=[*self._watch.stepped(), *back])
                self._lap("track", start)
        except Exception as error:  # noqa: BLE001  as above
            why, seen = f"{type(error).__name__}: {error}", {}
        if why and not self._broken:
            self._register.tell(EventKind.FAILED, None, frame, Reason.MODEL, why)
        self._broken = why
        return seen

    def _take(self, answered: Answered, frame: Frame) -> None:
        """An answer; if the model fails on what follows from it, so does the track that waits for it."""
        try:
            self._words.take(answered, frame)
        except Exception as error:  # noqa: BLE001  as above
            record = self._register.records.get(answered.question.track_id)
            if record is not None:
                why = f"{type(error).__name__}: {error}"
                self._register.fail(record, frame, Reason.MODEL, why)

    def _later(self, track_id: str, frame: Frame) -> None:
        """An answer came on a frame that cannot be used: the question is put again."""
        record = self._register.records.get(track_id)
        if record is None:
            return
        record.asked = False
        if record.life is None:
            self._words.ask(record, frame, "find")

    def _lap(self, stage: str, start: float) -> None:
        spent = (time.perf_counter() - start) * 1e3
        self._milliseconds[stage] = self._milliseconds.get(stage, 0.0) + spent

    # Starting and ending tracks.

    def _start_spoken(self, name: str, words: str, replace: bool, frame: Frame) -> None:
        if replace:
            for other in list(self._register.records):
                self._end(other, frame, Reason.REPLACED, f"replaced by {name!r}")
            self._drop_finished()
        record = self._register.add(name, words, frame, spoken=True)
        if record is not None:
            self._words.ask(record, frame, "find")

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
        record = self._register.records.get(name)
        record = record or self._register.add(name, label, frame, spoken=False)
        if record is None:
            return
        try:
            prompt = visual_prompt(
                frame.rgb.shape, points=points, labels=labels, box=box, mask=mask
            )
            self._parts.tracker.add(name, prompt)
        except InputError as error:
            self._register.fail(record, frame, Reason.INPUT, str(error))
            return
        record.embedding = None
        self._words.found(record, frame.stamp, frame, label)

    def _end(self, name: str, frame: Frame, reason: Reason, why: str) -> None:
        record = self._register.records.get(name)
        if record is not None and record.state != TrackState.STOPPED:
            record.state, record.life = TrackState.STOPPED, None
            self._parts.questioner.forget(name)
            self._parts.tracker.remove(name)
            self._register.tell(EventKind.STOPPED, record, frame, reason, why)

    def _drop_finished(self) -> None:
        """Stopped tracks and those not found are shown once."""
        for name in self._register.finished():
            self._parts.tracker.remove(name)
