# SPDX-License-Identifier: Apache-2.0
"""The launch files, with the real `ros2 launch` where it is installed. Without it these tests skip and say so."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(path.name for path in (ROOT / "launch").glob("*.launch.py"))
END_SECONDS = 3.0

_absent = [
    name for name in ("rclpy", "launch", "launch_ros", "ros2launch") if find_spec(name) is None
]
needs_launch = pytest.mark.skipif(
    bool(_absent), reason=f"not installed: {', '.join(_absent)} (the ROS 2 wheels lack launch)"
)


def calls(path: Path, name: str) -> list[ast.Call]:
    """The calls of a name in a launch file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name
    ]


def test_there_is_a_launch_file_for_each_use() -> None:
    wanted = {"tracker", "cameras", "sim_demo", "track_bag", "grasp_demo", "follow_demo"}
    wanted |= {"nav2_lifecycle"}
    assert {name.removesuffix(".launch.py") for name in FILES} == wanted


@pytest.mark.parametrize("name", FILES)
def test_executables_of_launch_files_are_installed(name: str) -> None:
    """Without `launch`: read from the source."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    installed = set(re.findall(r"^  scripts/(\w+)$", text, re.MULTILINE))
    used = {
        constant.value
        for call in calls(ROOT / "launch" / name, "Node") + calls(ROOT / "launch" / name, "node")
        for argument in (*call.args[:1], *(k.value for k in call.keywords if k.arg == "executable"))
        for constant in ast.walk(argument)
        if isinstance(constant, ast.Constant) and constant.value not in ("truth", "true")
    }
    assert used - {"rviz2", "lifecycle_manager"} <= installed  # RViz's and Nav2's own
    assert used


def test_layouts_show_topics_that_the_node_publishes() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "sa2va_ros").rglob("*.py")
    )
    rviz = (ROOT / "rviz" / "tracker.rviz").read_text(encoding="utf-8")
    assert yaml.safe_load(rviz)["Visualization Manager"]["Displays"]
    foxglove = json.loads((ROOT / "foxglove" / "tracker.json").read_text(encoding="utf-8"))
    topics = set(re.findall(r"/sa2va/([a-z_0-9]+)", rviz + json.dumps(foxglove)))
    assert {"overlay", "markers", "target_points", "tracks", "command"} <= topics
    for topic in topics - {"sa2va_tracker"}:
        assert f'"{topic}"' in source, topic
    panels: list[str] = []

    def collect(part: Any) -> None:
        if isinstance(part, str):
            panels.append(part)
        else:
            collect(part["first"])
            collect(part["second"])

    collect(foxglove["layout"])
    assert sorted(panels) == sorted(foxglove["configById"])


# --- with the real thing --------------------------------------------------------------------------


def ros2(*words: str) -> list[str]:
    code = "import sys; from ros2cli.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, *words]


def load(name: str) -> ModuleType:
    path = ROOT / "launch" / name
    module = ModuleType(name.replace(".", "_"))
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


@needs_launch
@pytest.mark.parametrize("name", FILES)
def test_show_args_explains_every_argument(name: str) -> None:
    done = subprocess.run(
        ros2("launch", str(ROOT / "launch" / name), "--show-args"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^    '(\w+)':\n        (.+)$", done.stdout, re.MULTILINE)
    assert len(found) >= 8
    for argument, text in found:
        assert len(text) > 8, (argument, text)
        assert "no description" not in text.lower()


@needs_launch
@pytest.mark.parametrize("name", FILES)
def test_descriptions_name_the_same_arguments_as_the_file_they_include(name: str) -> None:
    from launch.actions import DeclareLaunchArgument

    known = {argument.name for argument in load("tracker.launch.py").arguments()}
    module = load(name)
    for handed in getattr(module, "TRACKER", {}):
        assert handed in known
    entities = module.generate_launch_description().entities
    names = [e.name for e in entities if isinstance(e, DeclareLaunchArgument)]
    assert len(names) == len(set(names))


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[..., tuple[Any, Path]]]:
    """Starts `ros2 launch`; whatever it left behind is ended."""
    running: list[Any] = []

    def start(name: str, *arguments: str) -> tuple[Any, Path]:
        log = tmp_path / "launch.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ros2("launch", "sa2va_ros", name, *arguments),
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ROS_LOG_DIR": str(tmp_path / "log")},
                start_new_session=True,
            )
        running.append(process)
        return process, log

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def end(process: Any, log: Path) -> None:
    """Ctrl-C, as a terminal sends it: to the whole group."""
    pids = [int(n) for n in re.findall(r"started with pid \[(\d+)\]", log.read_text())]
    assert pids
    idle = os.getloadavg()[0] < (os.cpu_count() or 1)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    if (
        idle
    ):  # with more work than cores nothing can be said about time, and launch itself loses patience
        assert time.monotonic() - began < END_SECONDS
        assert text.count("process has finished cleanly") == len(pids), text


@needs_launch
def test_tracker_on_the_simulated_camera_tracks_and_ends_with_ctrl_c(
    launched: Any, start_client: Any, wait_for: Any, nano_folder: Path
) -> None:
    """tracker.launch.py on a camera of its own namespace, as on a real robot."""
    client = start_client("/eye")
    camera = subprocess.Popen(
        [sys.executable, "-m", "sa2va_ros.sim.camera", "--ros-args", "-p", "scene:=demo"]
        + [word for name in ("__ns:=/cam/color", "image:=image_raw") for word in ("-r", name)]
    )
    try:
        process, log = launched(
            "tracker.launch.py",
            "namespace:=eye",
            "camera_ns:=/cam",
            "depth_topic:=/cam/color/depth",
            f"model:={nano_folder}",
            "prompt:=the red mug",
        )
        wait_for(lambda: len(client.got["tracks"]) > 5, 240, f"tracks: {log}")
        message = client.got["tracks"][-1]
        assert message.header.frame_id == "camera_optical_frame"
        assert [track.expression for track in message.tracks] == ["the red mug"]
        end(process, log)
    finally:
        camera.send_signal(signal.SIGINT)
        assert camera.wait(30) == 0


@needs_launch
def test_a_launch_ends_with_status_1_when_the_tracker_fails(launched: Any) -> None:
    process, log = launched("tracker.launch.py", "model:=/no/such")
    assert process.wait(120) == 1, log.read_text()
    assert "/no/such: no such folder" in log.read_text()


@needs_launch
def test_the_grasp_demo_launches_and_picks_up(
    launched: Any, start_client: Any, wait_for: Any
) -> None:
    from std_msgs.msg import String

    from sa2va_ros.support.qos import reliable

    client = start_client("/sa2va")
    client.listen(String, "pick_result", reliable(10))
    process, log = launched(
        "grasp_demo.launch.py", "truth:=true", "command:=pick up the red bottle"
    )
    wait_for(lambda: client.got["pick_result"], 240, f"a result: {log}")
    result = json.loads(client.got["pick_result"][-1].data)
    assert result["outcome"] == "held", (result, log.read_text())
    end(process, log)


@needs_launch
def test_a_recording_is_tracked_and_the_launch_ends_with_it(
    launched: Any, start_client: Any, nano_folder: Path, tmp_path: Path
) -> None:
    from sa2va_ros.bags.bag import typestore

    bag = tmp_path / "bag"
    write_bag(bag, typestore())
    client = start_client("/sa2va")
    process, log = launched(
        "track_bag.launch.py", f"bag:={bag}", f"model:={nano_folder}", "prompt:=the red mug"
    )
    assert process.wait(240) == 0, log.read_text()
    stamps = {(m.header.stamp.sec, m.header.stamp.nanosec) for m in client.got["tracks"]}
    assert stamps <= {(100 + k // 10, k % 10 * 100_000_000) for k in range(20)}
    assert len(stamps) >= 5, log.read_text()


def write_bag(folder: Path, store: Any) -> None:
    """Two seconds of a moving square at 10 Hz on the topic of a RealSense."""
    import numpy as np
    from rosbags.rosbag2 import StoragePlugin, Writer

    kind = "sensor_msgs/msg/Image"
    types = store.types
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        link = writer.add_connection("/camera/camera/color/image_raw", kind, typestore=store)
        for k in range(20):
            pixels = np.full((48, 64, 3), 90, np.uint8)
            pixels[10:30, 5 + k : 25 + k] = (200, 30, 30)
            stamp = types["builtin_interfaces/msg/Time"](100 + k // 10, k % 10 * 100_000_000)
            header = types["std_msgs/msg/Header"](stamp, "camera_color_optical_frame")
            message = types[kind](header, 48, 64, "rgb8", 0, 192, pixels.ravel())
            writer.write(
                link, 100_000_000_000 + k * 100_000_000, store.serialize_cdr(message, kind)
            )


@pytest.mark.skipif("rclpy" in _absent, reason="ROS 2 is not installed: `make setup` installs it")
def test_the_bag_player_plays_what_was_recorded_and_ends(
    start_node: Any, start_client: Any, wait_for: Any, tmp_path: Path
) -> None:
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import Image

    from sa2va_ros.bags.bag import typestore
    from sa2va_ros.support.qos import reliable

    write_bag(tmp_path / "bag", typestore())
    client = start_client("/listener")
    client.listen(Image, "/camera/camera/color/image_raw", reliable(50))
    client.listen(Clock, "/clock", reliable(50))
    node = start_node("bag_player", bag=str(tmp_path / "bag"), speed=2.0, wait=60.0)
    assert node.process.wait(240) == 0, node.output
    images = client.got["/camera/camera/color/image_raw"]
    wait_for(lambda: len(images) == 20, 20, f"20 images, came {len(images)}")
    assert [m.header.stamp.sec for m in images] == [100] * 10 + [101] * 10
    assert images[3].data[0] == 90
    clock = [m.clock.sec + m.clock.nanosec / 1e9 for m in client.got["/clock"]]
    assert clock == sorted(clock)
    assert clock[0] >= 100
    broken = start_node("bag_player", bag="/no/such")
    assert broken.process.wait(240) == 2
    assert "parameter bag is '/no/such'; expected a rosbag2" in broken.output
