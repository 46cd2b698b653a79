# SPDX-License-Identifier: Apache-2.0
"""LeRobotDataset v3 both ways: parquet tables (pyarrow), and videos that hold the frames of several episodes (PyAV).

meta/info.json                                       frame rate, features, where files lie
meta/tasks.parquet, meta/episodes/chunk-000/…        what was to be done; for each episode its length and its videos
data/chunk-000/file-000.parquet                      one row for each frame
videos/observation.images.CAMERA/chunk-000/…mp4      the frames of all episodes, one behind the other

An episode becomes a clip for each camera. Nothing is marked in it: `propagate` and `label` come after.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import av
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.frames import VideoFile
from sa2va_model.io.json_files import read_json
from sa2va_training.data.folder import FolderWriter

VERSION = "v3.0"
INFO = "meta/info.json"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_CAMERA = "observation.images."
_SAMPLED = 50  # frames for statistics


@dataclass(frozen=True)
class Part:
    """The frames of one episode in one camera's video file."""

    episode: int
    first: int
    length: int
    task: str


@dataclass(frozen=True)
class Taken:
    """What was imported."""

    clips: int
    frames: int
    episodes: int


def is_lerobot(root: Path) -> bool:
    """Whether a folder holds such a dataset, of whatever version."""
    file = root / INFO
    return file.is_file() and "codebase_version" in read_json(file, dict)


def read_lerobot(root: Path, output: Path, *, cameras: Sequence[str] = (), every: int = 1) -> Taken:
    """Writes the episodes as clips of a simple folder.

    Args:
        cameras: only these (`top`, or the feature's whole name); () = all.
        every: take every n-th frame.

    Raises:
        InputError: another version, a table or video that is missing or damaged, or no such camera.
    """
    info = read_json(root / INFO, dict)
    version = str(info.get("codebase_version"))
    if version != VERSION:
        raise InputError(
            f"{root / INFO}: codebase_version is {version}; expected {VERSION} (lerobot converts older ones)"
        )
    features, fps = info.get("features"), info.get("fps")
    if not isinstance(features, dict) or not isinstance(fps, (int, float)) or not fps > 0:
        raise InputError(f"{root / INFO}: expected features and fps")
    known = [k for k, v in features.items() if isinstance(v, dict) and v.get("dtype") == "video"]
    chosen = [k for k in known if not cameras or {k, k.removeprefix(_CAMERA)} & set(cameras)]
    missing = [c for c in cameras if c not in known and _CAMERA + c not in known]
    if missing or not chosen:
        names = ", ".join(k.removeprefix(_CAMERA) for k in known) or "none"
        raise InputError(f"{root}: has no video {missing[0] if missing else ''!r}; it has {names}")
    rows = _rows(root)
    path = str(info.get("video_path", VIDEO))
    clips = frames = 0
    with FolderWriter(output) as writer:
        for key in chosen:
            for place, parts in _files(rows, key, float(fps), root / INFO).items():
                file = root / path.format(video_key=key, chunk_index=place[0], file_index=place[1])
                for part, shown in _cut(file, parts, every):
                    name = f"episode_{part.episode:06d}/{key.removeprefix(_CAMERA)}"
                    for t, rgb in enumerate(shown):
                        writer.add_picture(f"{name}/{t:05d}", rgb)
                        frames += 1
                    notes = {
                        "from": str(file),
                        "task": part.task,
                        "stamps": [t / float(fps) for t in range(0, part.length, every)],
                    }
                    recording = f"episode_{part.episode:06d}"
                    writer.put({"clip": f"images/{name}"}, notes=notes, recording=recording)
                    clips += 1
    return Taken(clips, frames, len(rows))


def _rows(root: Path) -> list[dict[str, Any]]:
    """One row for each episode."""
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise InputError(
            f"{root}: has no meta/episodes/*/*.parquet; expected LeRobotDataset {VERSION}"
        )
    return [row for file in files for row in _read(file)]


