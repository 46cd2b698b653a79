# SPDX-License-Identifier: Apache-2.0
"""Many robots on one server, on this machine: nothing lost or mixed up; throughput, waiting, and what a plan predicts.

    python benchmarks/fleet.py --robots 32 --requests 10000        answers checked one by one, refusals counted
    python benchmarks/fleet.py --open 0.8 --requests 600           Poisson arrivals at 80 % of what the server can do,
                                                                   beside the simulation of `fleet_plan.py`

The server is a process of its own (`sa2va serve`); each robot is a thread with a connection of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import psutil
import torch
from fleet_plan import simulate

from sa2va_model.checkpoints.adapters import decoder_fingerprint
from sa2va_model.checkpoints.load import load_model, suit_threads
from sa2va_model.freed_memory import keep_freed_memory
from sa2va_model.sa2va import Sa2VA
from sa2va_serve.wire import codec
from sa2va_serve.wire import grounding_pb2 as pb
from sa2va_serve.wire import grounding_pb2_grpc as stubs
from sa2va_sim.scene import sample_scene

PICTURES = 8
SENTENCES = 4  # about each picture, three of them of what stands on it
STAY = 10  # sentences about one picture, before a robot's next


@dataclass
class FleetTally:
    """What became of the requests of all robots."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    together: list[int] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def pictures() -> list[tuple[np.ndarray, tuple[str, ...]]]:
    """Tables of the toy world, 320 x 240, each with what is asked about it."""
    from sa2va_sim.simulator import Simulator

    out = []
    for seed in range(PICTURES):
        scene = sample_scene(seed)
        simulator = Simulator(scene, 320, 240)
        named = [f"the {i.colour} {scene.world.stock[i.slot].shape}" for i in scene.items]
        words = [*dict.fromkeys(named)][: SENTENCES - 1]
        out.append((simulator.render().rgb, (*words, *["the grey car"] * (SENTENCES - len(words)))))
        simulator.close()
    return out


def expected(
    model: Sa2VA, images: list[tuple[np.ndarray, tuple[str, ...]]]
) -> list[list[torch.Tensor]]:
    """What the model answers on board, as it comes through the wire."""
    return [
        [r.embeddings.half().float() for r in model.ground_many([image], words)]
        for image, words in images
    ]


