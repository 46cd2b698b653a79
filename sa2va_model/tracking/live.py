# SPDX-License-Identifier: Apache-2.0
"""LiveTracker: sentences, clicks and boxes in; tracks and events for every frame out.

One thread calls `process` with frames; commands may come from any thread and take effect at the next frame. Frames do
not queue up here: the caller brings the newest one (the node's frame worker drops and counts the others). The language
model is asked beside (`language_updates.py`); what becomes of a track is judged in `frame_updates.py`. A model that
fails on a frame costs that frame, not the tracks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.io.frames import Frame
from sa2va_model.io.given import ImageLike, as_image
from sa2va_model.mllm import chat as prompts
from sa2va_model.regions import Region
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import Observation, TrackerConfig
from sa2va_model.segmentation.visual_prompts import check_mask, visual_prompt
from sa2va_model.segmentation_half import SegmentingModel
from sa2va_model.tracking.by_example.example import ObjectExample, ObjectView
from sa2va_model.tracking.by_example.search import ExampleSearch
from sa2va_model.tracking.by_example.seen import SeenViews
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.frame_ring import FrameRing, RingFrame
from sa2va_model.tracking.frame_updates import FrameUpdates
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingService,
    GroundingWorker,
    Purpose,
    QuestionCounts,
    Questioner,
)
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.instances import InstanceGroups, one_of
from sa2va_model.tracking.judgement.evidence import weigh
from sa2va_model.tracking.judgement.memory_gate import EvidenceModel, MemoryGate
from sa2va_model.tracking.judgement.motion import CameraMotion
from sa2va_model.tracking.judgement.visibility_test import EmbeddingProbe, VisibilityTest
from sa2va_model.tracking.language_updates import LanguageUpdates
from sa2va_model.tracking.replay import Replay
from sa2va_model.tracking.track_names import TrackNames
from sa2va_model.tracking.track_table import Command, TrackTable
from sa2va_model.tracks import EventKind, FrameResult, Reason

__all__ = ["LiveConfig", "LiveTracker"]

DISTRACTOR_SLOTS = 3


class LiveTracker:
    """Follows what it is told to.

    Args:
        model: the whole model, or with `grounding` the segmentation half.
        names: gives the tracks' ids, none of them twice; None = its own. Trackers that follow each other in one session
            share theirs.
        vision: encodes, finds and follows; None = the model's own, as `config.propagation` says.
        grounding: answers the questions; None = the model, on its own thread with `config.background`.
        weigh: the evidence of masks.
    """

    def __init__(
        self,
        model: SegmentingModel,
        config: LiveConfig | None = None,
        names: TrackNames | None = None,
        *,
        vision: Vision | None = None,
        grounding: GroundingService | None = None,
        weigh: EvidenceModel = weigh,
    ) -> None:
        config = config or LiveConfig()
        calibration = config.calibration or model.calibration
        keyframes, eyes = model.config.keyframes, vision or Vision(model, config.propagation)
        gate = MemoryGate(eyes.follower, config.max_objects, calibration, config.gate, weigh)
        settings = TrackerConfig(
            max_objects=config.max_objects,
            max_conditioning=max(4, keyframes),
            distractor_slots=DISTRACTOR_SLOTS if config.gate.distractors else 0,
            reuse_embedding=model.config.sam2.object_score_gate,
        )
        self._config, self._gate = config, gate
        self._camera = CameraMotion() if config.gate.motion else None
        self._encodes_ahead = eyes.follower.traits.encodes_ahead
        self._tracker = eyes.tracker(settings, gate)
        self._tracker.warm_up()
        self._ring = FrameRing(max(config.ring, keyframes), eyes.encode)
        self._table = TrackTable(config.max_objects, names)
        self._visibility = VisibilityTest(eyes.follower, config.visibility)
        self._grounding = grounding or _ask_on_board(model, config)
        probe = EmbeddingProbe(eyes, gate, self._visibility)
        periods = config.replay_periods if config.background else None
        replay = Replay(self._tracker, self._ring, periods)
        self._words = LanguageUpdates(
            config,
            calibration,
            self._table,
            grounding=self._grounding,
            probe=probe,
            tracker=self._tracker,
            ring=self._ring,
            replay=replay,
            keyframes=keyframes,
        )
        self._instances = InstanceGroups(
            config,
            self._table,
            grounding=self._grounding,
            vision=eyes,
            visibility=self._visibility,
            ring=self._ring,
            replay=replay,
            begin=self._words.begin,
            confirmed=calibration.confirmed,
        )
        self._frames = FrameUpdates(
            config,
            calibration,
            self._table,
            tracker=self._tracker,
            probe=probe,
            visibility=self._visibility,
            pause=self._words.pause,
        )
        self._examples = ExampleSearch(
            config,
            self._table,
            grounding=self._grounding,
            ring=self._ring,
            replay=replay,
            begin=self._words.begin,
        )
        self._questioners: tuple[Questioner, ...] = (self._examples, self._instances, self._words)
        self._seen = SeenViews()
        self._milliseconds: dict[str, float] = {}
        self._size: tuple[int, ...] | None = None
        self._broken = ""  # why the last frame could not be used

    # Commands, from any thread.

    def track(self, expression: str, *, track_id: str | None = None, replace: bool = False) -> str:
        """Find and follow what `expression` names, from the next frame on.

        "every cup" and "all cups" become a track for each of them, up to `config.max_instances`: the first has the
        returned id, the others are numbered like it, and all have the same expression.

        With `config.merge_duplicates`, the words of a track that lives mean that track: its id is returned, and the
        language model looks again at once.

        Args:
            track_id: a name for it; None = made from the words. One that was used for something else gets a number.
            replace: stop all other tracks.

        Returns:
            The track's id.

        Raises:
            InputError: the expression is empty or too long.
        """
        words = prompts.clean_expression(expression)
        merge = self._config.merge_duplicates
        name, known = self._table.claim(words, track_id, merge=merge, one=one_of(words))

        def start(frame: Frame) -> None:
            if replace:
                self._end_others(name, frame)
            if known:
                self._ask_again(name, words, frame)
            else:
                self._start_spoken(name, words, frame)

        self._table.command(start)
        return name

    def resume(self, track_id: str, expression: str) -> None:
        """Go on, from the words, with a track that ended or one of a tracker with the same `names`; as `track`."""
        words = prompts.clean_expression(expression)
        self._table.keep(track_id, words)
        self._table.command(lambda frame: self._start_spoken(track_id, words, frame))

    def expressions(self) -> dict[str, str]:
        """Return the expressions of the tracks that were named by words and are not over, by id."""
        return self._table.expressions()

    def prompt(
        self,
        *,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: Sequence[float] | None = None,
        mask: np.ndarray | None = None,
        label: str = "",
        track_id: str | None = None,
        image: ImageLike | None = None,
    ) -> str:
        """Follow what is pointed at on the next frame; an existing `track_id` is corrected.

        With `image` it is pointed at on that picture, and looked for in the stream as `follow` does.

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
        if image is not None:
            clicks = () if points is None else tuple((float(x), float(y)) for x, y in points)
            marks = () if labels is None else tuple(int(mark) for mark in labels)
            mask = None if mask is None else check_mask(mask)
            view = ObjectView(as_image(image), Region(mask, corners, clicks, marks))  # type: ignore[arg-type]
            return self.follow(ObjectExample(label or "object", (view,)), track_id=track_id)
        name = self._claim(track_id, label or "object")

        def start(frame: Frame) -> None:
            self._start_prompted(
                name, label, frame, points=points, labels=labels, box=corners, mask=mask
            )

        self._table.command(start)
        return name

    def follow(self, example: ObjectExample, *, track_id: str | None = None) -> str:
        """Look in the stream for the object that an example shows, and follow it.

        Until something is found that looks like it the track is LOST and has no mask; when it is lost later, it is
        looked for again.

        Args:
            track_id: as in `prompt`; None = made of the example's name.

        Returns:
            The track's id.
        """
        name = self._claim(track_id, example.name)
        self._table.command(lambda frame: self._examples.start(name, example, frame))
        return name

    def example(self, track_id: str, name: str = "") -> ObjectExample:
        """Return what was seen of a track lately as an example, to be followed later or written to a file.

        Args:
            name: of the object; "" = the track's id.

        Raises:
            InputError: there is no such track, or it was not seen well enough so far.
        """
        views = self._seen.of(track_id)
        if not views:
            raise InputError(
                f"track {track_id!r}: was not seen well; expected one with a good mask"
            )
        return ObjectExample(name or track_id, views)

    def _claim(self, track_id: str | None, wish: str) -> str:
        """Return the id of a living track, or a new one."""
        if track_id is not None and self._table.knows(track_id):
            return track_id
        return self._table.new_id(track_id or wish)

    def stop(self, track_id: str | None = None) -> int:
        """Stop one track, or all; return how many."""
        names = self._table.release(track_id)
        for name in names:
            self._grounding.forget(name)  # at once: the model works on it for nobody
            self._table.command(
                lambda frame, name=name: self._end(name, frame, Reason.ASKED, "asked to stop")  # type: ignore[misc]
            )
        return len(names)

    def reset(self, reason: str) -> None:
        """Forget frames, tracks and memory, as when time jumps back; the next result carries the event."""
        self._grounding.forget()
        for record in self._table:
            self._tracker.remove(record.id)
        self._instances.forget()
        self._examples.forget()
        self._seen.clear()
        self._table.clear()
        self._ring.clear()
        self._size = None

        def tell(frame: Frame) -> None:
            self._table.tell(EventKind.MEMORY_RESET, None, frame, Reason.RESET, reason)

        self._table.command(tell)

    def reconfigure(self, config: LiveConfig) -> None:
        """Take over thresholds and periods at the next frame; what sizes and threads depend on stays."""
        now = self._config
        changed = replace(config, **{name: getattr(now, name) for name in LiveConfig.FIXED})

        def take_over(frame: Frame) -> None:
            self._config = changed
            self._visibility.reconfigure(changed.visibility)
            for user in (self._words, self._frames, self._instances, self._examples):
                user.reconfigure(changed)
            for record in self._table:
                record.reconfigure(changed.lifecycle)

        self._table.command(take_over)

    def close(self, timeout: float = 30.0) -> bool:
        """End the thread of the language model; False if it works for longer than `timeout` seconds."""
        return self._grounding.close(timeout)

    @property
    def questions(self) -> QuestionCounts:
        """What became of the questions to the language model."""
        return self._grounding.counts

    # Frames, from one thread.

    @torch.inference_mode()
    def encode_ahead(self, frame: Frame) -> RingFrame:
        """Encode a frame for `process`, from another thread, while that works on the frame before.

        Without tracks, or where the device does not gain by it, nothing is done yet.
        """
        item = self._ring.wrap(frame)
        if self._encodes_ahead and (len(self._table) or len(self._instances)):
            item.fault  # noqa: B018  looked at now, and kept
        return item

    @torch.inference_mode()
    def process(self, frame: Frame | RingFrame) -> FrameResult:
        """Follow all tracks on one frame, which may have been encoded ahead.

        Raises:
            InputError: the frame is no uint8 RGB image, or its size differs from the stream's. The tracks live on.
        """
        item = self._ring.wrap(frame)
        frame = item.frame
        self._check_size(frame)
        self._milliseconds = {}
        newest, commands = self._ring.append(item), self._table.take_commands()
        idle = not (len(self._table) or len(self._instances) or commands)
        for notice in self._grounding.notices():
            self._table.tell(notice.kind, None, frame, notice.reason, notice.detail)
        if idle:
            self._grounding.answers()
        seen = {} if idle else self._see(newest, commands)
        tracks = self._frames.judge(frame, seen)
        self._seen.update(frame, tracks)
        self._drop_ended()
        if not self._broken and not idle:
            self._words.ask_due(frame)
            self._instances.look_due(frame)
            self._examples.look_due(frame)
        height, width = frame.rgb.shape[:2]
        return FrameResult(
            frame.stamp,
            frame.index,
            height,
            width,
            tracks,
            self._table.take_events(),
            dict(self._milliseconds),
            companion=frame.companion,
        )

    def _check_size(self, frame: Frame) -> None:
        images.check_rgb(frame.rgb, f"frame {frame.index}")
        if self._size is not None and frame.rgb.shape != self._size:
            (h, w), (gh, gw) = self._size[:2], frame.rgb.shape[:2]
            raise InputError(f"frame {frame.index}: size is {gw}x{gh}; expected {w}x{h} as before")
        self._size = frame.rgb.shape

    def _see(self, newest: RingFrame, commands: Sequence[Command]) -> dict[str, Observation]:
        """Encode, obey, take answers and step; nothing is seen if the model fails on this frame."""
        frame, why = newest.frame, newest.fault
        self._milliseconds["encode"] = newest.seconds * 1e3
        for command in commands:
            command(frame)
        unusable: list[Answered] = []
        while answers := self._grounding.answers():  # some are followed by a question at once
            for answered in answers:
                self._lap("ground", time.perf_counter() - answered.milliseconds / 1e3)
                if why or answered.again:
                    unusable.append(answered)
                else:
                    self._take(answered, frame)
        # Not before: asked at once, it would be answered on this frame again, for ever.
        for answered in unusable:
            self._questioner(answered).again(answered, frame)
        seen: dict[str, Observation] = {}
        try:
            if not why:
                seen = self._step(newest)
        except Exception as error:  # noqa: BLE001  whatever a model throws, the stream goes on
            why = f"{type(error).__name__}: {error}"
        if why and not self._broken:
            self._table.tell(EventKind.FAILED, None, frame, Reason.MODEL, why)
        self._broken = why
        return seen

    def _step(self, newest: RingFrame) -> dict[str, Observation]:
        start = time.perf_counter()
        if self._camera is not None:
            self._gate.camera_moves = self._camera.update(newest.frame.rgb)
        followed = self._frames.to_step(newest.features)
        size = newest.frame.rgb.shape[0], newest.frame.rgb.shape[1]
        seen = self._tracker.step(newest.features, only=followed, size=size)
        self._lap("track", start)
        return seen

    def _take(self, answered: Answered, frame: Frame) -> None:
        """Take an answer; if the model fails on what follows from it, so does the track that waits for it."""
        try:
            self._questioner(answered).take(answered, frame)
        except Exception as error:  # noqa: BLE001  as above
            record = self._table.get(answered.question.track_id)
            if record is not None:
                why = f"{type(error).__name__}: {error}"
                self._table.fail(record, frame, Reason.MODEL, why)

    def _questioner(self, answered: Answered) -> Questioner:
        """Who put the question."""
        return next(one for one in self._questioners if one.takes(answered))

    def _lap(self, stage: str, start: float) -> None:
        spent = (time.perf_counter() - start) * 1e3
        self._milliseconds[stage] = self._milliseconds.get(stage, 0.0) + spent

    # Starting and ending tracks, from the thread of the frames.

    def _start_spoken(self, name: str, words: str, frame: Frame) -> None:
        one = one_of(words)
        record = self._table.add(name, words, frame, from_text=not one)
        if record is None:
            return
        if one:
            self._instances.start(name, one, frame)
        else:
            self._words.ask(record, frame, Purpose.FIND)

    def _ask_again(self, name: str, words: str, frame: Frame) -> None:
        """The words of a track that lives were said again; it may have ended since."""
        record = self._table.get(name)
        if record is None or record.ended:
            self._table.drop(name)
            self._table.keep(name, words)
            self._start_spoken(name, words, frame)
        elif name in self._instances:
            self._instances.start(name, one_of(words), frame)
        else:
            record.check_at(frame.stamp)

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
        record = self._table.get(name)
        record = record or self._table.add(name, label, frame, from_text=False)
        if record is None:
            return
        try:
            prompt = visual_prompt(
                frame.rgb.shape, points=points, labels=labels, box=box, mask=mask
            )
            self._tracker.add(name, prompt)
        except InputError as error:
            self._table.fail(record, frame, Reason.INPUT, str(error))
            return
        record.grounded(None, frame.stamp)
        self._words.begin(record, frame.stamp, frame, label)

    def _end_others(self, name: str, frame: Frame) -> None:
        kept = (name, *self._instances.members(name))
        for record in self._table:
            if record.id not in kept:
                self._end(record.id, frame, Reason.REPLACED, f"replaced by {name!r}", name)
        self._drop_ended()

    def _end(self, name: str, frame: Frame, reason: Reason, why: str, other_id: str = "") -> None:
        record = self._table.get(name)
        if record is not None and not record.ended:
            record.stopped()
            self._grounding.forget(name)
            self._instances.forget(name)
            self._examples.forget(name)
            self._tracker.remove(name)
            self._table.tell(EventKind.STOPPED, record, frame, reason, why, other_id=other_id)

    def _drop_ended(self) -> None:
        """Drop stopped tracks and those not found, which were shown once."""
        for name in self._table.drop_ended():
            self._tracker.remove(name)


def _ask_on_board(model: SegmentingModel, config: LiveConfig) -> GroundingWorker:
    if not isinstance(model, Sa2VA):
        raise InputError("the model has no language half; expected whoever answers as `grounding`")
    return GroundingWorker(model, background=config.background, limit=config.answer_limit)
