# SPDX-License-Identifier: Apache-2.0
"""What a robot must survive: each fault ends in a clear state, and the other tracks go on."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.types import ImageFeatures
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import Event, EventKind, FrameResult, Reason, TrackState

QUIET = LiveConfig(verify_period=0)
BESIDE = LiveConfig(background=True, verify_period=0)


def events(results: Sequence[FrameResult]) -> list[Event]:
    return [event for result in results for event in result.events]


def kinds(results: Sequence[FrameResult]) -> list[str]:
    return [event.kind.name for event in events(results)]


def process_until(
    live: LiveTracker, clip: Sequence[Frame], done: Callable[[FrameResult], bool]
) -> FrameResult:
    """Frames until something is so."""
    pause = threading.Event()
    for number in range(1000):
        frame = replace(clip[number % len(clip)], index=number, stamp=number / 10)
        result = live.process(frame)
        if done(result):
            return result
        pause.wait(0.01)
    raise AssertionError("timed out")


def state_of(result: FrameResult, name: str) -> TrackState | None:
    return next((track.state for track in result.tracks if track.id == name), None)


class Mortal(Sa2VA):
    """Its first answer kills the thread that asks."""

    asked: int

    def ground(self, *args: object, **options: object) -> object:  # type: ignore[override]
        """Dies once."""
        self.asked += 1
        if self.asked == 1:
            raise SystemExit("killed")
        return super().ground(*args, **options)  # type: ignore[arg-type]


def made(kind: type[Sa2VA]) -> Sa2VA:
    model = nano_model()
    model.__class__ = kind
    return model


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_grounding_thread_is_replaced() -> None:
    model = made(Mortal)
    model.asked = 0  # type: ignore[assignment]
    live = LiveTracker(model, BESIDE)
    clip = noisy_clip(6)
    try:
        live.prompt(box=(5, 5, 25, 25), label="box")
        live.track("the mug")
        failed = process_until(live, clip, lambda r: EventKind.FAILED in {e.kind for e in r.events})
        (event,) = [e for e in failed.events if e.kind == EventKind.FAILED]
        assert event.track_id == "mug"
        assert event.reason == Reason.MODEL
        assert "thread of the language model died" in event.detail
        assert state_of(failed, "mug") == TrackState.STOPPED
        assert state_of(failed, "box") == TrackState.TRACKING
        assert live.questions.restarts == 1
        live.track("the ball")
        process_until(live, clip, lambda r: state_of(r, "ball") == TrackState.TRACKING)
    finally:
        assert live.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_killed_from_outside_is_replaced_too() -> None:
    others = set(threading.enumerate())
    live = LiveTracker(nano_model(), BESIDE)
    (thread,) = set(threading.enumerate()) - others
    clip = noisy_clip(6)
    try:
        live.process(clip[0])
        assert thread.ident is not None
        killed = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
        )
        assert killed == 1
        live.track("the mug")
        live.process(clip[1])  # wakes it: the exception arrives
        thread.join(10)
        assert not thread.is_alive()
        # Whether the question went down with the thread or waits for the next one, a new sentence is answered.
        live.track("the ball")
        process_until(live, clip, lambda r: state_of(r, "ball") == TrackState.TRACKING)
        assert live.questions.restarts == 1
    finally:
        assert live.close()


class Hanging(Sa2VA):
    """Never answers while it is held."""

    gate: threading.Event

    def ground(self, *args: object, **options: object) -> object:  # type: ignore[override]
        """Waits."""
        self.gate.wait(20)
        return super().ground(*args, **options)  # type: ignore[arg-type]


def test_a_question_that_takes_too_long_fails() -> None:
    model = made(Hanging)
    model.gate = threading.Event()  # type: ignore[assignment]
    live = LiveTracker(model, replace(BESIDE, answer_limit=0.2))
    clip = noisy_clip(6)
    try:
        live.track("the mug")
        failed = process_until(live, clip, lambda r: EventKind.FAILED in {e.kind for e in r.events})
        assert "no answer within 0.2 s" in events([failed])[-1].detail
        assert state_of(failed, "mug") == TrackState.STOPPED
    finally:
        model.gate.set()
        live.close()


class Throwing(Sa2VA):
    """Its language model fails."""

    def ground(self, *args: object, **options: object) -> object:  # type: ignore[override]
        """Fails as an assertion of a library would."""
        raise KeyError("no such layer")


class Eyes(Vision):
    """Fails as long as it is told to."""

    fault = ""

    def encode(self, image: np.ndarray) -> ImageFeatures:
        """Fails as CUDA does, or answers with one value that is no number."""
        if self.fault == "throws":
            raise RuntimeError("CUDA error: device-side assert triggered")
        features = super().encode(image)
        if self.fault != "nan":
            return features
        top = features.top.clone()
        top[0, 0, 0, 0] = torch.nan
        return replace(features, top=top)


def with_eyes() -> tuple[LiveTracker, Eyes]:
    model = nano_model()
    eyes = Eyes(model)
    return LiveTracker(model, QUIET, vision=eyes), eyes


@pytest.mark.parametrize("background", [False, True])
def test_a_language_model_that_throws_fails_the_track_alone(background: bool) -> None:
    live = LiveTracker(made(Throwing), replace(QUIET, background=background))
    clip = noisy_clip(6)
    try:
        live.prompt(box=(5, 5, 25, 25), label="box")
        live.track("the mug")
        failed = process_until(live, clip, lambda r: EventKind.FAILED in {e.kind for e in r.events})
        (event,) = [e for e in failed.events if e.kind == EventKind.FAILED]
        assert event.detail == "KeyError: 'no such layer'"
        assert state_of(failed, "mug") == TrackState.STOPPED
        assert state_of(failed, "box") == TrackState.TRACKING
    finally:
        live.close()


def test_an_image_encoder_that_throws_costs_its_frames_alone() -> None:
    live, eyes = with_eyes()
    clip = noisy_clip(24)
    live.track("the mug")
    live.process(clip[0])
    eyes.fault = "throws"
    dark = [live.process(frame) for frame in clip[1:15]]
    assert kinds(dark) == ["FAILED", "OCCLUDED", "LOST"], "said once, and no mask is made up"
    assert "device-side assert" in events(dark)[0].detail
    assert all(result.tracks[0].mask is None for result in dark)
    eyes.fault = ""
    light = [live.process(frame) for frame in clip[15:]]
    assert "REACQUIRED" in kinds(light)
    assert light[-1].tracks[0].state == TrackState.TRACKING


def test_nan_features_are_not_remembered() -> None:
    """A frame without numbers leaves no trace: the masks after it are those of a run that never saw it."""
    clip = noisy_clip(8)
    healthy = LiveTracker(nano_model(), QUIET)
    healthy.prompt(box=(5, 5, 25, 25), label="box")
    expected = [healthy.process(frame) for frame in (*clip[:3], *clip[4:])]

    live, eyes = with_eyes()
    live.prompt(box=(5, 5, 25, 25), label="box")
    results = [live.process(frame) for frame in clip[:3]]
    eyes.fault = "nan"
    dark = live.process(clip[3])
    eyes.fault = ""
    results += [live.process(frame) for frame in clip[4:]]

    assert [(e.kind, e.reason) for e in dark.events] == [(EventKind.FAILED, Reason.MODEL)]
    assert "not finite" in dark.events[0].detail
    assert dark.tracks[0].mask is None
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.tracks[0].mask is not None
        assert theirs.tracks[0].mask is not None
        assert np.array_equal(ours.tracks[0].mask, theirs.tracks[0].mask)


def test_a_sentence_said_in_the_dark_is_asked_again() -> None:
    live, eyes = with_eyes()
    eyes.fault = "nan"
    clip = noisy_clip(4)
    live.track("the mug")
    dark = live.process(clip[0])
    assert state_of(dark, "mug") == TrackState.PENDING
    eyes.fault = ""
    results = [live.process(frame) for frame in clip[1:]]
    assert "FOUND" in kinds(results)
    assert state_of(results[-1], "mug") == TrackState.TRACKING


def test_an_object_larger_than_the_image() -> None:
    live = LiveTracker(nano_model(), QUIET)
    clip = noisy_clip(5)
    live.prompt(mask=np.ones((30, 40), bool), label="wall")
    live.prompt(box=(-500, -500, 900, 900), label="room")
    results = [live.process(frame) for frame in clip]
    first = {track.id: track for track in results[0].tracks}
    assert first["wall"].area == 30 * 40
    assert first["wall"].box == (0, 0, 40, 30)
    assert not [kind for kind in kinds(results) if kind == "FAILED"]
    assert {state_of(results[-1], "wall"), state_of(results[-1], "room")} == {TrackState.TRACKING}


def test_seventeen_objects_on_sixteen_slots() -> None:
    live = LiveTracker(nano_model(), replace(QUIET, max_objects=16))
    clip = noisy_clip(4)
    names = [live.track(f"the mug {n}") for n in range(17)]
    first = live.process(clip[0])
    (failed,) = [e for e in first.events if e.kind == EventKind.FAILED]
    assert (failed.track_id, failed.reason) == (names[16], Reason.LIMIT)
    assert failed.detail == "16 objects are tracked; max_objects is 16"
    assert {track.id for track in first.tracks} == set(names[:16])
    assert len({track.mask_value for track in first.tracks if track.mask_value}) == 16
    live.stop(names[3])
    live.process(clip[1])
    again = live.track("the mug 17")
    last = live.process(clip[2])
    assert state_of(last, again) == TrackState.TRACKING, "a slot that became free is used"
