# SPDX-License-Identifier: Apache-2.0
"""What a run that is killed, or meets a full disk or another run, leaves behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sa2va_cli import output
from sa2va_cli.main import main
from sa2va_model.errors import InputError
from sa2va_model.io.file_names import inside, write_whole
from sa2va_model.io.folder_lock import NAME, FolderLock
from sa2va_ros.bags.bag import read_messages
from sa2va_training.data.recording import UNFINISHED

WRITE = """
import os, sys, time
from pathlib import Path
import numpy as np
from sa2va_cli.output import VideoWriter
from sa2va_ros.bags import writer
from sa2va_ros.bags.bag import BagImages
from sa2va_model.tracks import FrameResult
writer.FLUSH_SECONDS = 0.0
source = BagImages(sys.argv[1])
out = writer.BagWriter(Path(sys.argv[2]) / "bag", source.clock, storage=sys.argv[3])
video = VideoWriter(Path(sys.argv[2]) / "overlay.mp4", 30.0)
for frame in source:
    out.write(FrameResult(frame.stamp, frame.index, 96, 128, ()), frame)
    video.add(frame.rgb, frame.index / 30)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_killed_run_leaves_files_that_can_be_read(
    make: Any, tmp_path: Path, frames: list[np.ndarray], storage: str
) -> None:
    bag = make.bag(tmp_path / "in", frames)
    words = [sys.executable, "-c", WRITE, str(bag), str(tmp_path), storage]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    for topic in ("tracks", "mask"):
        assert len(list(read_messages(tmp_path / "bag", f"/sa2va/{topic}"))) == len(frames)
    with av.open(str(tmp_path / "overlay.mp4")) as video:
        assert len(list(video.decode(video=0))) >= len(frames) - 1


class FullDisk:
    """A file that takes `room` bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def write(self, data: bytes) -> int:
        size = self._file.seek(0, os.SEEK_CUR)
        grows = size + len(data) - os.fstat(self._file.fileno()).st_size
        if grows > self.room:
            self._file.write(data[: len(data) - grows + self.room])
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_records_stay_whole_on_a_full_disk(tmp_path: Path) -> None:
    records = output.JsonRecords(tmp_path / "a.json", '{"frames": [', "]}")
    records.add({"frame": 0})
    records._file = FullDisk(records._file, 10)
    with pytest.raises(OSError, match="No space left"):
        records.add({"frame": 1, "words": "x" * 100})
    records.close()
    assert json.loads((tmp_path / "a.json").read_text()) == {"frames": [{"frame": 0}]}


def test_a_full_disk_cuts_no_picture_and_the_summary_has_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = output.ReservedJson(tmp_path / "summary.json", {"complete": False})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"complete": False}

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        output.write_png(tmp_path / "mask.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(OSError, match="No space left"):
        summary.write({"complete": False, "problem": "No space left on device"})
    assert json.loads((tmp_path / "summary.json").read_text())["problem"]
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    hold = (
        "import sys, pathlib; from sa2va_model.io.folder_lock import FolderLock\n"
        "with FolderLock(pathlib.Path(sys.argv[1])): print(1, flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match=f"process {other.pid} on .* writes to it"):
            FolderLock(tmp_path).__enter__()
        other.kill()
    assert (tmp_path / NAME).exists()
    with FolderLock(tmp_path):  # of a process that is no more
        pass
    assert not (tmp_path / NAME).exists()
    (tmp_path / NAME).write_text(json.dumps({"pid": 1, "host": "another", "started": "1"}))
    with pytest.raises(InputError, match="process 1 on another writes to it"):
        FolderLock(tmp_path).__enter__()


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "..", "", "a\\b", "a\0b", "x" * 300]
)
def test_a_name_from_a_file_stays_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"video is .*; expected"):
        inside(tmp_path, name, "video")
    (tmp_path / "link").symlink_to("/tmp")
    with pytest.raises(InputError, match="expected a name inside"):
        inside(tmp_path, "link/x", "video")
    assert inside(tmp_path, "scene/0001.v2", "video") == tmp_path / "scene" / "0001.v2"


def test_files_of_others_are_not_touched(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    for name in ("tracks.json", "events.json", "overlay.mp4", "summary.json"):
        (out / name).write_text("[1]")
        assert main(["track", str(folder), "--box", "8,36,32,60", "-o", str(out)]) == 2
        assert (out / name).read_text() == "[1]"
        (out / name).unlink()
    (out / "results.json").write_text("mine")
    assert main(["evaluate", str(tmp_path), "-o", str(out), "--restart"]) == 2
    assert (out / "results.json").read_text() == "mine"


def from_bag(source: Path, out: Path, *more: str) -> int:
    return main(["data", "from-bag", str(source), "-o", str(out), "--name", "run", *more])


def record(out: Path) -> dict[str, Any]:
    (line,) = (out / "annotations.jsonl").read_text().splitlines()
    return json.loads(line)


def test_a_cut_recording_keeps_every_frame_that_it_has(
    make: Any, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    bag = make.bag(tmp_path / "in", frames, storage="mcap")
    file = bag / "in.mcap"
    file.write_bytes(file.read_bytes()[:-3000])
    assert from_bag(file, tmp_path / "out") == 2  # said, and nothing lost
    got = record(tmp_path / "out")
    assert len(got["notes"]["stamps"]) == len(frames) - 1  # the last one is cut
    assert len(list((tmp_path / "out" / got["clip"]).glob("*.jpg"))) == len(frames) - 1
    assert not (tmp_path / "out" / got["clip"] / UNFINISHED).exists()


def test_an_import_that_was_stopped_goes_on(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sa2va_training.data.folder import FolderWriter

    out, written, add = tmp_path / "out", [], FolderWriter.add_picture

    def stopped(self: FolderWriter, name: str, rgb: np.ndarray) -> str:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(name)
        return add(self, name, rgb)

    monkeypatch.setattr(FolderWriter, "add_picture", stopped)
    assert from_bag(folder, out) == 130
    assert len(record(out)["notes"]["stamps"]) == 5
    first = out / "images" / "run" / "00000.jpg"
    before = first.stat().st_mtime_ns
    named = {**record(out), "objects": {"1": {"name": "the mug"}}}
    (out / "annotations.jsonl").write_text(json.dumps(named) + "\n")
    monkeypatch.setattr(FolderWriter, "add_picture", add)
    assert from_bag(tmp_path / "other", out) == 2
    assert from_bag(folder, out) == 0
    assert len(record(out)["notes"]["stamps"]) == 12
    assert record(out)["objects"] == {"1": {"name": "the mug"}}
    assert first.stat().st_mtime_ns == before
    assert from_bag(folder, out) == 2  # finished, and nobody's to write over
    assert main(["data", "from-bag", str(folder), "-o", str(out), "--name", "../../x"]) == 2
    assert not (tmp_path.parent / "x").exists()


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.png", b"old")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a.png", "text")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"
