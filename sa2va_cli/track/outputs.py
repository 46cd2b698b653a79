# SPDX-License-Identifier: Apache-2.0
"""The files of `sa2va track`. Every frame is on disk when the next one is computed; every file is whole at any time."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sa2va_cli.output import JsonRecords, VideoWriter, write_png
from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame, FrameSource
from sa2va_model.io.overlay import draw_overlay
from sa2va_model.tracks import Event, FrameResult, Track

if TYPE_CHECKING:
    from sa2va_ros.bags.writer import BagWriter

FILES = ("tracks.json", "events.json", "summary.json", "overlay.mp4")
FOLDERS = ("masks", "bag", "objects")
TRACKS_HEAD = '{"frames": ['


def check_folder(path: Path | str) -> Path:
    """Make the output folder, without touching what is in it.

    Raises:
        InputError: the path is a file or cannot be written, or holds folders of our names that no run wrote.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"-o {folder}: {error.strerror}, expected a folder that can be written"
        ) from error
    if not _is_ours(folder):
        for name in (*FOLDERS, *FILES):
            if (folder / name).exists():
                raise InputError(
                    f"-o {folder}: holds '{name}' and no earlier run, expected a new or empty folder"
                )
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether a run has written there: its tracks.json begins as ours do."""
    try:
        with (folder / "tracks.json").open("rb") as file:
            return file.read(len(TRACKS_HEAD)) in (TRACKS_HEAD.encode(), b"")
    except OSError:
        return False


def clear_folder(folder: Path) -> None:
    """Remove what an earlier run left in a folder that `check_folder` let pass, and nothing else."""
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


class TrackOutputs:
    """Writes masks/, overlay.mp4, tracks.json, events.json and, for a bag input, bag/."""

    def __init__(self, folder: Path, source: FrameSource) -> None:
        """Open the files.

        Args:
            folder: empty of results.
            source: where the frames come from.
        """
        self._folder = folder
        self._first: float | None = None
        self._stack = ExitStack()
        self._tracks = JsonRecords(folder / "tracks.json", TRACKS_HEAD, "]}")
        self._stack.callback(self._tracks.close)
        self._events = JsonRecords(folder / "events.json")
        self._stack.callback(self._events.close)
        self._video = VideoWriter(folder / "overlay.mp4", source.fps)
        self._stack.callback(self._video.close)
        self._bag = self._open_bag(source)

    def _open_bag(self, source: FrameSource) -> BagWriter | None:
        # Bags know their storage; without them rosbags is never imported.
        storage = getattr(source, "storage", None)
        if storage is None:
            return None
        from sa2va_ros.bags.bag import BagImages
        from sa2va_ros.bags.writer import BagWriter

        assert isinstance(source, BagImages)
        writer = BagWriter(self._folder / "bag", source.clock, storage=storage)
        self._stack.callback(writer.close)
        return writer

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Write everything about one frame."""
        if self._first is None:
            self._first = frame.stamp
        for track in result.tracks:
            self._write_mask(frame, track)
        self._video.add(draw_overlay(frame.rgb, result), frame.stamp - self._first)
        self._tracks.add(_frame_record(frame, result))
        for event in result.events:
            self._events.add(event_record(event))
        if self._bag is not None:
            self._bag.write(result, frame)  # type: ignore[arg-type]

    def _write_mask(self, frame: Frame, track: Track) -> None:
        mask = np.zeros(frame.rgb.shape[:2], np.uint8)
        if track.mask is not None:
            mask[track.mask] = 255
        folder = self._folder / "masks" / safe_name(track.id)
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / f"{frame.index:05d}.png", mask)

    def __enter__(self) -> TrackOutputs:
        """Use as `with TrackOutputs(...) as outputs`."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Finish every file, whatever happened; what fails on the way does not hide why the run ended."""
        try:
            self._stack.close()
        except Exception:
            if error is None:
                raise


def safe_name(track_id: str) -> str:
    """A track id as a file name."""
    return re.sub(r"[^\w.-]+", "_", track_id).strip(".") or "track"


def _frame_record(frame: Frame, result: FrameResult) -> dict[str, Any]:
    record: dict[str, Any] = {"frame": frame.index, "stamp": frame.stamp}
    header = getattr(frame, "header", None)
    if header is not None:
        record["stamp_ns"] = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
    record["tracks"] = [
        {
            "id": track.id,
            "expression": track.expression,
            "label": track.label,
            "state": track.state.name,
            "score": round(track.score, 4),
            "box": track.box,
            "area": track.area,
        }
        for track in result.tracks
    ]
    return record


def event_record(event: Event) -> dict[str, Any]:
    """An event as events.json has it."""
    return {
        "frame": event.frame_index,
        "stamp": event.stamp,
        "kind": event.kind.name,
        "track": event.track_id,
        "expression": event.expression,
        "score": round(event.score, 4),
        "detail": event.detail,
    }
