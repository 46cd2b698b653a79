# SPDX-License-Identifier: Apache-2.0
"""Large libraries are opened, and imported, while other threads go on."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest

from sa2va_ros.support import quiet_imports

OPENED = """
import json, threading, time
from sa2va_ros.support.quiet_imports import _TORCH, open_libraries
longest, ended = 0.0, False
def go_on():
    global longest
    last = time.monotonic()
    while not ended:
        here = time.monotonic()
        longest, last = max(longest, here - last), here
        time.sleep(0.001)
thread = threading.Thread(target=go_on)
thread.start()
began = time.monotonic()
opened = open_libraries("torch", _TORCH)
took, ended = time.monotonic() - began, True
thread.join()
print(json.dumps({"opened": opened, "took": took, "longest": longest}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="opens libraries of Linux")
def test_other_threads_go_on_while_libraries_are_opened() -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-c", OPENED]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    assert told["opened"] == len(quiet_imports._TORCH)
    # With Python's lock held, the other thread stands still for all of it.
    assert told["longest"] < 0.6 * told["took"], told


def test_the_collector_rests_while_torch_is_imported_and_never_looks_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quiet_imports, "_TORCH", ())
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    before = gc.get_freeze_count()
    try:
        with quiet_imports.quiet_imports():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before + 1000
    finally:
        gc.unfreeze()


def test_what_lives_beside_torch_is_still_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    before = gc.get_freeze_count()
    with quiet_imports.quiet_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_the_nodes_are_there_before_torch() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")
    code = (
        "import sys, sa2va_ros.tracker_node, sa2va_ros.cameras_node; print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert told.stdout.strip() == "False", told.stderr
