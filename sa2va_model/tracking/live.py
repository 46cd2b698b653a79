# SPDX-License-Identifier: Apache-2.0
"""LiveTracker: sentences, clicks and boxes in; tracks and events for every frame out.

One thread calls `process` with frames; commands (`commands.py`) may come from any thread and take effect at the next
frame. Frames do not queue up here: the caller brings the newest one (the node's frame worker drops and counts the
others). The language model is asked beside (`language_updates.py`); what becomes of a track is judged in
`frame_updates.py`. A model that fails on a frame costs that frame, not the tracks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.tracker import Observation, TrackerConfig
from sa2va_model.segmentation_half import SegmentingModel
from sa2va_model.tracking.by_example.search import ExampleSearch
from sa2va_model.tracking.commands import TrackCommands
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.frame_ring import FrameRing, RingFrame
from sa2va_model.tracking.frame_updates import FrameUpdates
from sa2va_model.tracking.grounding_worker import (
    Answered,
    GroundingService,
    GroundingWorker,
    QuestionCounts,
    Questioner,
)
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.instances.checks import MemberChecks
from sa2va_model.tracking.instances.groups import InstanceGroups
from sa2va_model.tracking.instances.start import InstanceStart
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


class LiveTracker(TrackCommands):
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
        self._gate = gate
        self._camera = CameraMotion() if config.gate.motion else None
        self._encodes_ahead = eyes.follower.traits.encodes_ahead
        tracker = eyes.tracker(settings, gate)
        tracker.warm_up()
        self._ring = FrameRing(max(config.ring, keyframes), eyes.encode)
        self._visibility = VisibilityTest(eyes.follower, config.visibility)
        table = TrackTable(config.max_objects, names)
        grounding = grounding or _ask_on_board(model, config)
        probe = EmbeddingProbe(eyes, gate, self._visibility)
        periods = config.replay_periods if config.background else None
        replay = Replay(tracker, self._ring, periods)
        words = LanguageUpdates(
            config,
            calibration,
            table,
            grounding=grounding,
            probe=probe,
            tracker=tracker,
            ring=self._ring,
            replay=replay,
            keyframes=keyframes,
        )
        start = InstanceStart(
            vision=eyes,
            visibility=self._visibility,
            ring=self._ring,
            replay=replay,
            agreement=config.agreement,
        )
        instances = InstanceGroups(
            config,
            table,
            grounding=grounding,
            vision=eyes,
            visibility=self._visibility,
            ring=self._ring,
            start=start,
            begin=words.begin,
            confirmed=calibration.confirmed,
        )
        self._members = MemberChecks(
            config,
            calibration,
            table,
            instances,
            grounding=grounding,
            vision=eyes,
            visibility=self._visibility,
            probe=probe,
            tracker=tracker,
            ring=self._ring,
            start=start,
        )
        examples = ExampleSearch(
            config,
            table,
            grounding=grounding,
            ring=self._ring,
            replay=replay,
            begin=words.begin,
        )
        super().__init__(
            config,
            table,
            grounding=grounding,
            tracker=tracker,
            words=words,
            instances=instances,
            examples=examples,
        )
        self._frames = FrameUpdates(
            config,
            calibration,
            table,
            tracker=tracker,
            probe=probe,
            visibility=self._visibility,
            pause=words.pause,
        )
        self._questioners: tuple[Questioner, ...] = (
            examples,
            self._members,
            instances,
            words,
        )
        self._milliseconds: dict[str, float] = {}
        self._size: tuple[int, ...] | None = None
        self._broken = ""  # why the last frame could not be used

    # The whole of it, from any thread.

    def reset(self, reason: str) -> None:
        """Forget frames, tracks and memory, as when time jumps back; the next result carries the event."""
        self._grounding.forget()
        for record in self._table:
            self._tracker.remove(record.id)
        self._instances.forget()
        self._members.forget()
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
            for user in (self._words, self._frames, self._instances, self._members, self._examples):
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
            self._members.ask_due(frame)
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
        apart = self._instances.in_view()
        rgb = newest.frame.rgb
        seen = self._tracker.step(newest.features, only=followed, picture=rgb, apart=apart)
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


def _ask_on_board(model: SegmentingModel, config: LiveConfig) -> GroundingWorker:
    if not isinstance(model, Sa2VA):
        raise InputError("the model has no language half; expected whoever answers as `grounding`")
    return GroundingWorker(model, background=config.background, limit=config.answer_limit)
