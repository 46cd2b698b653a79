# SPDX-License-Identifier: Apache-2.0
"""Clips of ordinary objects to calibrate on: something is named that the first picture shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOM = Path(__file__).resolve().parents[2] / "benchmarks" / "hard_set"


def test_what_is_named_is_seen_and_its_visible_share_told(
    furniture_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOM))
    monkeypatch.delitem(sys.modules, "clips", raising=False)
    import clips

    monkeypatch.setattr(clips, "ORDINARY_FRAMES", 3)
    found = list(clips.ordinary_clips(2))
    assert found
    for clip in found:
        assert clip.expression in ("the mug", "the coffee mug", "the cup", "the book")
        assert clip.rgb.shape == (3, 256, 256, 3)
        assert clip.visible.shape == (3,)
        assert (clip.instances[0] == clip.target).any()
        assert clip.visible[0] >= 0.4
        for share, instances in zip(clip.visible, clip.instances, strict=True):
            assert (share > 0) == bool((instances == clip.target).any())
