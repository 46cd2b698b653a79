# SPDX-License-Identifier: Apache-2.0
"""Our nodes as processes of their own, on a ROS domain that nobody else hears."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_ros.support.executables import EXECUTABLES

NAMESPACE = "/sa2va"
START_SECONDS = 600.0  # on a busy machine; a process that ends is told at once


def need_ros() -> None:
    """Raise InputError, with what to do, unless ROS 2 and our messages are there."""
    for module in ("rclpy", "sa2va_ros.msg"):
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f"the Python module {module} is not there; expected ROS 2 and this package's messages "
                "(`make demo` sets both up; or source your ROS 2 and its workspace)"
            )


def keep_to_ourselves() -> None:
    """A domain of its own on this machine only: no robot hears what follows, and none disturbs it."""
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(1, 100))
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


@contextmanager
def node(
    name: str, log: Path, *, namespace: str = NAMESPACE, **parameters: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a node of `EXECUTABLES` in a process of its own, its output in a file; end it on leaving."""
    command = [
        sys.executable,
        "-m",
        EXECUTABLES[name],
        "--ros-args",
        "-r",
        f"__ns:={namespace}",
    ]
    for key, value in parameters.items():
        if isinstance(value, bool):
            value = str(value).lower()
        command += ["-p", f"{key}:={value if value != '' else chr(39) * 2}"]
    process = None
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        yield process
    finally:
        if process is not None:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, ever more firmly."""
    for number, patience in ((signal.SIGINT, 15.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def wait_for(
    condition: Callable[[], Any], process: subprocess.Popen[bytes], log: Path, what: str
) -> None:
    """Wait until the condition is true.

    Raises:
        RuntimeError: the process ended, or it took too long; with the last line it printed.
    """
    wait_for_all(condition, {what: process}, {what: log})


def wait_for_all(
    condition: Callable[[], Any],
    processes: Mapping[str, subprocess.Popen[bytes]],
    logs: Mapping[str, Path],
) -> None:
    """Wait until the condition is true.

    Raises:
        RuntimeError: one of the processes ended, or it took too long; with the last line that was printed.
    """
    end_time = time.monotonic() + START_SECONDS
    while not condition():
        ended = [name for name, process in processes.items() if process.poll() is not None]
        late = time.monotonic() > end_time
        if ended or late:
            name = ended[0] if ended else next(iter(processes))
            why = f"took over {START_SECONDS:.0f} s"
            if ended:
                why = f"ended with status {processes[name].returncode}"
            lines = logs[name].read_text(errors="replace").strip().splitlines() or ["no output"]
            raise RuntimeError(f"{name}: the process {why}; {logs[name]} ends with: {lines[-1]}")
        time.sleep(0.05)
