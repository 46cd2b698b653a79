# SPDX-License-Identifier: Apache-2.0
"""TrackRecord: its verbs are the only ones that write it."""

from __future__ import annotations

import ast
import math
from dataclasses import fields
from pathlib import Path

import torch

import sa2va_model.tracking
from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.tracking.config import LifecycleConfig
from sa2va_model.tracking.judgement.lifecycle import Lifecycle
from sa2va_model.tracking.track_record import VIEWS, TrackRecord
from sa2va_model.tracks import EventKind, Reason, TrackState

ROOM = Path(sa2va_model.tracking.__file__).parent
LIMITS = LifecycleConfig(occluded_after=1, lost_after=0.2)


def written(path: Path) -> set[tuple[str, int]]:
    """Attributes that a file writes on something other than `self`, with their lines."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store | ast.Del):
            continue
        if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            found.add((node.attr, node.lineno))
    return found


def test_nobody_else_writes_a_record() -> None:
    state = {field.name for field in fields(TrackRecord)}
    wrong = [
        f"{path.name}:{line} writes {name}"
        for path in sorted(ROOM.glob("*.py"))
        if path.name != "track_record.py"
        for name, line in written(path)
        if name in state
    ]
    assert not wrong


def begun() -> TrackRecord:
    record = TrackRecord("mug", "the mug", 1, from_text=True)
    record.found(Lifecycle(LIMITS, Calibration(), 0.0), 0.0, "a mug")
    return record


def test_a_track_is_announced_once_and_only_when_it_is_found() -> None:
    record = TrackRecord("mug", "the mug", 1, from_text=True)
    assert record.state == TrackState.PENDING
    record.found(Lifecycle(LIMITS, Calibration(), 0.0), 0.0, "a mug")
    assert [record.announce(), record.announce()] == [True, False]
    assert (record.state, record.label, record.first_seen) == (TrackState.TRACKING, "a mug", 0.0)


def test_a_loss_remembers_who_denied_and_how_it_came_back() -> None:
    record = begun()
    record.denied(-9.0)
    changes = [record.advance(stamp, math.nan, visible=True) for stamp in (0.1, 0.4)]
    kinds = [(change[0].kind, change[1]) for change in changes if change]
    assert kinds == [(EventKind.OCCLUDED, Reason.DENIED), (EventKind.LOST, Reason.DENIED)]
    assert record.lost
    assert record.lost_since == 0.4
    record.confirmed(9.0, at_least=0.0)
    record.returning(Reason.WORDS)
    back = record.advance(0.5, math.nan, visible=True)
    assert back is not None
    assert (back[0].kind, back[1]) == (EventKind.REACQUIRED, Reason.WORDS)
    assert record.return_reason == Reason.RETURNED, "the next time it may return by itself"
    assert not record.last_denied


def test_what_ended_shows_nothing_more() -> None:
    record = begun()
    record.stopped()
    track = record.report()
    assert record.ended
    assert (track.state, track.mask, track.score) == (TrackState.STOPPED, None, 0.0)


def test_disagreements_count_in_a_row() -> None:
    record = begun()
    told = [record.disagreed(apart, 2) for apart in (True, False, True, True, True)]
    assert told == [False, False, False, True, False]
    assert not any(record.disagreed(True, 0) for _ in range(5)), "0 = never"


def test_views_of_late_answers_are_bounded() -> None:
    record = begun()
    for index in range(VIEWS + 1):
        record.viewed(index, torch.zeros(1, 1, 2, 2, dtype=torch.bool), 1.0)
    assert record.view(0) is None
    assert record.view(1) is not None
