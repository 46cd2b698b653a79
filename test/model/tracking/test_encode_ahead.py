# SPDX-License-Identifier: Apache-2.0
"""Frames that another thread has encoded are followed as those that were not."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_model.tracking.frame_ring import RingFrame
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.live import LiveConfig, LiveTracker

QUIET = LiveConfig(verify_period=0)


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that encoded an image, in order."""
    names: list[str] = []
    encode = Vision.encode

    def told(self: Vision, image: np.ndarray) -> Any:
        names.append(threading.current_thread().name)
        return encode(self, image)

    monkeypatch.setattr(Vision, "encode", told)
    return names


def ahead(live: LiveTracker, frame: Frame) -> RingFrame:
    got: list[RingFrame] = []
    thread = threading.Thread(target=lambda: got.append(live.encode_ahead(frame)), name="ahead")
    thread.start()
    thread.join()
    return got[0]


def test_tracks_are_the_same_and_images_are_encoded_once(encoders: list[str]) -> None:
    model, frames = nano_model(), noisy_clip(6)
    plain, piped = LiveTracker(model, QUIET), LiveTracker(model, QUIET)
    plain.track("the red mug")
    want = [plain.process(frame) for frame in frames]
    encoders.clear()
    piped.track("the red mug")
    got = [piped.process(ahead(piped, frame)) for frame in frames]
    assert encoders == ["MainThread"] + ["ahead"] * 5  # on the first frame there is no track yet
    for one, other in zip(want, got, strict=True):
        assert [e.kind for e in one.events] == [e.kind for e in other.events]
        for track, same in zip(one.tracks, other.tracks, strict=True):
            assert (track.state, track.score) == (same.state, same.score)
            assert np.array_equal(track.mask, same.mask)
    assert got[-1].milliseconds["encode"] > 0


def test_nothing_is_encoded_for_a_stream_that_nobody_asks_about(encoders: list[str]) -> None:
    live = LiveTracker(nano_model(), QUIET)
    for frame in noisy_clip(3):
        live.process(ahead(live, frame))
    assert encoders == []


def test_a_device_that_does_not_gain_encodes_in_turn(
    encoders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nano_model()
    segmenter = Vision(model).follower
    traits = replace(segmenter.traits, encodes_ahead=False)
    monkeypatch.setattr(type(segmenter), "traits", traits)
    live = LiveTracker(model, QUIET)
    live.track("the red mug")
    for frame in noisy_clip(3):
        live.process(ahead(live, frame))
    assert set(encoders) == {"MainThread"}


def test_what_another_tracker_encoded_is_encoded_anew(encoders: list[str]) -> None:
    before, after = (LiveTracker(nano_model(seed), QUIET) for seed in (0, 1))
    first, second, third = noisy_clip(3)
    for live in (before, after):
        live.track("the red mug")
        live.process(first)
    encoders.clear()
    after.process(ahead(before, second))
    assert encoders == ["ahead", "MainThread"]
    after.process(ahead(after, third))
    assert encoders == ["ahead", "MainThread", "ahead"]


def test_a_frame_that_cannot_be_used_is_refused_as_before() -> None:
    live = LiveTracker(nano_model(), QUIET)
    live.track("the red mug")
    first, second = noisy_clip(2)
    live.process(ahead(live, first))
    other = Frame(np.zeros((20, 20, 3), np.uint8), 0.05, 1)
    with pytest.raises(InputError, match="size is 20x20; expected 40x30"):
        live.process(ahead(live, other))
    assert live.process(ahead(live, second)).tracks
