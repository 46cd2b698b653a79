# SPDX-License-Identifier: Apache-2.0
"""Draws the tracks of a frame onto it: what `overlay.mp4` and the node's `overlay` topic show.

One colour per track for as long as it lives, a transparent mask with a contour, and a label that stays legible on any
background. Objects that are not seen (pending, lost, not found) are listed in the corner, so that the picture says
why nothing is drawn. Only numpy and OpenCV.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from sa2va_model.tracks import FrameResult, Track, TrackState

# Chosen to differ from each other and from most scenes; neighbours in the list differ most.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 200, 255),
    (255, 140, 0),
    (190, 90, 255),
    (60, 220, 90),
    (255, 70, 110),
    (255, 225, 50),
    (60, 110, 255),
    (255, 130, 220),
    (0, 190, 160),
    (180, 215, 30),
    (200, 120, 70),
    (150, 170, 255),
)
MASK_ALPHA = 0.42
Box = tuple[int, int, int, int]


def colour(track: Track, position: int = 0) -> tuple[int, int, int]:
    """RGB of a track: that of its mask value, or of its position in the list while it has none."""
    number = track.mask_value - 1 if track.mask_value else position
    return PALETTE[number % len(PALETTE)]


def draw_overlay(rgb: np.ndarray, result: FrameResult) -> np.ndarray:
    """Draw all tracks of a frame.

    Args:
        rgb: uint8 [H, W, 3], the frame that `result` belongs to; it is not changed.
        result: its tracks; masks are bool [H, W] of the same size.

    Returns:
        rgb uint8 [H, W, 3], a new array.
    """
    canvas: np.ndarray = np.array(rgb, dtype=np.uint8, order="C")
    colours = {track.id: colour(track, i) for i, track in enumerate(result.tracks)}
    seen = [track for track in result.tracks if track.mask is not None and track.area > 0]
    for track in seen:
        _paint(canvas, track, colours[track.id])
    style = _Style(canvas.shape[0], canvas.shape[1])
    shown = {track.id for track in seen}
    hidden = [
        track
        for track in result.tracks
        if track.id not in shown and track.state != TrackState.STOPPED
    ]
    taken = _corner(canvas, hidden, colours, style)
    for track in seen:
        _label(canvas, track, colours[track.id], style, taken)
    return canvas


def caption(track: Track) -> str:
    """The words of a label: what, state unless it is simply tracked, score while it is seen (none if it is NaN)."""
    words = [track.expression or track.label or track.id]
    if track.state != TrackState.TRACKING:
        words.append(track.state.name.lower().replace("_", " "))
    elif not track.area:
        words.append("not seen")
    if track.area and math.isfinite(track.score):
        words.append(f"{track.score:.2f}")
    return "  ".join(words)


def _paint(canvas: np.ndarray, track: Track, rgb: tuple[int, int, int]) -> None:
    """Blend one mask and draw its contour, within the box around it only."""
    assert track.mask is not None
    box = track.box or _bounds(track.mask)
    margin = 3
    x0, y0 = max(box[0] - margin, 0), max(box[1] - margin, 0)
    part = canvas[y0 : box[3] + margin, x0 : box[2] + margin]
    mask = np.ascontiguousarray(track.mask[y0 : box[3] + margin, x0 : box[2] + margin])
    alpha = MASK_ALPHA if track.state == TrackState.TRACKING else MASK_ALPHA / 2
    tinted = cv2.addWeighted(part, 1 - alpha, np.full_like(part, rgb), alpha, 0)
    np.copyto(part, tinted, where=mask[:, :, None])
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    side = min(canvas.shape[:2])
    width = max(1, round(side / 360))
    shadow = width + (2 if side >= 240 else 0)
    outlined = np.ascontiguousarray(part)
    cv2.drawContours(outlined, lines, -1, (20, 20, 20), shadow, cv2.LINE_AA)
    cv2.drawContours(outlined, lines, -1, rgb, width, cv2.LINE_AA)
    part[:] = outlined


def _bounds(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class _Style:
    """Sizes of the text, in proportion to the image."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.size = max(
            11, round(min(height, width) / 30)
        )  # pixels of a capital letter and its line
        self.pad = max(3, self.size // 3)
        # OpenCV 5 draws any script with outline fonts; before, there are only the Hershey strokes
        self.font = cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None

    def measure(self, text: str) -> int:
        """Width of a text in pixels."""
        if self.font is None:
            scale, thickness = self._hershey()
            return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0])
        area = cv2.getTextSize((self.width, self.height), text, (0, 0), self.font, self.size, 600)
        return int(area[2])

    def write(
        self, canvas: np.ndarray, text: str, origin: tuple[int, int], rgb: tuple[int, int, int]
    ) -> None:
        """Write a text; `origin` is the left end of its base line."""
        if self.font is None:
            scale, thickness = self._hershey()
            plain = text.encode("ascii", "replace").decode()
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(canvas, plain, origin, font, scale, rgb, thickness, cv2.LINE_AA)
            return
        cv2.putText(canvas, text, origin, rgb, self.font, self.size, 600)

    def fit(self, text: str, limit: int) -> str:
        """The text, or its beginning, so that it is at most `limit` pixels wide."""
        if self.measure(text) <= limit:
            return text
        while len(text) > 1 and self.measure(text + "…") > limit:
            text = text[: -max(1, len(text) // 12)]
        return text + ("…" if self.font is not None else "...")

    def _hershey(self) -> tuple[float, int]:
        return self.size / 28, max(1, round(self.size / 14))


def _label(
    canvas: np.ndarray,
    track: Track,
    rgb: tuple[int, int, int],
    style: _Style,
    taken: list[Box],
) -> None:
    """Put a track's label above its mask, or inside it at the image border, clear of the other labels."""
    assert track.mask is not None
    x0, y0, _, y1 = track.box or _bounds(track.mask)
    text = style.fit(caption(track), style.width - 2 * style.pad)
    width, height = style.measure(text) + 2 * style.pad, style.size + 2 * style.pad
    left = int(np.clip(x0, 0, max(style.width - width, 0)))
    for top in (y0 - height - 2, y1 + 2, y0 + 2, *range(0, style.height - height, height + 2)):
        box = (left, top, left + width, top + height)
        if 0 <= top <= style.height - height and not any(_overlap(box, other) for other in taken):
            break
    else:
        return  # an image too small or too full for one more label
    taken.append(box)
    _plate(canvas, box, rgb)
    _text_on(canvas, text, box, rgb, style)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _plate(canvas: np.ndarray, box: Box, rgb: tuple[int, int, int]) -> None:
    """A filled rectangle with round corners."""
    x0, y0, x1, y1 = box[0], box[1], box[2] - 1, box[3] - 1
    radius = max(1, min((y1 - y0) // 4, (x1 - x0) // 2))
    cv2.rectangle(canvas, (x0 + radius, y0), (x1 - radius, y1), rgb, cv2.FILLED)
    cv2.rectangle(canvas, (x0, y0 + radius), (x1, y1 - radius), rgb, cv2.FILLED)
    for x in (x0 + radius, x1 - radius):
        for y in (y0 + radius, y1 - radius):
            cv2.circle(canvas, (x, y), radius, rgb, cv2.FILLED, cv2.LINE_AA)


def _text_on(
    canvas: np.ndarray, text: str, box: Box, rgb: tuple[int, int, int], style: _Style
) -> None:
    """Text on a plate of colour `rgb`: black on light colours, white on dark ones."""
    light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 130
    base = box[3] - style.pad - style.size // 6
    style.write(
        canvas, text, (box[0] + style.pad, base), (15, 15, 15) if light else (255, 255, 255)
    )


def _corner(
    canvas: np.ndarray,
    tracks: list[Track],
    colours: dict[str, tuple[int, int, int]],
    style: _Style,
) -> list[Box]:
    """List tracks that are not seen in the upper left corner, each with a dot of its colour; returns the boxes."""
    taken: list[Box] = []
    line = style.size + 2 * style.pad
    for row, track in enumerate(tracks[: max(0, style.height // (line + 2))]):
        text = style.fit(caption(track), style.width - 4 * style.pad - style.size)
        top = 2 + row * (line + 2)
        box = (2, top, 2 + style.measure(text) + style.size + 3 * style.pad, top + line)
        taken.append(box)
        region = canvas[box[1] : box[3], box[0] : box[2]]
        region[:] = region // 4  # dark glass: the picture stays visible below
        dot = (box[0] + style.pad + style.size // 3, top + line // 2)
        cv2.circle(canvas, dot, max(2, style.size // 3), colours[track.id], cv2.FILLED, cv2.LINE_AA)
        origin = (
            box[0] + 2 * style.pad + style.size * 2 // 3,
            box[3] - style.pad - style.size // 6,
        )
        style.write(canvas, text, origin, (255, 255, 255))
    return taken
