# SPDX-License-Identifier: Apache-2.0
"""A slow grounding: tracks go on meanwhile, and its first mask belongs to the newest frame."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import GroundingResult, Sa2VA
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.frame_ring import FrameRing
from sa2va_model.tracking.grounding_worker import GroundingQuestion, GroundingWorker, Purpose
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracking.replay import Replay
from sa2va_model.tracks import TrackState

PERIOD = 0.1  # seconds between two images of the camera
SLOW = 2.0


class Slow(Sa2VA):
    """Takes two seconds to answer."""

    def ground(
        self, frames: Sequence[np.ndarray], expression: str, **options: object
    ) -> GroundingResult:  # type: ignore[override]
        """The answer, later."""
        reply = super().ground(frames, expression)
        time.sleep(SLOW)
        return reply


def test_a_grounding_of_two_seconds_disturbs_nobody() -> None:
    model = nano_model()
    model.__class__ = Slow
    live = LiveTracker(model, LiveConfig(background=True, verify_period=0))
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (64, 30, 40, 3), dtype=np.uint8)
    pictures[:] = pictures[0]
    live.prompt(box=(5, 5, 25, 25), label="box")
    live.process(Frame(pictures[0], 0.0, 0))
    live.track("the mug")
    begun, last, meanwhile = time.monotonic(), 0, 0
    try:
        while time.monotonic() - begun < 20:
            newest = 1 + int((time.monotonic() - begun) / PERIOD)
            if newest == last:
                time.sleep(0.002)
                continue
            last = newest
            own = time.thread_time()
            result = live.process(Frame(pictures[newest % 64], newest * PERIOD, newest))
            states = {track.id: track for track in result.tracks}
            assert states["box"].state == TrackState.TRACKING
            if states["mug"].mask is not None:
                break
            meanwhile += 1
        # Its frame was the newest when work on it began: at most one period old. From there processor time counts,
        # so that a busy machine does not spoil the test.
        age = 1.0 + (time.thread_time() - own) / PERIOD
    finally:
        live.close()
    assert states["mug"].mask is not None
    assert result.index == newest
    assert age <= 3.0, f"the first mask was {age:.1f} frame periods old"
    assert meanwhile >= 5, f"{meanwhile} frames in {SLOW} s"


def ring_of(model: Sa2VA, count: int) -> FrameRing:
    rng = np.random.default_rng(0)
    ring = FrameRing(count, model.encode_image)
    for i in range(count):
        ring.append(Frame(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), i * PERIOD, i))
    return ring


@pytest.mark.parametrize(
    ("periods", "seconds", "most"),
    [(None, 1.0, 29), (1.0, 0.01, 10), (1.0, 0.02, 5), (1.0, 0.5, 1), (3.0, 0.1, 3)],
)
def test_a_replay_takes_no_longer_than_it_may(
    periods: float | None, seconds: float, most: int
) -> None:
    """Thirty frames to catch up: as many as fit, evenly, the last one always among them."""
    model = nano_model()
    ring, tracker = ring_of(model, 30), OnlineTracker(model.sam2)
    replay = Replay(tracker, ring, periods, seconds)
    stepped: list[int] = []
    places = {id(ring.at(i).features): i for i in range(30)}  # type: ignore[union-attr]
    step = tracker.step

    def spy(features: object, only: object = None) -> object:
        stepped.append(places[id(features)])
        return step(features, only=only)  # type: ignore[arg-type]

    tracker.step = spy  # type: ignore[method-assign,assignment]
    question = GroundingQuestion("a", "the mug", [], 0, 0, 0.0, Purpose.FIND)
    with torch.inference_mode():
        replay.catch_up("a", Prompt(embedding=torch.zeros(32)), question, 29)
    assert stepped[0] == 0, "the keyframe is prompted"
    later = stepped[1:]
    assert later[-1] == 28
    assert len(later) <= most
    assert len(set(np.diff(later).tolist())) <= 1
    assert replay.skipped == 28 - len(later)


def test_a_question_older_than_the_ring_prompts_the_newest_frame() -> None:
    model = nano_model()
    ring, tracker = FrameRing(4, model.encode_image), OnlineTracker(model.sam2)
    rng = np.random.default_rng(0)
    for i in range(8):
        ring.append(Frame(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), i / 10, i))
    newest = ring.newest()
    assert newest is not None
    question = GroundingQuestion("a", "the mug", [], 0, 0, 0.0, Purpose.FIND)
    with torch.inference_mode():
        replay = Replay(tracker, ring, None)
        assert replay.keyframe(question) is newest
        assert replay.catch_up("a", Prompt(embedding=torch.zeros(32)), question, 7) == 0
        seen = tracker.step(newest.features)
    assert seen["a"].prompted


@pytest.mark.parametrize("background", [True, False])
def test_checks_of_a_robots_tracks_come_together(background: bool) -> None:
    """A picture is looked at once for all of them; a file's tracks are checked each in its own time."""
    model = nano_model()
    asked: list[GroundingQuestion] = []

    class Noting(GroundingWorker):
        def ask(self, question: GroundingQuestion) -> None:
            asked.append(question)
            super().ask(question)

    config = LiveConfig(background=background, verify_period=0.6, agreement=0.0)
    live = LiveTracker(model, config, grounding=Noting(model, background=False))
    for i, frame in enumerate(noisy_clip(26)):
        if i in (0, 2):
            live.track(f"mug {i}")
        live.process(frame)
    checks: dict[int, set[str]] = defaultdict(set)
    for question in asked:
        if question.purpose == Purpose.VERIFY:
            checks[question.frame_index].add(question.track_id)
    together = [index for index, names in checks.items() if len(names) == 2]
    assert len(checks) >= 3
    assert len(together) == (len(checks) if background else 0)
