# SPDX-License-Identifier: Apache-2.0
"""How the tracker node starts: with compressed images, waiting for transitions, and not at all,
with the reason."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_model.tracks import EventKind

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

PICTURE = cv2.resize(np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8), (160, 120))


def refusal(node: Any) -> str:
    """The one line with which a node gave up."""
    assert node.process.wait(240) != 0, node.output
    lines = [line for line in node.output.splitlines() if line.strip()]
    wrong = [line for line in lines if "[INFO]" not in line]
    assert len(wrong) == 1, node.output
    return wrong[0]


def test_a_model_folder_that_is_not_there_ends_the_process(
    start_node: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "nothing here"
    assert str(folder) in refusal(start_node(model=str(folder)))


def test_a_folder_that_is_no_checkpoint_ends_the_process(
    start_node: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not a model")
    line = refusal(start_node(model=str(tmp_path)))
    assert str(tmp_path) in line
    assert "config.json" in line


def test_corrupt_weights_end_the_process(
    start_node: Callable[..., Any], nano_folder: Path, tmp_path: Path
) -> None:
    for file in nano_folder.iterdir():
        data = file.read_bytes()
        spoilt = data[: len(data) // 2] if file.suffix == ".safetensors" else data
        (tmp_path / file.name).write_bytes(spoilt)
    assert ".safetensors" in refusal(start_node(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_transport", "pigeon"), ("max_objects", 0), ("status_period", "soon")],
)
def test_a_bad_parameter_ends_the_process(
    start_node: Callable[..., Any], name: str, value: Any
) -> None:
    line = refusal(start_node(**{name: value}))
    assert name in line
    assert str(value) in line


def test_wrong_ros_arguments_end_the_process(start_node: Callable[..., Any]) -> None:
    node = start_node(model="")  # ROS cannot parse `-p model:=`
    assert node.process.wait(240) == 2
    assert "tracker_node: ROS: " in node.output
    assert "Traceback" not in node.output


DEAF = (
    "import time, sa2va_model.sa2va as s; s.Sa2VA.ground = lambda *a, **k: time.sleep(600);"
    "from sa2va_ros.tracker_node import main; raise SystemExit(main())"
)


def test_it_ends_although_a_grounding_does_not(
    start_node: Callable[..., Any], start_client: Callable[[str], Any], nano_folder: Path
) -> None:
    node = start_node(DEAF, model=nano_folder, status_period=0.1, remaps=("__ns:=/deaf",))
    client = start_client("/deaf")
    client.wait_connected()
    client.command("the red mug")
    client.stream_until(PICTURE, lambda c: EventKind.STARTED in [e.type for e in c.got["events"]])
    assert node.stop(seconds=30.0) == 0, (
        node.output
    )  # benchmarks/ros/ros_faults.py measures how soon
    assert "it is not waited for" in node.output


def test_ctrl_c_while_modules_are_imported_is_no_error(wait_for: Any) -> None:
    """As a terminal sends it in the first seconds of `ros2 run` or `ros2 launch`."""
    script = Path(__file__).resolve().parents[3] / "scripts" / "tracker_node"
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "_rclpy" in maps.read_text() or process.poll() is not None, 240, "rclpy")
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output


def test_it_ends_while_it_loads(
    start_node: Callable[..., Any], nano_folder: Path, wait_for: Any
) -> None:
    node = start_node(model=nano_folder)
    wait_for(lambda: "loading" in node.output, 240, "the node to load")
    assert node.stop(seconds=30.0) == 0, node.output
    assert "Traceback" not in node.output


def test_compressed_images(
    start_node: Callable[..., Any],
    start_client: Callable[[str], Any],
    nano_folder: Path,
    wait_for: Any,
) -> None:
    from sensor_msgs.msg import CompressedImage

    settings = {
        "model": nano_folder,
        "image_transport": "compressed",
        "default_expression": "the red mug",
        "status_period": 0.1,
        "threads": 1,
        # Single images are sent below, and none may be lost on the way.
        "qos_overrides./compressed/image/compressed.subscription.reliability": "reliable",
    }
    node = start_node(remaps=("__ns:=/compressed",), **settings)
    client = start_client("/compressed")
    client.wait_connected("image/compressed")
    data = {kind: cv2.imencode(kind, PICTURE[..., ::-1])[1].tobytes() for kind in (".jpg", ".png")}
    for kind, form in ((".png", "png"), (".jpg", "rgb8; jpeg compressed bgr8")):
        message = CompressedImage(header=client.header(), format=form, data=data[kind])
        tracks = client.stream(message, "image/compressed")
        assert tracks.header == message.header
        assert (tracks.height, tracks.width) == (120, 160)
    assert [t.expression for t in tracks.tracks] == ["the red mug"]

    cut = CompressedImage(header=client.header(), format="jpeg", data=data[".jpg"][:-50])
    client.send("image/compressed", cut)
    status = client.status_after(lambda s: s.rejected == 1)
    assert "is cut short" in status.message
    good = CompressedImage(header=client.header(), format="png", data=data[".png"])
    client.stream(good, "image/compressed")
    assert {EventKind.STARTED} <= {event.type for event in client.got["events"]}
    # A bag that starts over begins as the first time: with the default expression.
    client.header(-60.0)
    for _ in range(4):  # not believed at once
        client.send(
            "image/compressed",
            CompressedImage(header=client.header(), format="png", data=data[".png"]),
        )
        time.sleep(0.2)
    past = CompressedImage(header=client.header(), format="png", data=data[".png"])
    tracks = client.stream(past, "image/compressed")
    assert [t.expression for t in tracks.tracks] == ["the red mug"]

    def kinds() -> list[int]:  # events and tracks come on topics of their own, in any order
        return [event.type for event in client.got["events"]]

    wait_for(lambda: EventKind.MEMORY_RESET in kinds(), 20, "the reset")
    after = kinds().index(EventKind.MEMORY_RESET)
    wait_for(lambda: EventKind.STARTED in kinds()[after:], 20, "the default expression")
    assert node.stop() == 0, node.output


def test_without_autostart_it_waits_for_transitions_and_a_failed_one_leaves_it_alive(
    start_node: Callable[..., Any], start_client: Callable[[str], Any], tmp_path: Path
) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    from sa2va_ros.srv import SetTarget

    node = start_node(
        autostart=False,
        model=str(tmp_path / "missing"),
        status_period=0.1,
        remaps=("__ns:=/waiting",),
    )
    client = start_client("/waiting")
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_CONFIGURE
    client.status_after(lambda s: s.state == s.UNCONFIGURED)
    answer = client.call(SetTarget, "sa2va_tracker/set_target", SetTarget.Request(expression="x"))
    assert not answer.accepted
    assert "not configured" in answer.message
    answer = client.call(ChangeState, "sa2va_tracker/change_state", request, 240.0)
    assert not answer.success
    status = client.status_after(lambda s: s.state == s.ERROR)
    assert "missing" in status.message
    assert node.process.poll() is None
    assert node.stop() == 0, node.output


def test_the_table_of_parameters_refuses_by_name() -> None:
    from sa2va_model.errors import InputError
    from sa2va_ros.node.parameters import TABLE

    rows = {row.name: row for row in TABLE}
    assert len(rows) == len(TABLE)
    for row in TABLE:
        row.check(row.default)
        assert row.description.endswith(".")
    for name, value in (("max_age", -1.0), ("max_age", float("nan")), ("image_transport", "x")):
        with pytest.raises(InputError, match=f"parameter {name} is"):
            rows[name].check(value)
    descriptor = rows["max_objects"].descriptor()
    assert (descriptor.read_only, descriptor.integer_range[0].to_value) == (True, 254)
