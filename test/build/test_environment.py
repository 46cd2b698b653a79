# SPDX-License-Identifier: Apache-2.0
"""The environment that `make setup` leaves: messages beside the source tree, nothing shadowed, nothing left to do."""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "sa2va_model": "sa2va_model",
    "sa2va_sim": "sa2va_sim",
    "sa2va_training": "training/sa2va_training",
    "sa2va_cli": "sa2va_cli",
}


@pytest.mark.parametrize("package", FOLDERS)
def test_tests_see_the_source_tree(package: str) -> None:
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).resolve().parent == ROOT / FOLDERS[package]


def test_messages_are_found_beside_the_source_package(tmp_path: Path) -> None:
    """In a fresh process outside the repository, as a node is started."""
    code = (
        "import sa2va_ros.msg, sa2va_ros.srv, sa2va_ros.action, sa2va_ros.node.parameters as p\n"
        "sa2va_ros.msg.TrackArray(tracks=[sa2va_ros.msg.Track(id='a')])\n"
        "sa2va_ros.action.TrackExpression.Goal(); sa2va_ros.srv.SetTarget.Request()\n"
        "print(p.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).resolve() == ROOT / "sa2va_ros" / "node" / "parameters.py"


def test_compiled_messages_work() -> None:
    from rclpy.serialization import deserialize_message, serialize_message

    from sa2va_ros.msg import Track, TrackArray

    array = TrackArray(height=480, width=640, tracks=[Track(id="mug", mask_value=7, score=0.5)])
    again = deserialize_message(serialize_message(array), TrackArray)
    assert again == array


def test_training_is_never_ours(tmp_path: Path) -> None:
    """An import of that name gives the module of the sam2 wheel, or nothing."""
    code = "import training; print(list(training.__path__)[0])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 or Path(done.stdout.strip()).resolve() != ROOT / "training"


def test_setup_has_nothing_left_to_do_and_says_so_quickly() -> None:
    if not (ROOT / ".venv" / ".stamps").is_dir() or shutil.which("make") is None:
        pytest.skip("this environment was not made by `make setup`")
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    command = ["make", "--question", "setup"]
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"make setup would do something:\n{done.stdout}{done.stderr}"
    assert time.monotonic() - start < 2.0


def test_wheel_headers_are_rewritten_once(tmp_path: Path) -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "fix_ros_wheels.py"))
    folder = tmp_path / "share" / "cmake"
    folder.mkdir(parents=True)
    text = (
        'set(a "/opt/python/cp310-cp310/include/python3.10;/opt/python/cp312-cp312/lib/python3.12'
        '/site-packages/numpy/_core/include;/opt/ros/include")\n'
    )
    (folder / "export.cmake").write_text(text)
    (folder / "other.cmake").write_text("project(x)\n")
    headers = {"python_headers": "/new/python", "numpy_headers": "/new/numpy"}
    assert tool["fix_tree"](tmp_path, **headers) == 1
    fixed = 'set(a "/new/python;/new/numpy;/opt/ros/include")\n'
    assert (folder / "export.cmake").read_text() == fixed
    assert tool["fix_tree"](tmp_path, **headers) == 0


def test_system_packages_names_a_python_that_is_missing() -> None:
    done = subprocess.run(
        [ROOT / "tools" / "system_packages.sh", "python-that-is-not-there"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "python-that-is-not-there" in done.stderr


def test_system_packages_installs_what_is_missing_or_prints_the_line(tmp_path: Path) -> None:
    """With an interpreter that has no venv, an apt-get that only writes down, and a sudo that asks for a password."""
    log = tmp_path / "apt.log"
    stubs = {
        "python-bare": f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"',
        "apt-get": f'echo "$@" >> {log}',
        "sudo": "exit 1",
    }
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [ROOT / "tools" / "system_packages.sh", "python-bare"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if os.geteuid() == 0:
        assert done.returncode == 0, done.stderr
        assert package in log.read_text()
    else:
        assert done.returncode == 1
        assert f"sudo apt-get install -y --no-install-recommends {package}" in done.stderr


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "exec make test"


def load_launch_file() -> ModuleType:
    pytest.importorskip("launch", reason="`launch` is not installed (the ROS 2 wheels lack it)")
    pytest.importorskip(
        "launch_ros", reason="`launch_ros` is not installed (the ROS 2 wheels lack it)"
    )
    path = ROOT / "launch" / "tracker.launch.py"
    module = ModuleType("tracker_launch")
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


def test_launch_file_describes_the_node() -> None:
    module = load_launch_file()
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument

    description = module.generate_launch_description()
    declared = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
    context = LaunchContext()
    for argument in declared:
        argument.execute(context)
    context.launch_configurations["max_objects"] = "4"
    (node,) = module.start(context)
    assert node.node_executable == "tracker_node"
    assert module.full_topic("/cam/", "color/image_raw") == "/cam/color/image_raw"
    assert module.full_topic("/cam", "/other") == "/other"


def test_launch_file_sets_parameters_that_exist() -> None:
    """Without `launch`: the table is read from the source."""
    import ast

    from sa2va_ros.node.parameters import TABLE

    tree = ast.parse((ROOT / "launch" / "tracker.launch.py").read_text(encoding="utf-8"))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "PARAMETERS"
    )
    assert isinstance(table, ast.Dict)
    kinds = {row.name: type(row.default).__name__ for row in TABLE} | {"use_sim_time": "bool"}
    for value in table.values:
        assert isinstance(value, ast.Tuple)
        parameter, kind, _ = value.elts
        assert isinstance(parameter, ast.Constant)
        assert kinds[str(parameter.value)] == getattr(kind, "id", "")
