# SPDX-License-Identifier: Apache-2.0
"""Files that stay readable while they grow, and progress for people: nothing written is lost on an error or Ctrl-C."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from tqdm import tqdm

from sa2va_model.errors import InputError
from sa2va_model.io.file_names import write_whole

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""A disk that takes no more."""


def plain(value: Any) -> Any:
    """The value as JSON has it: no NaN, no numpy."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def write_json(path: Path | str | None, data: Any) -> None:
    """Write a JSON file as a whole, or nothing if `path` is None; parents are created."""
    if path is None:
        return
    target = Path(path)
    text = json.dumps(plain(data), indent=2, ensure_ascii=False) + "\n"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, text.encode())
    except OSError as error:
        if error.errno in FULL:
            raise  # a failure, and not what the user gave
        raise InputError(
            f"{target}: {error.strerror}, expected a file that can be written"
        ) from error


class ReservedJson:
    """A JSON file that can still be written when the disk has become full: its room is taken at the beginning."""

    ROOM = 1 << 16

    def __init__(self, path: Path, first: Any) -> None:
        """Args: `first` is what it says until `write`, for a run that is killed."""
        self._path = path
        text = json.dumps(plain(first), indent=2, ensure_ascii=False)
        path.write_text(text.ljust(self.ROOM) + "\n")

    def write(self, data: Any) -> None:
        """Write the file as a whole; over what it has if there is no room for another."""
        try:
            write_json(self._path, data)
        except OSError:
            text = json.dumps(plain(data), indent=2, ensure_ascii=False).encode()
            with self._path.open("r+b", buffering=0) as file:
                file.write(text.ljust(self.ROOM) + b"\n")
            raise


class JsonRecords:
    """A JSON document with one growing list. After every record the file is whole and valid, on a full disk, too."""

    def __init__(self, path: Path, head: str = "[", tail: str = "]") -> None:
        """Start the document.

        Args:
            path: the new file.
            head: what comes before the records.
            tail: what comes after them.
        """
        self._file = path.open("wb", buffering=0)
        self._tail = f"\n{tail}\n".encode()
        self._empty = True
        self._write(head.encode() + self._tail)

    def add(self, record: Any) -> None:
        """Append one record, on a line of its own."""
        line = json.dumps(plain(record), ensure_ascii=False).encode()
        end = self._file.seek(-len(self._tail), os.SEEK_END)
        try:
            self._write((b"\n" if self._empty else b",\n") + line + self._tail)
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            self._write(self._tail)  # its room was taken before
            raise
        self._empty = False

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class VideoWriter:
    """An H.264 mp4 that browsers play.

    While it grows, every frame is on disk as a fragment of its own when the next one comes, so that a killed run leaves
    a playable file; at the end it becomes a plain mp4.
    """

    TIME_BASE = Fraction(1, 90000)

    def __init__(self, path: Path, fps: float | None) -> None:
        """Create the file; its size is that of the first frame.

        Args:
            path: the new file.
            fps: frames per second as declared in it; the real times are those given to `add`.
        """
        self._rate = Fraction(fps or 30.0).limit_denominator(1001)
        self._container = av.open(
            str(path),
            "w",
            format="mp4",
            options={"movflags": "hybrid_fragmented+frag_every_frame", "flush_packets": "1"},
        )
        self._stream: av.video.stream.VideoStream | None = None
        self._last = -1

    def add(self, rgb: np.ndarray, stamp: float) -> None:
        """Append one frame.

        Args:
            rgb: uint8 [H, W, 3]; an odd side is padded by one pixel, as yuv420p needs.
            stamp: seconds since the first frame; a frame never comes before the one before it.
        """
        height, width = rgb.shape[:2]
        if height % 2 or width % 2:
            rgb = cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._stream is None:
            self._stream = self._start(rgb.shape[1], rgb.shape[0])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        step = int(1 / (self._rate * self.TIME_BASE))
        due = round(stamp / self.TIME_BASE)
        # a clock that stands still or jumps back must not stop the video
        frame.pts = due if due > self._last else self._last + max(step, 1)
        frame.time_base = self.TIME_BASE
        self._last = frame.pts
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _start(self, width: int, height: int) -> av.video.stream.VideoStream:
        # "zerolatency": the encoder holds no frames back that a kill would take.
        options = {"preset": "veryfast", "crf": "21", "bf": "0", "tune": "zerolatency"}
        stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = self.TIME_BASE
        stream.codec_context.gop_size = 60
        return stream

    def close(self) -> None:
        """Write what the encoder still holds and finish the file."""
        if self._stream is not None:
            for packet in self._stream.encode(None):
                self._container.mux(packet)
        self._container.close()


class Progress:
    """A bar on a terminal after two seconds, else a line every ten seconds; always on stderr."""

    def __init__(self, total: int | None, label: str, *, unit: str = "frame") -> None:
        """Start.

        Args:
            total: how many steps there will be, None if unknown.
            label: what is being done.
            unit: what a step is.
        """
        self._terminal = sys.stderr.isatty()
        self._label, self._unit, self._total = label, unit, total
        self._bar = tqdm(
            total=total, desc=label, unit=unit, delay=2.0, disable=not self._terminal, leave=False
        )
        self._done, self._start = 0, time.monotonic()
        self._next_line = self._start + 10.0

    def step(self) -> None:
        """One step is done."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if not self._terminal and now >= self._next_line:
            self._next_line = now + 10.0
            of = f"/{self._total}" if self._total else ""
            rate = self._done / (now - self._start)
            self.say(f"{self._label}: {self._done}{of} {self._unit}s, {rate:.1f}/s")

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        if self._terminal:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        """Use as `with Progress(...) as progress`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self._bar.close()


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a PNG (grey, or RGB [H, W, 3]); InputError if the disk refuses."""
    pixels = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, ::-1])
    ok, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise RuntimeError(f"{path}: OpenCV cannot encode an image of {image.shape} {image.dtype}")
    write_whole(path, data.tobytes())