class RobotThread(threading.Thread):
    """One robot: sentence after sentence, with a deadline that cannot be kept and a cancelled call now and then."""

    def __init__(
        self,
        number: int,
        port: int,
        work: list[int],
        truth: Any,
        decoder: str,
        tally: FleetTally,
        pause: float,
    ) -> None:
        super().__init__(daemon=True)
        self._number, self._port, self._work, self._truth = number, port, work, truth
        self._decoder, self._tally, self._pause = decoder, tally, pause
        self._random = np.random.default_rng(number)

    def run(self) -> None:
        """Called by `start`."""
        with grpc.insecure_channel(
            f"127.0.0.1:{self._port}", [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            remote = stubs.GroundingStub(channel)
            due = time.monotonic()
            for n in self._work:
                if self._pause:
                    due += self._random.exponential(self._pause)
                    time.sleep(max(0.0, due - time.monotonic()))
                self._one(remote, n, time.monotonic() if not self._pause else due)

    def _one(self, remote: Any, n: int, since: float) -> None:
        images, files, truth = self._truth
        picture, sentence = (self._number + n // STAY) % len(images), n % SENTENCES
        name, kind = f"{self._number}.{n}", 0.0 if self._pause else self._random.random()
        request = pb.GroundRequest(
            header=pb.Header(
                robot_id=f"robot {self._number}", request_id=name, decoder=self._decoder
            ),
            keyframes=[pb.Keyframe(image=files[picture], stamp_ns=n)],
            sentences=[images[picture][1][sentence]],
        )
        hurry, leave = 0 < kind < 0.02, 0.02 <= kind < 0.04
        while True:
            call = remote.Ground.future(request, timeout=0.004 if hurry else 120.0)
            if leave:
                time.sleep(0.002)
                call.cancel()
            try:
                reply = call.result()
            except grpc.FutureCancelledError:
                self._count("cancelled by the robot")
                return
            except grpc.RpcError as error:
                code, trailing = error.code(), dict(error.trailing_metadata() or ())
                if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not hurry:
                    self._count("refused, tried again")
                    time.sleep(int(trailing["grpc-retry-pushback-ms"]) / 1e3)
                    continue
                self._count(f"{code.name}{' (wanted)' if hurry else ''}")
                return
            break
        right = (reply.request_id, reply.stamp_ns) == (name, n)
        given = codec.decode_embeddings(reply.meanings[0].embeddings)
        mine = truth[picture][sentence]
        near = given.shape == mine.shape and torch.allclose(given, mine, rtol=2**-9, atol=2e-3)
        exact = "" if torch.equal(given, mine) else ", last bit of fp16"  # sums of another forward
        self._count(f"right{exact}" if right and near else "WRONG")
        with self._tally.lock:
            self._tally.seconds.append(time.monotonic() - since)
            self._tally.queued.append(reply.timings.queue_ms / 1e3)
            self._tally.served.append(reply.timings.model_ms / 1e3 / max(reply.timings.together, 1))
            self._tally.together.append(reply.timings.together)
            self._tally.sizes.append(reply.ByteSize())

    def _count(self, what: str) -> None:
        with self._tally.lock:
            self._tally.counts[what] += 1


def locally(
    model: Sa2VA, images: list[tuple[np.ndarray, tuple[str, ...]]], robots: int, rounds: int
) -> tuple[float, float]:
    """Seconds, and seconds of processor, for a request when the robots' models answer in turn, without a server."""
    sessions = [model.new_session() for _ in range(robots)]
    start, used = time.perf_counter(), time.process_time()
    for n in range(rounds):
        for robot, session in enumerate(sessions):
            image, words = images[(robot + n // STAY) % len(images)]
            with model.reading(session):
                model.ground([image], words[n % SENTENCES])
    spent = time.perf_counter() - start, time.process_time() - used
    return spent[0] / (rounds * robots), spent[1] / (rounds * robots)


def start_server(waiting: int, together: int) -> tuple[subprocess.Popen[str], int]:
    """A server with the model that ships."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "sa2va_model",
        "serve",
        "--port",
        str(port),
        "--metrics-port",
        "-1",
    ]
    server = subprocess.Popen(
        [*words, "--waiting", str(waiting), "--together", str(together)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("serving"):
            return server, port
    raise RuntimeError("the server did not start")


def main() -> None:
    """Run and print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--waiting", type=int, default=24, help="of the server's queue")
    parser.add_argument(
        "--open", type=float, default=0.0, metavar="U", help="Poisson arrivals at this utilisation"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        help="requests a second that the server can do (for --open; 0 = measured first)",
    )
    parser.add_argument("--together", type=int, default=0, help="of the server; 1 = one by one")
    args = parser.parse_args()
    keep_freed_memory()  # as the server does
    model = load_model(device="cpu")
    suit_threads(model)
    images = pictures()
    files = [codec.encode_image(image, "png") for image, _ in images]
    truth = images, files, expected(model, images)
    alone, alone_used = locally(model, images, args.robots, STAY)
    server, port = start_server(args.waiting if not args.open else 10_000, args.together)
    decoder = decoder_fingerprint(model)

    def fleet(share: int, pause: float) -> tuple[FleetTally, float]:
        """All robots with `share` requests each; what became of them, and seconds."""
        tally = FleetTally()
        robots = [
            RobotThread(n, port, list(range(share)), truth, decoder, tally, pause)
            for n in range(args.robots)
        ]
        start = time.perf_counter()
        for robot in robots:
            robot.start()
        for robot in robots:
            robot.join()
        return tally, time.perf_counter() - start

    rate = args.rate
    if args.open and not rate:  # what it can do: robots that ask without a pause
        busy, seconds = fleet(STAY, 0.0)
        rate = len(busy.seconds) / seconds
    pause = args.robots / (rate * args.open) if args.open else 0.0
    share, process = args.requests // args.robots, psutil.Process(server.pid)
    before = sum(process.cpu_times()[:2])
    tally, seconds = fleet(share, pause)
    used = sum(process.cpu_times()[:2]) - before
    load = os.getloadavg()[0]
    server.terminate()
    ended = server.wait(60)
    again, again_used = locally(model, images, args.robots, STAY)  # the machine may have changed
    asked = sum(v for k, v in tally.counts.items() if k != "refused, tried again")
    result = {
        "robots": args.robots,
        "asked": share * args.robots,
        "accounted for": asked,
        "became": dict(tally.counts),
        "requests a second": round(len(tally.seconds) / seconds, 1),
        "in turn without a server, requests a second, before and after": [
            round(1 / alone, 1),
            round(1 / again, 1),
        ],
        "processor ms of an answer, server and in turn before and after": [
            round(used / max(len(tally.seconds), 1) * 1e3, 1),
            round(alone_used * 1e3, 1),
            round(again_used * 1e3, 1),
        ],
        "load": round(load, 1),
        "seconds": _percentiles(tally.seconds),
        "waiting": _percentiles(tally.queued),
        "model": _percentiles(tally.served),
        "in one forward, on average": round(float(np.mean(tally.together)), 1),
        "embeddings expected": sum(len(e) for row in truth[2] for e in row),
        "bytes of an answer": int(np.median(tally.sizes)),
        "bytes of a picture, PNG and JPEG": [
            _bytes([image for image, _ in images], kind) for kind in ("png", "jpeg")
        ],
        "server ended with": ended,
    }
    if args.open:
        result["requests a second that it can do"] = round(rate, 1)
        predicted = simulate(rate * args.open, np.array(tally.served), servers=1, requests=20_000)
        result["predicted waiting and model"] = _percentiles(predicted)
        real = np.array(tally.queued) + np.array(tally.served)
        result["real waiting and model"] = _percentiles(real)
    print(json.dumps(result, indent=2))


def _bytes(images: list[np.ndarray], encoding: str) -> int:
    return int(np.median([len(codec.encode_image(image, encoding)) for image in images]))


def _percentiles(values: Any) -> dict[str, float]:
    p50, p95, p99 = np.percentile(np.asarray(values), (50, 95, 99))
    return {"p50": round(float(p50), 4), "p95": round(float(p95), 4), "p99": round(float(p99), 4)}


if __name__ == "__main__":
    main()
