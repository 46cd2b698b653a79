# SPDX-License-Identifier: Apache-2.0
"""How the demo judges its recording: made-up recordings with known verdicts. No ROS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from sa2va_cli.demo.pictures import Performance, write_storyboard, write_video
from sa2va_cli.demo.score import Act, score
from sa2va_model.tracks import EventKind, TrackState

TRACKING, OCCLUDED, LOST = TrackState.TRACKING, TrackState.OCCLUDED, TrackState.LOST
BALL = Act(0.0, "+ the ball", "returns", 2)
BOOK = Act(0.0, "the book", "absent")


@dataclass
class FakeShot:
    stamp: int
    truth: np.ndarray
    labels: np.ndarray
    tracks: Any
    received: float
    rgb: np.ndarray


def shot(
    time: float,
    state: TrackState | None,
    *,
    seen: int = 10,
    there: int = 10,
    shift: int = 0,
    words: str = "the ball",
) -> FakeShot:
    """One image: the object covers `there` rows, the published mask `seen` rows, `shift` lower."""
    truth, labels = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    truth[:there, :20] = 2
    labels[shift : shift + seen, :20] = 7 if seen else 0
    roi = SimpleNamespace(x_offset=0, y_offset=shift, width=20 if seen else 0, height=seen)
    track = SimpleNamespace(
        id="t",
        expression=words,
        label="",
        state=state,
        mask_value=7 if seen else 0,
        area=seen * 20,
        score=0.9,
        roi=roi,
    )
    tracks = SimpleNamespace(tracks=[] if state is None else [track])
    rgb = np.full((40, 60, 3), 90, np.uint8)
    return FakeShot(round(time * 1e9), truth, labels, tracks, time, rgb)


def events(*told: tuple[float, EventKind], words: str = "the ball") -> list[tuple[float, Any]]:
    return [(time, SimpleNamespace(type=int(kind), expression=words)) for time, kind in told]


def story(
    away: TrackState = LOST, *, back: bool = True, shift: int = 0
) -> tuple[list[FakeShot], list[tuple[float, Any]]]:
    """Asked at 0, found at 2, gone from 5 to 8, seen again from 9."""
    shots = [shot(1.0, TrackState.PENDING, seen=0)]
    shots += [shot(t, TRACKING, shift=shift) for t in (2.0, 3.0, 4.0)]
    shots += [shot(t, away, seen=0, there=0) for t in (5.0, 6.0, 7.0)]
    shots += [shot(8.0, away, seen=0)]
    shots += [shot(t, TRACKING if back else away, seen=10 * back, shift=shift) for t in (9.0, 10.0)]
    told = events((0.5, EventKind.STARTED), (2.0, EventKind.FOUND), (6.0, EventKind.LOST))
    return shots, told + (events((9.0, EventKind.REACQUIRED)) if back else [])


def test_a_ball_that_returns_is_scored_where_it_is_to_be_seen() -> None:
    row = score(BALL, (0.0, 20.0), *story())
    assert row.problem == ""
    assert row.outcome == "FOUND → LOST → REACQUIRED"
    assert row.first_mask == 2.0
    assert row.images == 6  # 2, 3, 4, 8, 9, 10: not before the first mask, not while it is away
    assert row.iou == pytest.approx(5 / 6)  # at 8 it was back but not yet seen
    assert row.fps == pytest.approx(10 / 10)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (story(back=False), "REACQUIRED was not reported"),
        (story(away=TRACKING), "reported TRACKING while it was away"),
        (story(shift=8), r"another object than the one meant \(IoU 0.09\)"),
        ((story()[0], events((0.5, EventKind.STARTED))), "not found"),
        (([shot(1.0, TRACKING), shot(2.0, TRACKING)], story()[1]), "never left the picture"),
    ],
)
def test_what_goes_wrong_is_named(told: Any, says: str) -> None:
    row = score(BALL, (0.0, 20.0), *told)
    assert re.search(says, row.problem), row


def test_occluded_counts_as_reported_away() -> None:
    assert score(BALL, (0.0, 20.0), *story(away=OCCLUDED)).problem == ""


def test_a_book_that_is_not_there() -> None:
    silent = [shot(1.0, TrackState.NOT_FOUND, seen=0, words="the book")]
    told = events((1.0, EventKind.NOT_FOUND), words="the book")
    row = score(BOOK, (0.0, 5.0), silent, told)
    assert (row.problem, row.outcome) == ("", "NOT_FOUND")
    assert np.isnan(row.iou)
    assert "NOT_FOUND was not reported" in score(BOOK, (0.0, 5.0), silent, []).problem
    dreamt = [*silent, shot(2.0, TRACKING, words="the book")]
    assert "a mask was published" in score(BOOK, (0.0, 5.0), dreamt, told).problem


def test_stop_must_be_told_and_done() -> None:
    stop = Act(0.0, "stop", "stopped")
    told = events((1.0, EventKind.STOPPED))
    assert score(stop, (0.5, 9.0), [shot(2.0, None)], told).problem == ""
    assert "not reported" in score(stop, (0.5, 9.0), [shot(2.0, None)], []).problem
    assert "1 tracks go on" in score(stop, (0.5, 9.0), [shot(2.0, TRACKING)], told).problem


def test_the_film_plays_and_lasts_as_long_as_the_recording(tmp_path: Path) -> None:
    shots, told = story()
    write_video(tmp_path / "demo.mp4", Performance(shots, [(0.0, "the ball")], told))
    with av.open(str(tmp_path / "demo.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        frames = list(film.decode(video=0))
    assert len(frames) == len(shots)
    assert frames[-1].time == pytest.approx(9.0, abs=0.05)
    assert frames[0].width == 640
    first, tracked = (f.to_ndarray(format="rgb24")[:200].astype(int) for f in frames[:2])
    assert np.abs(first - tracked).max() > 40  # a mask is drawn


def test_the_storyboard_shows_what_was_told_and_nothing_else(tmp_path: Path) -> None:
    shots, told = story()
    performance = Performance(shots, [(0.0, "the ball")], told)
    write_storyboard(tmp_path / "demo.png", performance)
    telling = {"FOUND", "LOST", "REACQUIRED", "NOT_FOUND"}
    count = sum(EventKind(event.type).name in telling for _, event in told)
    assert count >= 3
    board = np.asarray(Image.open(tmp_path / "demo.png"))
    height = performance.picture(0).shape[0] // 2
    assert board.shape == (-(-count // 3) * height, 3 * 320, 3)
    shot_after = next(k for k, s in enumerate(shots) if s.received > 2.5)
    expected = cv2.resize(
        performance.picture(shot_after), (320, height), interpolation=cv2.INTER_AREA
    )
    assert np.array_equal(board[:height, :320], expected)
    write_storyboard(tmp_path / "none.png", Performance(shots, [], []))
    assert not (tmp_path / "none.png").exists()
