# SPDX-License-Identifier: Apache-2.0
"""From evidence to states: which frame hides, loses and brings back, and at which threshold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.tracking.config import LifecycleConfig
from sa2va_model.tracking.judgement.evidence import EVIDENCE_LIMIT
from sa2va_model.tracking.judgement.lifecycle import Lifecycle
from sa2va_model.tracking.judgement.visibility_test import EmbeddingProbe
from sa2va_model.tracks import EventKind, TrackState

CALIBRATION = Calibration(hide=-1.0, show=0.5, regain=2.0)


def life(**limits: float) -> Lifecycle:
    return Lifecycle(LifecycleConfig(**cast(Any, limits)), CALIBRATION, 0.0)


def seen(
    track: Lifecycle, frame: int, log_odds: float, *, visible: bool = True
) -> EventKind | None:
    """One frame of ten a second, with so much evidence."""
    track.existence.log_odds = log_odds
    change = track.update(frame / 10, visible=visible)
    return change.kind if change else None


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_occluded_on_the_very_frame(limit: int) -> None:
    track = life(occluded_after=limit, lost_after=60.0)
    told = [seen(track, frame, -9.0) for frame in range(1, limit + 1)]
    assert told == [None] * (limit - 1) + [EventKind.OCCLUDED]
    # Fewer in a row are flicker.
    track = life(occluded_after=limit, lost_after=60.0)
    for frame in range(1, limit):
        seen(track, frame, -9.0)
    assert seen(track, limit, 9.0) is None
    assert track.state == TrackState.TRACKING


def test_lost_after_the_time_since_it_was_seen() -> None:
    track = life(occluded_after=1, lost_after=0.5)
    told = [seen(track, frame, -9.0) for frame in range(1, 7)]
    assert told == [EventKind.OCCLUDED, None, None, None, EventKind.LOST, None]


@pytest.mark.parametrize(
    ("state", "threshold"), [("tracked", -1.0), ("occluded", 0.5), ("lost", 2.0)]
)
def test_each_state_has_its_threshold(state: str, threshold: float) -> None:
    for log_odds, shown in ((threshold, True), (threshold - 0.01, False)):
        track = life(occluded_after=1, lost_after=0.5)
        if state != "tracked":
            seen(track, 1, -9.0)
        if state == "lost":
            assert seen(track, 8, -9.0) == EventKind.LOST
        seen(track, 9, log_odds)
        assert track.shown is shown
        assert track.last_seen == (0.9 if shown else 0.0)


def test_evidence_without_a_visible_mask_shows_nothing() -> None:
    track = life(occluded_after=1, lost_after=0.5)
    assert seen(track, 1, 9.0, visible=False) == EventKind.OCCLUDED


@pytest.mark.parametrize("visible", [True, False])
def test_what_is_found_again_must_pass_the_visibility_test(*, visible: bool) -> None:
    """A [SEG] embedding that is decoded on a later frame always gives some mask."""
    decoded = SimpleNamespace(logits=torch.ones(1, 1, 4, 4))
    probe = EmbeddingProbe(
        cast(Any, SimpleNamespace(decode=lambda *a: decoded)),
        cast(Any, SimpleNamespace(evidence_for=lambda *a: 1.5)),
        cast(Any, SimpleNamespace(passes=lambda d: d is decoded and visible)),
    )
    glance = probe.look(torch.zeros(8), cast(Any, None), row=0)
    assert glance.visible is visible
    assert glance.evidence == (1.5 if visible else -EVIDENCE_LIMIT)
