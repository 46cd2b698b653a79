# SPDX-License-Identifier: Apache-2.0
"""`sa2va demo` as a process: how it refuses, and that it leaves nothing running behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from sa2va_cli.main import main; raise SystemExit(main())"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, "demo", *words], stdout=pipe, stderr=pipe, text=True)


def children(process: int) -> list[int]:
    """The processes that a process started."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "/no/such/model"), "--model /no/such/model: no such folder"),
        (("--rate", "0"), "--rate 0: expected 0.1 to 60"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    process = start("-o", str(tmp_path), *words)
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 2
    assert says in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_file_in_place_of_the_bag_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "thesis.txt").write_text("precious")
    process = start("-o", str(tmp_path))
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 2
    assert "no bag of an earlier demo" in errors
    assert (tmp_path / "bag" / "thesis.txt").read_text() == "precious"


def test_a_node_that_cannot_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    process = start("-o", str(tmp_path / "out"), "--model", str(tmp_path / "empty"))
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 1
    assert "tracker_node: the process ended with status 2" in errors
    assert "config.json" in errors


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_interrupted_it_ends_its_nodes_and_keeps_its_recording(
    tmp_path: Path, nano_folder: Path, wait_for: Callable[..., object]
) -> None:
    from rosbags.rosbag2 import Reader

    process = start("-o", str(tmp_path), "--model", str(nano_folder))
    wait_for(lambda: len(children(process.pid)) == 2, 240, "both nodes")
    nodes = children(process.pid)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert not [number for number in nodes if os.path.exists(f"/proc/{number}")]
    with Reader(tmp_path / "bag") as bag:
        assert {"/sa2va/tracks", "/sa2va/image"} <= {c.topic for c in bag.connections}
