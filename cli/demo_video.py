# SPDX-License-Identifier: Apache-2.0
"""The demo's film: what the camera saw, the masks that the node published, and what the user
said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sa2va_cli.demo_score import Shot, track_from
from sa2va_cli.output import VideoWriter
from sa2va_model.drawing import draw
from sa2va_model.tracks import EventKind, FrameResult, Track

WIDTH = 640
BAR = 76  # pixels below the picture
EVENT_SECONDS = 4.0  # for which an event stays written
_BACKGROUND, _QUIET, _LOUD, _GOOD, _BAD = "#14171c", "#8b949e", "#ffffff", "#56d364", "#ff9b5e"
_COLOURS = {
    EventKind.FOUND: _GOOD,
    EventKind.REACQUIRED: _GOOD,
    EventKind.STARTED: _QUIET,
    EventKind.STOPPED: _QUIET,
}


def write_video(
    path: Path,
    shots: Sequence[Shot],
    commands: Sequence[tuple[float, str]],
    events: Sequence[tuple[float, Any]],
) -> None:
    """Write the film.

    Args:
        path: of the new mp4.
        shots: complete ones, in order.
        commands: (monotonic seconds, text), in order.
        events: (monotonic seconds, TrackEvent), in order.
    """
    writer = VideoWriter(path, 10.0)
    try:
        for k, shot in enumerate(shots):
            said = [text for time, text in commands if time <= shot.received]
            told = [
                event
                for time, event in events
                if shot.received - EVENT_SECONDS < time <= shot.received + 0.05
            ]
            recent = shots[max(0, k - 10) : k + 1]
            span = recent[-1].received - recent[0].received
            fps = (len(recent) - 1) / span if span > 0 else 0.0
            seconds = (shot.stamp - shots[0].stamp) / 1e9
            picture = _picture(
                shot, said[-1] if said else "", told, f"{seconds:5.1f} s   {fps:.1f} fps"
            )
            writer.add(picture, seconds)
    finally:
        writer.close()


def _picture(shot: Shot, said: str, told: list[Any], clock: str) -> np.ndarray:
    height = round(WIDTH * shot.rgb.shape[0] / shot.rgb.shape[1] / 2) * 2
    # The image is enlarged before anything is drawn, so that lines and letters stay sharp.
    rgb = cv2.resize(shot.rgb, (WIDTH, height), interpolation=cv2.INTER_CUBIC)
    labels = cv2.resize(shot.labels, (WIDTH, height), interpolation=cv2.INTER_NEAREST)
    scale = WIDTH / shot.rgb.shape[1]
    tracks = tuple(_enlarge(track_from(message, labels), scale) for message in shot.tracks.tracks)
    drawn = draw(rgb, FrameResult(0.0, 0, height, WIDTH, tracks))
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
