# SPDX-License-Identifier: Apache-2.0
"""Robots on two replicas under Ray Serve: one is killed in the middle of requests, then the app is deployed anew.

    python benchmarks/fleet_ray.py --robots 4 --seconds 30        needs pip install 'sa2va_ros[serve]'

The robots ask with the robot's own client (`RemoteGrounding`), without a pause, and check every answer. What a call
ended with is counted below it, where a call that failed can be seen although its question was answered.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import ray
import torch
import yaml
from fleet import SENTENCES, STAY, expected, pictures
from ray.util.state import list_actors

from sa2va_model.checkpoints.adapters import decoder_fingerprint
from sa2va_model.checkpoints.load import load_model, suit_threads
from sa2va_model.tracking.grounding_worker import Answered, GroundingQuestion, Purpose
from sa2va_serve.client import remote_grounding
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.client.remote_grounding import RemoteGrounding
from sa2va_serve.server.ray_app import APP_FILE
from sa2va_serve.wire import grounding_pb2 as pb
from sa2va_serve.wire import grounding_pb2_grpc as stubs

REPLICA = "ServeReplica:sa2va:grounding"


class RayRobot(threading.Thread):
    """Question after question until it is stopped; a question is asked again where the client says so."""

    def __init__(self, number: int, port: int, truth: Any, decoder: str) -> None:
        super().__init__(daemon=True)
        config = RemoteConfig(f"127.0.0.1:{port}", robot_id=f"robot {number}", encoding="png")
        self._number, self._truth = number, truth
        self._grounding = RemoteGrounding(config, decoder)
        self.stopped = threading.Event()
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []

    def run(self) -> None:
        """Called by `start`."""
        n = 0
        while not self.stopped.is_set():
            begin = time.monotonic()
            self._one(n)
            self.seconds.append(time.monotonic() - begin)
            n += 1
        self._grounding.close()

    def _one(self, n: int) -> None:
        images, truth = self._truth
        picture, sentence = (self._number + n // STAY) % len(images), n % SENTENCES
        image, words = images[picture]
        question = GroundingQuestion("t", words[sentence], [image], n, n, n / 10, Purpose.FIND)
        self._grounding.ask(question)
        while not (answers := self._grounding.answers()):
            time.sleep(0.001)
        [answer] = answers
        for notice in self._grounding.notices():
            self.counts[f"told {notice.kind.name}"] += 1
        if answer.again:
            self.counts["to be put again on newer pictures"] += 1
            self._one(n)
        else:
            self.counts[_verdict(answer, question, truth[picture][sentence])] += 1


def _verdict(answer: Answered, question: GroundingQuestion, truth: torch.Tensor) -> str:
    if answer.reply is None:
        return f"LOST: {answer.error}"
    given = answer.reply.embeddings
    near = given.shape == truth.shape and torch.allclose(given, truth, rtol=2**-9, atol=2e-3)
    return "right" if near and answer.question is question else "WRONG"


def app_file(folder: Path, port: int, waiting: int) -> Path:
    """The app that ships, with two replicas that share this machine's cores."""
    app = yaml.safe_load(APP_FILE.read_text())
    app["grpc_options"]["port"] = port
    app["http_options"]["port"] = free_port()
    app["applications"][0]["args"]["limits"]["waiting"] = waiting
    [deployment] = app["applications"][0]["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    deployment["ray_actor_options"]["num_cpus"] = 0.4
    file = folder / "app.yaml"
    file.write_text(yaml.safe_dump(app))
    return file


def free_port() -> int:
    """One of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def replicas() -> dict[int, str]:
    """Process ids of the living replicas, and their actors."""
    found = list_actors(filters=[("class_name", "=", REPLICA), ("state", "=", "ALIVE")])
    return {actor.pid: actor.actor_id for actor in found}


def until(condition: Callable[[], Any], what: str, seconds: float = 300.0) -> Any:
    """Wait; returns what the condition did."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not after {seconds:g} s")
        time.sleep(0.2)
    return found


def answers(port: int) -> bool:
    """Whether a server answers there."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            stubs.GroundingStub(channel).Describe(pb.DescribeRequest(), timeout=5)
        except grpc.RpcError:
            return False
    return True


def phase(
    args: argparse.Namespace, port: int, truth: Any, decoder: str, act: Callable[[], Any]
) -> Any:
    """Robots ask while something happens in the middle; what became of all questions."""
    calls: Counter[str] = Counter()
    failure = remote_grounding.failure

    def counted(call: Any) -> Any:
        calls[call.code().name] += 1
        return failure(call)

    remote_grounding.failure = counted
    robots = [RayRobot(n, port, truth, decoder) for n in range(args.robots)]
    begin = time.monotonic()
    for robot in robots:
        robot.start()
    time.sleep(args.seconds / 2)
    done = act()
    time.sleep(args.seconds / 2)
    for robot in robots:
        robot.stopped.set()
    for robot in robots:
        robot.join()
    seconds = time.monotonic() - begin
    remote_grounding.failure = failure
    took = np.concatenate([robot.seconds for robot in robots])
    return {
        "what": done,
        "seconds": round(seconds, 1),
        "questions": dict(sum((robot.counts for robot in robots), Counter())),
        "calls that failed": dict(calls),
        "p50, p95, longest s": [round(float(np.percentile(took, q)), 3) for q in (50, 95, 100)],
    }


def kill_one() -> str:
    """A replica's process ends without a word; Ray starts another one."""
    before = replicas()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    until(lambda: len(new := replicas()) == 2 and victim not in new, "another replica")
    return f"replica killed, another one after {time.monotonic() - began:.1f} s"


def deploy(file: Path) -> str:
    """The app anew, with another limit: new replicas start, old ones finish."""
    before, began = set(replicas()), time.monotonic()
    command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    until(lambda: len(new := set(replicas())) == 2 and not new & before, "new replicas", 600)
    return f"both replicas replaced in {time.monotonic() - began:.1f} s"


def main() -> None:
    """Run and print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")
    args = parser.parse_args()
    model = load_model(device="cpu")
    suit_threads(model)
    images = pictures()
    truth = images, expected(model, images)
    decoder = decoder_fingerprint(model)
    with tempfile.TemporaryDirectory() as scratch:
        port = free_port()
        file = app_file(Path(scratch), port, 64)
        command = [sys.executable, "-m", "sa2va_model", "serve", "--ray", str(file)]
        server = subprocess.Popen(command)
        try:
            until(lambda: server.poll() is not None or answers(port), "the app")
            ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
            until(lambda: len(replicas()) == 2, "two replicas")
            result = {"ray": ray.__version__, "load": os.getloadavg()[0]}
            result["nothing"] = phase(args, port, truth, decoder, lambda: "")
            result["kill"] = phase(args, port, truth, decoder, kill_one)
            app_file(Path(scratch), port, 65)
            result["update"] = phase(args, port, truth, decoder, lambda: deploy(file))
            ray.shutdown()
        finally:
            begin = time.monotonic()
            server.terminate()
            ended = server.wait(120)
        result["server ended"] = f"{ended} after {time.monotonic() - begin:.1f} s"
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