def _read(file: Path) -> list[dict[str, Any]]:
    arrow = _pyarrow()
    try:
        rows: list[dict[str, Any]] = arrow.parquet.read_table(file).to_pylist()
    except (arrow.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{file}: no readable parquet file ({' '.join(str(error).split())})"
        ) from error
    return rows


def _files(
    rows: Sequence[Mapping[str, Any]], key: str, fps: float, where: Path
) -> dict[tuple[int, int], list[Part]]:
    """The episodes in each video file of a camera, in order."""
    found: dict[tuple[int, int], list[Part]] = {}
    for row in rows:
        try:
            place = int(row[f"videos/{key}/chunk_index"]), int(row[f"videos/{key}/file_index"])
            first = round(float(row[f"videos/{key}/from_timestamp"]) * fps)
            task = ", ".join(map(str, row.get("tasks") or ()))
            part = Part(int(row["episode_index"]), first, int(row["length"]), task)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where.parent}: an episode lacks {error} or it is no number"
            ) from error
        found.setdefault(place, []).append(part)
    return {place: sorted(parts, key=lambda p: p.first) for place, parts in found.items()}


def _cut(
    file: Path, parts: Sequence[Part], every: int
) -> Iterator[tuple[Part, Iterator[np.ndarray]]]:
    """Each episode of a video with its frames; the file is decoded once."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; the episodes say that it is there")
    frames = enumerate(frame.rgb for frame in VideoFile(file))

    def taken(part: Part) -> Iterator[np.ndarray]:
        count = 0
        for n, rgb in frames:
            if n < part.first:
                continue
            if (n - part.first) % every == 0:
                yield rgb
            count += 1
            if count == part.length:
                return
        raise InputError(
            f"{file}: ends {part.length - count} frames before episode {part.episode} does"
        )

    for part in parts:
        if part.length > 0:
            yield part, taken(part)


class LeRobotWriter:
    """Writes episodes of one camera as a LeRobotDataset; tables are written when it is closed.

    Args:
        root: a new folder.
        fps: of the episodes; frame n of an episode is at n / fps.
        camera: name of the feature behind `observation.images.`.
    """

    def __init__(self, root: Path, fps: float, camera: str = "camera") -> None:
        if root.exists() and any(root.iterdir()):
            raise InputError(f"{root}: is not empty; expected a new folder")
        _pyarrow()
        self.root, self.fps, self.key = root, fps, _CAMERA + camera
        self._rate = Fraction(fps).limit_denominator(1000)
        self._file = root / VIDEO.format(video_key=self.key, chunk_index=0, file_index=0)
        self._video: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._frames: list[dict[str, Any]] = []
        self._episodes: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._sample: list[np.ndarray] = []

    def add_episode(self, frames: Iterable[tuple[np.ndarray, float]], task: str) -> int:
        """Writes an episode; returns its frames.

        Args:
            frames: uint8 [H, W, 3] of one size, with the second at which each was taken.

        Raises:
            InputError: a frame of another size.
        """
        episode, start = len(self._episodes), len(self._frames)
        number = self._tasks.setdefault(task, len(self._tasks))
        for n, (rgb, stamp) in enumerate(frames):
            self._encode(rgb)
            self._frames.append(
                {
                    "timestamp": n / self.fps,
                    "observation.stamp": stamp,
                    "frame_index": n,
                    "episode_index": episode,
                    "index": len(self._frames),
                    "task_index": number,
                }
            )
        end = len(self._frames)
        if end == start:
            return 0
        self._episodes.append(
            {
                "episode_index": episode,
                "tasks": [task],
                "length": end - start,
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": start,
                "dataset_to_index": end,
                f"videos/{self.key}/chunk_index": 0,
                f"videos/{self.key}/file_index": 0,
                f"videos/{self.key}/from_timestamp": start / self.fps,
                f"videos/{self.key}/to_timestamp": end / self.fps,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        return end - start

    def _encode(self, rgb: np.ndarray) -> None:
        height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2  # yuv420p has pairs of pixels
        if self._video is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._video = av.open(str(self._file), "w")
            self._stream = self._video.add_stream("libx264", rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt, self._size = "yuv420p", (height, width)
            # As LeRobot does: any frame is two away from one that stands alone.
            self._stream.options = {"g": "2", "crf": "18"}
        if (height, width) != self._size:
            raise InputError(
                f"{self._file}: a frame is {width}x{height}; expected {self._size[1]}x{self._size[0]} throughout"
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), "rgb24")
        frame.pts, frame.time_base = len(self._frames), 1 / self._rate
        self._video.mux(self._stream.encode(frame))
        if len(self._frames) % 20 == 0 and len(self._sample) < _SAMPLED:
            self._sample.append(rgb[::4, ::4] / 255.0)

    def close(self) -> None:
        """Finish the video and write the tables.

        Raises:
            InputError: no episode has a frame.
        """
        if self._video is None:
            raise InputError(f"{self.root}: no frame to write")
        self._video.mux(self._stream.encode(None))
        self._video.close()
        arrow = _pyarrow()
        tasks = [{"task_index": n, "__index_level_0__": task} for task, n in self._tasks.items()]
        data = DATA.format(chunk_index=0, file_index=0)
        for name, rows in ((TASKS, tasks), (EPISODES, self._episodes), (data, self._frames)):
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            arrow.parquet.write_table(_table(arrow, rows), file)
        for name, values in ((INFO, self._info()), ("meta/stats.json", self._stats())):
            text = json.dumps(values, indent=4) + "\n"
            (self.root / name).write_text(text, encoding="utf-8")

    def _info(self) -> dict[str, Any]:
        height, width = self._size
        whole = int(self.fps) if self.fps == int(self.fps) else self.fps
        numbers = {
            k: ("int64" if isinstance(v, int) else "float32") for k, v in self._frames[0].items()
        }
        features: dict[str, Any] = {
            self.key: {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": "h264",
                    "video.pix_fmt": "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": whole,
                    "video.channels": 3,
                    "has_audio": False,
                },
            }
        }
        for name, kind in numbers.items():
            kind = "float64" if name == "observation.stamp" else kind
            features[name] = {"dtype": kind, "shape": [1], "names": None}
        return {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": len(self._episodes),
            "total_frames": len(self._frames),
            "total_tasks": len(self._tasks),
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": whole,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA,
            "video_path": VIDEO,
            "features": features,
        }

    def _stats(self) -> dict[str, Any]:
        pixels = np.concatenate([shown.reshape(-1, 3) for shown in self._sample])
        found = {name: getattr(pixels, name)(0) for name in ("min", "max", "mean", "std")}
        shaped = {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()}
        return {self.key: {**shaped, "count": [len(self._sample)]}}

    def __enter__(self) -> LeRobotWriter:
        """Use as `with LeRobotWriter(…) as dataset`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Write the tables, unless something failed."""
        if kind is None:
            self.close()


def _table(arrow: ModuleType, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as LeRobot types them: whole numbers int64, seconds of an episode float32."""
    table = arrow.Table.from_pylist([dict(row) for row in rows])
    if "timestamp" in table.column_names:
        place = table.column_names.index("timestamp")
        table = table.set_column(place, "timestamp", table["timestamp"].cast(arrow.float32()))
    if "__index_level_0__" in table.column_names:  # pandas' index, by which LeRobot finds a task
        plain = {"name": None, "field_name": None, "metadata": {"encoding": "UTF-8"}}
        text = {"pandas_type": "unicode", "numpy_type": "object"}
        column = {"name": None, "field_name": "__index_level_0__", "metadata": None, **text}
        index = {
            "index_columns": ["__index_level_0__"],
            "column_indexes": [{**plain, **text}],
            "columns": [column],
            "pandas_version": "2.2.0",
        }
        table = table.replace_schema_metadata({b"pandas": json.dumps(index).encode()})
    return table


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "LeRobotDataset needs the package pyarrow, which is not installed: pip install 'sa2va_ros[data]'"
        ) from error
    found: ModuleType = pyarrow
    return found
