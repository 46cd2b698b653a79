# SPDX-License-Identifier: Apache-2.0
"""`sa2va serve --ray`: two replicas, one of which is killed among requests (more: `benchmarks/fleet_ray.py`)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import yaml

from sa2va_cli.main import main
from sa2va_model.checkpoints.adapters import decoder_fingerprint
from sa2va_model.checkpoints.load import save_model
from sa2va_model.sa2va import Sa2VA
from sa2va_model.tracking.grounding_worker import GroundingQuestion, Purpose
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.client.remote_grounding import RemoteGrounding
from sa2va_serve.wire import grounding_pb2 as pb
from sa2va_serve.wire import grounding_pb2_grpc as stubs

START_SECONDS = 600.0  # a minute, but for a busy machine: Ray is a dozen processes
APP = Path(__file__).parents[2] / "sa2va_serve" / "serving.yaml"
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'sa2va_ros[serve]'"
)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tokens", "t"], "--tokens is given with --ray"),
        (["--model", "m"], "--model is given with --ray"),
        (["--port", "1"], "--port is given with --ray"),
        (["--bits", "4"], "--bits is given with --ray"),
    ],
)
def test_what_the_app_has_to_say_is_not_taken_from_the_command(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--ray", str(APP), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_command_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--ray"]) == 2
    assert "pip install 'sa2va_ros[serve]'" in capsys.readouterr().err


def test_the_app_that_ships_has_arguments_and_limits_that_exist() -> None:
    import ast
    from dataclasses import fields

    from sa2va_serve.server.config import ServerLimits

    app = yaml.safe_load(APP.read_text())["applications"][0]
    module, _, name = app["import_path"].partition(":")
    tree = ast.parse((APP.parents[1] / f"{module.replace('.', '/')}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    [replica] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "RayGrounding"]
    [init] = [n for n in replica.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    assert set(app["args"]) <= {argument.arg for argument in init.args.args}
    assert set(app["args"]["limits"]) <= {field.name for field in fields(ServerLimits)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def until(condition: Callable[[], Any], seconds: float = 240.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def answers(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, contextlib.suppress(grpc.RpcError):
        return bool(stubs.GroundingStub(channel).Describe(pb.DescribeRequest(), timeout=5).decoders)
    return False


@pytest.fixture
def app(nano: Sa2VA, tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The app that ships with a nano model and two replicas; its port and process."""
    save_model(nano, tmp_path / "nano", dtype=None)
    config, port = yaml.safe_load(APP.read_text()), free_port()
    config["grpc_options"]["port"], config["http_options"]["port"] = port, free_port()
    config["applications"][0]["args"] |= {"model": str(tmp_path / "nano"), "device": "cpu"}
    [deployment] = config["applications"][0]["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    deployment["ray_actor_options"]["num_cpus"] = 0.4
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "sa2va_model", "serve", "--ray", str(tmp_path / "app.yaml")]
    process = subprocess.Popen(command)
    try:
        until(lambda: process.poll() is not None or answers(port), START_SECONDS)
        yield port, process
    finally:
        process.terminate()
        process.wait(120)


@needs_ray
@pytest.mark.timeout(2 * START_SECONDS)
def test_a_killed_replica_loses_no_question(
    app: tuple[int, subprocess.Popen[bytes]], nano: Sa2VA, frame: np.ndarray
) -> None:
    import ray
    from ray.util.state import list_actors

    port, process = app
    ray.init(address="auto", log_to_driver=False)
    kind = [("class_name", "=", "ServeReplica:sa2va:grounding"), ("state", "=", "ALIVE")]
    pids = until(lambda: len(found := {a.pid for a in list_actors(filters=kind)}) == 2 and found)
    config = RemoteConfig(f"127.0.0.1:{port}", encoding="png")
    robots = [RemoteGrounding(config, decoder_fingerprint(nano)) for _ in range(3)]
    want = nano.ground([frame], "the mug").embeddings
    for n in range(12):
        if n == 4:
            os.kill(min(pids), signal.SIGKILL)
        for robot in robots:
            question = GroundingQuestion("t", "the mug", [frame], n, n, float(n), Purpose.FIND)
            robot.ask(question)
        for robot in robots:
            [answer] = until(robot.answers)
            while answer.again:
                robot.ask(answer.question)
                [answer] = until(robot.answers)
            assert answer.reply is not None, answer.error
            assert torch.allclose(answer.reply.embeddings, want, atol=2e-3)
    for robot in robots:
        robot.close()
    ray.shutdown()
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert not answers(port)
