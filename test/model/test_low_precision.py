# SPDX-License-Identifier: Apache-2.0
"""Whole models in bfloat16, as they are on a GPU: every part keeps its type, and masks stay where they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sa2va_model.io.frames import Frame
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.regions import Region
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_model.tracking.live import LiveTracker
from sa2va_model.tracks import TrackState

FRAMES = [np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8) for i in range(5)]


@pytest.fixture(scope="module")
def model() -> Sa2VA:
    return nano_model().to(torch.bfloat16)


def test_words_clicks_and_clips_in_bfloat16(model: Sa2VA) -> None:
    exact = nano_model().segment(FRAMES[0], "the mug")
    rough = model.segment(FRAMES[0], "the mug")
    assert rough.found
    assert np.mean(exact.masks != rough.masks) < 0.2, "random weights: most of the mask is the same"
    clip = model.segment_video(FRAMES, "the mug", keyframes=KeyframeChoice("uniform", 2))
    assert clip.masks.shape == (1, 5, 30, 40)
    for region in (Region(points=((3.0, 4.0),)), Region(box=(3, 4, 10, 20))):
        assert np.isfinite(model.segment_region(FRAMES[0], region).scores).all()


def test_several_sentences_in_bfloat16(model: Sa2VA) -> None:
    together = model.ground_many([FRAMES[0]], ["the mug", "a box"])
    for reply, words in zip(together, ["the mug", "a box"], strict=True):
        alone = nano_model().to(torch.bfloat16).ground([FRAMES[0]], words)
        assert reply.generated.ids == alone.generated.ids
        assert torch.allclose(reply.embeddings, alone.embeddings, atol=0.05)


def test_a_stream_in_bfloat16(model: Sa2VA) -> None:
    live = LiveTracker(model)
    live.track("the mug")
    for i, frame in enumerate(FRAMES):
        result = live.process(Frame(frame, i * 0.1, i))
    live.close()
    assert result.tracks[0].state == TrackState.TRACKING
