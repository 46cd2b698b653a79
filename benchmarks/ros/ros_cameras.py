# SPDX-License-Identifier: Apache-2.0
"""What a second camera costs: memory of one process with one and with two cameras, and of two processes.

    python benchmarks/ros/ros_cameras.py [--seconds 20] [--model DIR]

Simulated cameras at 10 Hz; one object is followed on each. Resident memory in MiB, processed images a second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from sa2va_ros.msg import TrackerStatus
from sa2va_ros.support.qos import reliable

NAMES = ("front", "wrist")


def main() -> int:
    """Measure the three, print a line of JSON for each and the second camera's share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--model", default="")
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init()
    one = measure(args, [["cameras_node", *NAMES[:1]]])
    two = measure(args, [["cameras_node", *NAMES]])
    apart = measure(args, [["cameras_node", name] for name in NAMES])
    for name, row in (("one camera", one), ("two cameras", two), ("two processes", apart)):
        print(json.dumps({"what": name, **row}))
    share = (two["MiB"] - one["MiB"]) / one["MiB"]
    print(json.dumps({"second camera, share of the first": round(share, 3)}))
    rclpy.shutdown()
    return 0


def measure(args: argparse.Namespace, groups: list[list[str]]) -> dict[str, Any]:
    """Start a process for each group of cameras, follow one object on each, read memory and rates."""
    names = [name for _, *names in groups for name in names]
    with camera_processes(names), trackers(args.model, groups) as nodes:
        client = rclpy.create_node("measuring")
        latest: dict[str, TrackerStatus] = {}
        for name in names:
            topic = f"/sa2va/{name}/sa2va_tracker/status"
            client.create_subscription(
                TrackerStatus,
                topic,
                lambda message, name=name: latest.__setitem__(name, message),
                reliable(1, latched=True),
            )
        say = {n: client.create_publisher(String, f"/sa2va/{n}/command", 10) for n in names}
        executor = SingleThreadedExecutor()
        executor.add_node(client)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        wait(lambda: len(latest) == len(names) and all(s.processed for s in latest.values()))
        for publisher in say.values():
            publisher.publish(String(data="the red mug"))
        before = {name: latest[name].processed for name in names}
        time.sleep(args.seconds)
        memory = sum(resident(node.pid) for node in nodes)
        done = {name: latest[name].processed - before[name] for name in names}
        rates = {name: round(count / args.seconds, 1) for name, count in done.items()}
        executor.shutdown()
        client.destroy_node()
        thread.join(5)
    return {"MiB": round(memory), "images a second": rates}


def wait(condition: Any, seconds: float = 240) -> None:
    """Until it is true.

    Raises:
        TimeoutError: it is not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing was tracked within {seconds:.0f} s")
        time.sleep(0.1)


@contextmanager
def camera_processes(names: list[str]) -> Iterator[None]:
    """A simulated camera for each name."""
    rules = [["-r", f"__ns:=/{n}", "-r", "image:=image_raw"] for n in names]
    more = ["-p", "scene:=demo", "-p", "rate:=10.0"]
    with processes([["sa2va_ros.sim.camera", *rule, *more] for rule in rules]):
        yield


@contextmanager
def trackers(model: str, groups: list[list[str]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A process for each group of cameras."""
    commands = []
    for module, *names in groups:
        listed = ", ".join(names)
        given = {"cameras": f"[{listed}]", "image_topic": "image_raw", "depth_topic": "depth"}
        given |= {"camera_info_topic": "camera_info", "model": f"'{model}'"}
        words = [word for key, value in given.items() for word in ("-p", f"{key}:={value}")]
        commands.append([f"sa2va_ros.{module}", "-r", "sa2va_cameras:__ns:=/sa2va", *words])
    with processes(commands) as started:
        yield started


@contextmanager
def processes(commands: list[list[str]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Python modules with ROS arguments; ended as Ctrl-C does."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, "--ros-args", *words], stdout=subprocess.DEVNULL
        )
        for module, *words in commands
    ]
    try:
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGINT)
        for process in started:
            process.wait(60)


def resident(pid: int) -> float:
    """MiB."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    raise SystemExit(main())
