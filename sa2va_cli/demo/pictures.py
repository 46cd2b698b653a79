# SPDX-License-Identifier: Apache-2.0
"""The demo's film and its storyboard: what the camera saw, the masks that the node published, and
what the user said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sa2va_cli.demo.score import ImageResult, track_from
from sa2va_cli.output import VideoWriter
from sa2va_model.io.overlay import draw_overlay
from sa2va_model.tracks import EventKind, FrameResult, Track

WIDTH = 640
BAR = 76  # pixels below the picture
EVENT_SECONDS = 4.0  # for which an event stays written
MOMENTS, COLUMNS = 6, 3  # of the storyboard
MOMENT_SECONDS = 0.6  # after an event, when its mask has settled
_TELLING = {EventKind.FOUND, EventKind.LOST, EventKind.REACQUIRED, EventKind.NOT_FOUND}
_BACKGROUND, _QUIET, _LOUD, _GOOD, _BAD = "#14171c", "#8b949e", "#ffffff", "#56d364", "#ff9b5e"
_COLOURS = {
    EventKind.FOUND: _GOOD,
    EventKind.REACQUIRED: _GOOD,
    EventKind.STARTED: _QUIET,
    EventKind.STOPPED: _QUIET,
}


@dataclass(frozen=True)
class Performance:
    """What was recorded.

    Attributes:
        shots: complete ones, in order.
        commands: (monotonic seconds, text), in order.
        events: (monotonic seconds, TrackEvent), in order.
    """

    shots: Sequence[ImageResult]
    commands: Sequence[tuple[float, str]]
    events: Sequence[tuple[float, Any]]

    def picture(self, k: int) -> np.ndarray:
        """Image k with its masks, what was said last, and what was told lately: uint8 [H, W, 3]."""
        shot = self.shots[k]
        said = [text for time, text in self.commands if time <= shot.received]
        told = [
            event
            for time, event in self.events
            if shot.received - EVENT_SECONDS < time <= shot.received + 0.05
        ]
        recent = self.shots[max(0, k - 10) : k + 1]
        span = recent[-1].received - recent[0].received
        fps = (len(recent) - 1) / span if span > 0 else 0.0
        clock = f"{self.seconds(k):5.1f} s   {fps:.1f} fps"
        return _picture(shot, said[-1] if said else "", told, clock)

    def seconds(self, k: int) -> float:
        """Since the first shot, by the camera's clock."""
        return (self.shots[k].stamp - self.shots[0].stamp) / 1e9


def write_video(path: Path, performance: Performance) -> None:
    """Write the film, a new mp4."""
    writer = VideoWriter(path, 10.0)
    try:
        for k in range(len(performance.shots)):
            writer.add(performance.picture(k), performance.seconds(k))
    finally:
        writer.close()


def write_storyboard(path: Path, performance: Performance) -> None:
    """Write a PNG with the moments that tell the story: what was found, lost, found again, denied.

    Nothing is written where nothing of that kind happened.
    """
    moments = [performance.picture(k) for k in _moments(performance)]
    if not moments:
        return
    scale = (WIDTH // 2, moments[0].shape[0] // 2)
    small = [cv2.resize(moment, scale, interpolation=cv2.INTER_AREA) for moment in moments]
    small += [np.zeros_like(small[0])] * (-len(small) % COLUMNS)
    rows = [np.concatenate(small[k : k + COLUMNS], axis=1) for k in range(0, len(small), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


def _moments(performance: Performance) -> list[int]:
    """Shots a moment after the first telling event of each kind and object, in order; at most six."""
    seen: set[tuple[int, str]] = set()
    chosen: list[int] = []
    for time, event in performance.events:
        what = (int(event.type), str(event.expression))
        if what[0] not in _TELLING or what in seen:
            continue
        seen.add(what)
        later = (k for k, s in enumerate(performance.shots) if s.received >= time + MOMENT_SECONDS)
        chosen.append(next(later, len(performance.shots) - 1))
    return chosen[:MOMENTS] if performance.shots else []


def _picture(shot: ImageResult, said: str, told: list[Any], clock: str) -> np.ndarray:
    height = round(WIDTH * shot.rgb.shape[0] / shot.rgb.shape[1] / 2) * 2
    # The image is enlarged before anything is drawn, so that lines and letters stay sharp.
    rgb = cv2.resize(shot.rgb, (WIDTH, height), interpolation=cv2.INTER_CUBIC)
    labels = cv2.resize(shot.labels, (WIDTH, height), interpolation=cv2.INTER_NEAREST)
    scale = WIDTH / shot.rgb.shape[1]
    tracks = tuple(_enlarge(track_from(message, labels), scale) for message in shot.tracks.tracks)
    drawn = draw_overlay(rgb, FrameResult(0.0, 0, height, WIDTH, tracks))
    return np.concatenate([drawn, _bar(said, told, clock)])


def _enlarge(track: Track, scale: float) -> Track:
    if track.box is None:
        return track
    x0, y0, x1, y1 = (round(edge * scale) for edge in track.box)
    return replace(track, box=(x0, y0, x1, y1))


def _bar(said: str, told: list[Any], clock: str) -> np.ndarray:
    bar = Image.new("RGB", (WIDTH, BAR), _BACKGROUND)
    pen = ImageDraw.Draw(bar)
    large, small = ImageFont.load_default(24), ImageFont.load_default(15)
    pen.text((14, 8), "›", fill=_GOOD, font=large)
    pen.text((34, 8), said or "…", fill=_LOUD if said else _QUIET, font=large)
    pen.text((WIDTH - 14, 48), clock, fill=_QUIET, font=small, anchor="ra")
    left = 14.0
    for event in told[-2:]:
        kind = EventKind(event.type)
        words = f"{kind.name.replace('_', ' ').lower()}: {event.expression or 'all'}"
        pen.text((left, 48), words, fill=_COLOURS.get(kind, _BAD), font=small)
        left += pen.textlength(words, font=small) + 18
    return np.asarray(bar)
