# SPDX-License-Identifier: Apache-2.0
"""The film of a benchmark's episodes: the tracker's overlay with the command below it, and one picture of each end."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sa2va_cli.output import VideoWriter

WIDTH = 640
BAR = 56
_BACKGROUND, _QUIET, _LOUD, _GOOD, _BAD = "#14171c", "#8b949e", "#ffffff", "#56d364", "#ff9b5e"
_END_SECONDS = 1.5  # for which the last picture of an episode stands


class EpisodeFilm:
    """Takes pictures as they come, on any thread; the caption is what was said last.

    Args:
        folder: for `episodes.mp4` and `episode_<seed>.png`; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer = VideoWriter(folder / "episodes.mp4", 10.0)
        self._lock = threading.Lock()
        self._command, self._verdict, self._good = "", "", True
        self._last: np.ndarray | None = None
        self._origin: float | None = None
        self._time = self._shift = 0.0

    def begin(self, command: str) -> None:
        """Another command."""
        with self._lock:
            self._command, self._verdict = command, ""

    def add(self, seconds: float, rgb: np.ndarray) -> None:
        """One picture; uint8 [H, W, 3]."""
        with self._lock:
            if self._origin is None:
                self._origin = seconds
            self._time = max(self._time, seconds - self._origin + self._shift)
            self._last = rgb
            self._writer.add(self._picture(rgb), self._time)

    def end(self, seed: int, verdict: str, good: bool) -> None:
        """The episode is over: its last picture stays for a moment, with the verdict."""
        with self._lock:
            self._verdict, self._good = verdict, good
            if self._last is None:
                return
            picture = self._picture(self._last)
            self._writer.add(picture, self._time + 0.01)
            self._shift += _END_SECONDS
            self._time += _END_SECONDS
            self._writer.add(picture, self._time)
            cv2.imwrite(str(self._folder / f"episode_{seed}.png"), picture[..., ::-1])

    def close(self) -> None:
        """Finish the film."""
        with self._lock:
            self._writer.close()

    def _picture(self, rgb: np.ndarray) -> np.ndarray:
        height = round(WIDTH * rgb.shape[0] / rgb.shape[1] / 2) * 2
        large = cv2.resize(rgb, (WIDTH, height), interpolation=cv2.INTER_CUBIC)
        bar = Image.new("RGB", (WIDTH, BAR), _BACKGROUND)
        pen = ImageDraw.Draw(bar)
        font, small = ImageFont.load_default(22), ImageFont.load_default(15)
        pen.text((14, 6), f"› {self._command}", fill=_LOUD if self._command else _QUIET, font=font)
        pen.text((16, 35), self._verdict, fill=_GOOD if self._good else _BAD, font=small)
        return np.concatenate([large, np.asarray(bar)])
