# SPDX-License-Identifier: Apache-2.0
"""LeRobotDataset v3: a made one of the published layout, and there and back."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from sa2va_cli.main import main
from sa2va_training.data.exchange.formats import recognise
from sa2va_training.data.readers.simple import SimpleFolder

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
LENGTHS = (4, 3, 5)
KEYS = ("observation.images.top", "observation.images.wrist")


def shade(camera: int, episode: int, t: int) -> int:
    return 30 + 90 * camera + 25 * episode + 4 * t


def write_video(file: Path, values: list[int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as video:
        stream = video.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for value in values:
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), value, np.uint8), "rgb24")
            video.mux(stream.encode(frame))
        video.mux(stream.encode(None))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Two cameras; the first two episodes share a video file, the third has the next one."""
    root = tmp_path / "so101"
    rows: list[dict[str, Any]] = []
    for episode, length in enumerate(LENGTHS):
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": [f"task {episode}"],
            "length": length,
        }
        for key in KEYS:
            row[f"videos/{key}/chunk_index"] = 0
            row[f"videos/{key}/file_index"] = episode // 2
            start = LENGTHS[0] if episode == 1 else 0
            row[f"videos/{key}/from_timestamp"] = start / 10
            row[f"videos/{key}/to_timestamp"] = (start + length) / 10
        rows.append(row)
    for camera, key in enumerate(KEYS):
        values = [[shade(camera, e, t) for t in range(n)] for e, n in enumerate(LENGTHS)]
        for n, shades in enumerate(([*values[0], *values[1]], values[2])):
            write_video(root / f"videos/{key}/chunk-000/file-{n:03d}.mp4", shades)
    table = root / "meta/episodes/chunk-000/file-000.parquet"
    table.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    features: dict[str, Any] = {key: {"dtype": "video", "shape": [32, 48, 3]} for key in KEYS}
    info = {
        "codebase_version": "v3.0",
        "fps": 10,
        "total_episodes": 3,
        "features": features | {"action": {"dtype": "float32", "shape": [6]}},
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def frames_of(folder: Path, clip: str) -> list[float]:
    files = sorted((folder / clip).iterdir())
    return [float(cv2.imread(str(file)).mean()) for file in files]


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "annotations.jsonl").read_text().splitlines()
    return {record["clip"]: record for record in map(json.loads, lines)}


def test_episodes_of_several_cameras_become_clips(made: Path, tmp_path: Path) -> None:
    assert recognise(made) == "lerobot"
    folder = tmp_path / "data"
    assert main(["data", "import", str(made), "-o", str(folder)]) == 0
    records = records_of(folder)
    assert len(records) == 6
    for episode, length in enumerate(LENGTHS):
        for camera, name in enumerate(("top", "wrist")):
            clip = f"images/episode_{episode:06d}/{name}"
            expected = [shade(camera, episode, t) for t in range(length)]
            assert frames_of(folder, clip) == pytest.approx(expected, abs=3)
            record = records[clip]
            assert record["recording"] == f"episode_{episode:06d}"  # both cameras saw the same
            assert record["notes"]["task"] == f"task {episode}"
            assert record["notes"]["stamps"] == pytest.approx([t / 10 for t in range(length)])
    assert len(SimpleFolder(folder).records) == 6
    fewer = tmp_path / "fewer"
    words = ["data", "import", str(made), "-o", str(fewer), "--camera", "wrist", "--every", "2"]
    assert main(words) == 0
    assert frames_of(fewer, "images/episode_000001/wrist") == pytest.approx(
        [shade(1, 1, 0), shade(1, 1, 2)], abs=3
    )


def test_a_recording_there_and_back(tmp_path: Path) -> None:
    pictures = tmp_path / "run1"
    pictures.mkdir()
    for t in range(6):
        cv2.imwrite(str(pictures / f"{t}.png"), np.full((33, 48, 3), 40 + 20 * t, np.uint8))
    out, task = tmp_path / "set", "pick the mug"
    words = ["data", "from-bag", str(pictures), "-o", str(out), "--layout", "lerobot"]
    assert main([*words, "--fps", "30", "--task", task]) == 0
    assert main([*words, "--fps", "30"]) == 2  # nothing is overwritten
    info = json.loads((out / "meta/info.json").read_text())
    key = "observation.images.camera"
    assert (info["codebase_version"], info["total_frames"], info["fps"]) == ("v3.0", 6, 30)
    assert info["features"][key]["shape"] == [32, 48, 3]  # video has pairs of rows
    rows = parquet.read_table(out / "data/chunk-000/file-000.parquet")
    assert rows.schema.field("timestamp").type == pyarrow.float32()
    assert rows["index"].to_pylist() == list(range(6))
    (episode,) = parquet.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert episode[f"videos/{key}/to_timestamp"] == pytest.approx(6 / 30)
    assert parquet.read_table(out / "meta/tasks.parquet").to_pylist() == [
        {"task_index": 0, "__index_level_0__": task}
    ]
    back = tmp_path / "back"
    assert main(["data", "import", str(out), "-o", str(back)]) == 0
    ((clip, record),) = records_of(back).items()
    assert frames_of(back, clip) == pytest.approx([40 + 20 * t for t in range(6)], abs=3)
    assert record["notes"]["task"] == task


@pytest.mark.parametrize(
    ("break_", "words"),
    [
        (lambda root: (root / "videos" / KEYS[0] / "chunk-000/file-001.mp4").unlink(), "no such file"),
        (lambda root: (root / "meta/episodes/chunk-000/file-000.parquet").write_bytes(b"PAR"), "no readable parquet"),
        (lambda root: (root / "meta/info.json").write_text('{"codebase_version": "v2.1"}'), "is v2.1; expected v3.0"),
        (lambda root: write_video(root / "videos" / KEYS[0] / "chunk-000/file-000.mp4", [9] * 5), "ends 2 frames"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    made: Path, tmp_path: Path, break_: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_(made)
    assert main(["data", "import", str(made), "-o", str(tmp_path / "data")]) == 2
    assert words in capsys.readouterr().err


def test_a_camera_that_is_not_there(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "import", str(made), "-o", str(tmp_path / "data"), "--camera", "left"]
    assert main(words) == 2
    assert "has no video 'left'; it has top, wrist" in capsys.readouterr().err
