# SPDX-License-Identifier: Apache-2.0
"""Frames of a recording into a simple folder, written as they come: a run that is stopped loses nothing and goes on.

While a recording is not finished, `images/<name>/.unfinished` says where it comes from. Pictures that are there already
are not written again; the record of a clip is put when the clip is full, and whenever the run ends, however it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.file_names import inside
from sa2va_model.io.frames import Frame
from sa2va_training.data.folder import FolderWriter

CLIP_FRAMES = 200
UNFINISHED = ".unfinished"
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Known:
    """What is known of a recording beside its pictures.

    Attributes:
        labels: the label image of a frame, integers [H, W]; None = nobody annotated it.
        names: what labels are called.
        sentences: what can be asked, and the labels that it means.
    """

    labels: Callable[[Frame], np.ndarray | None]
    names: Mapping[int, str]
    sentences: Mapping[str, Sequence[int]]

    def fields(self) -> dict[str, Any]:
        """Of a record."""
        said = [
            {"text": text, "objects": [str(v) for v in values]}
            for text, values in self.sentences.items()
        ]
        objects = {str(v): {"name": name} if name else {} for v, name in self.names.items()}
        return {"objects": objects, "expressions": said}


@dataclass
class RecordingImport:
    """One recording on its way into a folder.

    Attributes:
        name: of its first clip, and of the folder of its stills.
        came_from: what the frames come from; another source does not go on where this one stopped.
        stills: single pictures instead of clips.
        known: masks and words that come with it.
        clip_frames: of one clip; longer recordings become several.
        kept, clips: what is in the folder so far.
    """

    folder: Path
    name: str
    came_from: str
    stills: bool = False
    known: Known | None = None
    clip_frames: int = CLIP_FRAMES
    kept: int = 0
    clips: int = 0
    _frames: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        """InputError if the name is none, or is taken by something else."""
        self._place = inside(self.folder / "images", self.name, "--name")
        self._marker = self._place / UNFINISHED
        if self._place.exists() and self._started_by() != self.came_from:
            raise InputError(
                f"{self._place}: is there already, expected a new clip; --name gives another name"
            )

    def _started_by(self) -> str | None:
        try:
            return self._marker.read_text(encoding="utf-8")
        except OSError:
            return None

    def write(self, frames: Iterable[Frame], *, fps: float | None, limit: int | None) -> None:
        """Write the frames, at most `fps` of them in a second of the recording and `limit` in all.

        Raises:
            InputError: as the source, after everything before it was written.
        """
        try:
            with FolderWriter(self.folder) as writer:
                self._place.mkdir(parents=True, exist_ok=True)
                self._marker.write_text(self.came_from, encoding="utf-8")
                try:
                    for frame in chosen_frames(frames, fps, limit):
                        self._add(writer, frame)
                finally:
                    self._finish_clip(writer)
        except InputError:
            if self.kept:
                self._marker.unlink(missing_ok=True)  # a damaged source has no more
            raise
        self._marker.unlink(missing_ok=True)

    def _add(self, writer: FolderWriter, frame: Frame) -> None:
        self.kept += 1
        if self.stills:
            place = f"{self.name}/{frame.index:05d}"
            image = writer.add_picture(place, frame.rgb)
            self._label(writer, place, frame)
            self._put(writer, {"image": image}, f"masks/{place}.png", [frame])
            return
        place = f"{self._clip}/{len(self._frames):05d}"
        writer.add_picture(place, frame.rgb)
        self._label(writer, place, frame)
        self._frames.append(replace(frame, rgb=_NO_PIXELS))
        if len(self._frames) == self.clip_frames:
            self._finish_clip(writer)

    @property
    def _clip(self) -> str:
        return self.name if self.clips == 0 else f"{self.name}_{self.clips + 1}"

    def _finish_clip(self, writer: FolderWriter) -> None:
        if self._frames:
            what = {"clip": f"images/{self._clip}"}
            self._put(writer, what, f"masks/{self._clip}", self._frames)
            self.clips += 1
            self._frames = []

    def _label(self, writer: FolderWriter, place: str, frame: Frame) -> None:
        labels = None if self.known is None else self.known.labels(frame)
        if labels is None:
            return
        if labels.shape != frame.rgb.shape[:2]:
            raise InputError(
                f"{self.came_from}: image {frame.index} is {frame.rgb.shape[1]}x{frame.rgb.shape[0]} and its labels "
                f"{labels.shape[1]}x{labels.shape[0]}; expected one size"
            )
        writer.add_labels(place, labels)

    def _put(
        self, writer: FolderWriter, what: dict[str, str], labels: str, frames: Sequence[Frame]
    ) -> None:
        """Put a record; one that an earlier run left keeps what people have written into it since."""
        notes = {"from": self.came_from, **_times(frames)}
        first = {}
        if self.known is not None and (self.folder / labels).exists():
            first = {"labels": labels, **self.known.fields()}
        writer.put(what, first, notes=notes, recording=self.name)


def chosen_frames(frames: Iterable[Frame], fps: float | None, limit: int | None) -> Iterator[Frame]:
    """At most so many frames in a second of the recording, and so many in all; None = all."""
    due, kept = float("-inf"), 0
    for frame in frames:
        if frame.stamp + 1e-9 < due:
            continue
        due = frame.stamp + (1 / fps if fps else 0.0)
        yield frame
        kept += 1
        if kept == limit:
            return


def _times(frames: Sequence[Any]) -> dict[str, Any]:
    """When frames were taken: seconds of the source's own clock, and of a bag the stamps of its messages."""
    found: dict[str, Any] = {"stamps": [round(frame.stamp, 6) for frame in frames]}
    headers = [frame.header for frame in frames if hasattr(frame, "header")]
    if headers:
        stamps = [header.stamp for header in headers]
        found["nanoseconds"] = [stamp.sec * 10**9 + stamp.nanosec for stamp in stamps]
        found["frame_id"] = headers[0].frame_id
    return found
