# SPDX-License-Identifier: Apache-2.0
"""The hard clips: fixed by their number, and what their kinds promise."""

from __future__ import annotations

import numpy as np
import pytest

from sa2va_sim.hard_clips import KINDS, RATE, SECONDS, SETTLED, HardClip, hard_clip

SMALL = (64, 48)


@pytest.fixture(scope="module")
def clips() -> list[HardClip]:
    """Two of each kind."""
    return [hard_clip(number, SMALL) for number in range(2 * len(KINDS))]


def test_a_clip_is_a_function_of_its_number(clips: list[HardClip]) -> None:
    again = hard_clip(2, SMALL)
    assert np.array_equal(again.rgb, clips[2].rgb)
    assert np.array_equal(again.instances, clips[2].instances)
    assert not np.array_equal(clips[2].rgb, clips[7].rgb)


def test_kinds_take_turns_and_begin_with_a_visible_target(clips: list[HardClip]) -> None:
    assert [clip.kind for clip in clips] == [*KINDS, *KINDS]
    for clip in clips:
        assert clip.rgb.shape == (round(SECONDS * RATE), SMALL[1], SMALL[0], 3)
        assert clip.instances.shape == clip.rgb.shape[:3]
        settled = clip.visible[: round(SETTLED * RATE)]
        assert settled.min() > 0.5, clip.name
        assert (clip.instances[0] == clip.target).any()


def test_the_truth_says_when_the_target_is_gone(clips: list[HardClip]) -> None:
    for clip in clips:
        pixels = (clip.instances == clip.target).sum((1, 2))
        assert np.array_equal(pixels == 0, clip.visible == 0)
    for kind in ("occlusion", "leaving"):
        assert all(clip.visible.min() < 0.05 for clip in clips if clip.kind == kind)
    assert all(clip.moving for clip in clips if clip.kind == "camera")
