# SPDX-License-Identifier: Apache-2.0
"""The loops closed over real DDS, each node a process of its own, with the simulator's masks in place of a model's."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sa2va_cli.demo.episodes import check_episodes
from sa2va_model.errors import InputError

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")


def sa2va(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sa2va_cli.main import main; raise SystemExit(main())"]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=280)


def ran(folder: Path, name: str, *words: str) -> dict[str, Any]:
    done = sa2va(*words, "--episodes", "1", "--truth", "-o", str(folder))
    logs = {log.name: log.read_text()[-1500:] for log in folder.glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    assert not any("Traceback" in text for text in logs.values()), logs
    assert (folder / "episodes.mp4").stat().st_size > 10_000
    return dict(json.loads((folder / f"{name}.json").read_text()))


def test_a_gripper_picks_up_what_it_is_told(tmp_path: Path) -> None:
    episode = ran(tmp_path, "grasping", "grasp-demo", "--seed", "1", "--speed", "5")["episodes"][0]
    assert episode["success"], json.dumps(episode)
    assert episode["command"] == "the red bottle"
    assert episode["believed"] == "held"
    assert episode["grasp_error"] < 0.02
    assert (tmp_path / "episode_1.png").exists()


def test_a_base_keeps_what_it_is_told_in_view(tmp_path: Path) -> None:
    words = ("follow-demo", "--seed", "1", "--seconds", "14", "--speed", "2")
    episode = ran(tmp_path, "following", *words)["episodes"][0]
    assert episode["success"], json.dumps(episode)
    assert episode["in_view"] > 0.9
    assert episode["place_error"] < 0.15
    assert episode["nearest"] > 0.3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("grasp-demo", "--episodes", "0"), "--episodes 0: expected 1 or more"),
        (("grasp-demo", "--seed", "-1"), "--seed -1: expected 0 to"),
        (("grasp-demo", "--sentences", "attribute+smell"), "'smell' is none of attribute, size"),
        (("grasp-demo", "--pace", "-1"), "--pace -1: expected 0 to 60"),
        (("grasp-demo", "--model", "/no/such"), "--model /no/such: no such folder"),
        (("follow-demo", "--seconds", "1"), "--seconds 1: expected 5 to 3600"),
        (("follow-demo", "--distance", "9"), "--distance 9: expected 0.4 to 2 metres"),
    ],
)
def test_wrong_input_is_refused_in_one_line(words: tuple[str, ...], says: str) -> None:
    done = sa2va(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_kitchen_needs_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA2VA_FURNITURE", str(tmp_path))
    given = {"episodes": 1, "seed": 0, "pace": 0.3, "speed": 1.0, "model": "", "scene": "kitchen"}
    with pytest.raises(InputError, match=r"sweethome3d-furniture"):
        check_episodes(argparse.Namespace(**given))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_interrupted_it_leaves_no_node_behind(tmp_path: Path, wait_for: Any) -> None:
    import signal

    command = [sys.executable, "-c", "from sa2va_cli.main import main; raise SystemExit(main())"]
    process = subprocess.Popen(
        [*command, "grasp-demo", "--truth", "-o", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell that runs this in the background has its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: len(path.read_text().split()) == 3, 240, "three nodes")
    nodes = [int(number) for number in path.read_text().split()]
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert not [number for number in nodes if os.path.exists(f"/proc/{number}")]
