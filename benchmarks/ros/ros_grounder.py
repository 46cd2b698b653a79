# SPDX-License-Identifier: Apache-2.0
"""A tracker node whose sentences are understood by a real server, over real DDS, while the link is cut.

    python benchmarks/ros/ros_grounder.py --cut 30

The server (`sa2va serve`, random weights) is stopped for so long without a word to its peers: packets get no answer, as
of a robot out of reach. Then it goes on; at last it is killed and started again. Exit 1 unless tracks lived on, the
loss was told, and what waited was answered.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ros_peer import Node, Peer, nano_folder, wait

PICTURE = cv2.resize(
    np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8), (320, 240)
)
RATE = 10.0
DEGRADED, RESTORED, FOUND = 10, 11, 1


class PictureStream(threading.Thread):
    """Publishes a picture again and again until it is closed."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(daemon=True)
        self._peer, self.ended = peer, threading.Event()

    def run(self) -> None:
        """Called by `start`."""
        while not self.ended.wait(1 / RATE):
            self._peer.send(self._peer.image(PICTURE))


def start_server(model: Path, port: int) -> subprocess.Popen[str]:
    """A server that serves."""
    words = ["serve", "--model", str(model), "--device", "cpu", "--port", str(port)]
    command = [sys.executable, "-m", "sa2va_model", *words, "--metrics-port", "-1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("serving"):
            return server
    raise RuntimeError("the server did not start")


def main() -> int:
    """Cut, mend, kill; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cut", type=float, default=30.0, metavar="S")
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = nano_folder()
    server = start_server(model, port)
    settings = {"model": model, "grounder": f"grpc://127.0.0.1:{port}", "status_period": 0.1}
    node, peer = Node(settings, namespace="/far"), Peer("/far")
    rows: list[tuple[str, bool, str]] = []
    try:
        if not peer.ready(node):
            raise RuntimeError(node.output)
        camera = PictureStream(peer)
        camera.start()
        peer.say("the red mug")
        found = wait(lambda: events(peer, FOUND) == 1 and 1 in peer.living().values(), 60)
        rows.append(("a sentence is understood on the server", found, str(peer.living())))
        server.send_signal(signal.SIGSTOP)
        rows.append(cut(peer, args.cut))
        server.send_signal(signal.SIGCONT)
        rows.append(mended("the link is back", peer, 1))
        server.kill()
        server.wait()
        lost = wait(lambda: events(peer, DEGRADED) == 2, 30)
        peer.say("+ the white cup")
        rows.append(("server killed", lost and node.alive, f"DEGRADED: {lost}"))
        server = start_server(model, port)
        rows.append(mended("server started again", peer, 2))
        camera.ended.set()
        seconds, status = node.interrupt()
        rows.append(("end", status == 0, f"exit {status} after {seconds:.2f} s"))
    finally:
        server.kill()
        if node.alive:
            node.process.kill()
        peer.close()
    print("| | as it should be | what |\n|---|---|---|")
    for what, good, counts in rows:
        print(f"| {what} | {'yes' if good else 'NO'} | {counts} |")
    if not all(good for _, good, _ in rows):
        print(node.output[-3000:])
        return 1
    return 0


def cut(peer: Peer, seconds: float) -> tuple[str, bool, str]:
    """What comes while nothing answers."""
    began, before = time.monotonic(), peer.living()
    peer.tracks.clear()
    peer.say("+ the blue bowl")
    told = wait(lambda: events(peer, DEGRADED) == 1, seconds)
    after = time.monotonic() - began
    shown = wait(lambda: "ERROR" in line(peer), 10)
    while time.monotonic() - began < seconds:
        time.sleep(0.05)
    arrivals = [arrival for arrival, _ in peer.tracks]
    gap = max(np.diff(arrivals), default=0) / 1e9
    lived = all(peer.living().get(name) == state for name, state in before.items())
    waits = 0 in peer.living().values()
    good = told and shown and lived and waits and len(arrivals) > 2 * seconds
    counts = (
        f"DEGRADED after {after:.1f} s; {len(arrivals)} results, the longest gap {gap:.2f} s; "
        f"tracks as before: {lived}; new sentence PENDING: {waits}; diagnostics: {line(peer)}"
    )
    return f"link cut for {seconds:.0f} s", bool(good), counts


def mended(what: str, peer: Peer, times: int) -> tuple[str, bool, str]:
    """Until what waited is answered."""
    began = time.monotonic()
    back = wait(lambda: events(peer, RESTORED) == times, 60)
    restored = time.monotonic() - began
    answered = wait(lambda: events(peer, FOUND) == times + 1, 60)
    shown = wait(lambda: "OK" in line(peer), 10)
    counts = f"RESTORED after {restored:.1f} s, what waited FOUND after {time.monotonic() - began:.1f} s; {line(peer)}"
    return what, back and answered and shown, counts


def events(peer: Peer, kind: int) -> int:
    """How many of a kind so far."""
    return sum(event.type == kind for event in list(peer.events))


def line(peer: Peer) -> str:
    """The newest diagnostics of the link: level and message."""
    for array in reversed(list(peer.diagnostics)):
        for status in array.status:
            if status.name.endswith(": grounder"):
                return f"{LEVELS.get(level(status), '?')} {status.message}"
    return ""


LEVELS = {0: "OK", 1: "WARN", 2: "ERROR", 3: "STALE"}


def level(status: Any) -> int:
    """A byte in some versions of ROS."""
    return status.level[0] if isinstance(status.level, bytes) else int(status.level)


if __name__ == "__main__":
    raise SystemExit(main())
