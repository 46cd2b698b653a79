# SPDX-License-Identifier: Apache-2.0
"""How soon the node answers while it loads a model, and while every image takes its time.

    python benchmarks/ros/ros_answers.py --step 1.0 --seconds 10

Lifecycle state, parameters and services are asked one after the other, from the first moment on; seconds p50, p95 and
longest of each state, and the most processor time that the node took while one answer was waited for: what is left of
the longest one on a machine that has nothing else to do. The aim is 0.2 s. The model that ships, its real load (imports
of torch included).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from ros_load import SLOW, CameraNode
from ros_peer import Node, Peer, wait


def callers(peer: Peer) -> list[tuple[Any, Any]]:
    """What is asked: clients with a request each."""
    from lifecycle_msgs.srv import GetState
    from rcl_interfaces.srv import GetParameters, ListParameters

    from sa2va_ros.srv import ListTracks, RemoveTrack, SelectTarget

    asked: tuple[tuple[Any, str, Any], ...] = (
        (GetState, "get_state", GetState.Request()),
        (GetParameters, "get_parameters", GetParameters.Request(names=["model"])),
        (ListParameters, "list_parameters", ListParameters.Request()),
        (ListTracks, "list_tracks", ListTracks.Request()),
        (SelectTarget, "select_target", SelectTarget.Request()),
        (RemoveTrack, "remove_track", RemoveTrack.Request(track_id="nobody")),
    )
    return [
        (peer.node.create_client(kind, f"sa2va_tracker/{name}"), request)
        for kind, name, request in asked
    ]


def ask(
    peer: Peer,
    node: Node,
    asked: list[tuple[Any, Any]],
    seconds: float,
    times: dict[str, list[tuple[float, float]]],
) -> None:
    """Ask for so long; adds to the times, by the clock and on a processor, of the state the node was in."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for caller, request in asked:
            if not caller.service_is_ready():
                continue
            state = peer.status[-1].state if peer.status else -1
            began, worked = time.monotonic(), worked_by(node)
            answer = caller.call_async(request)
            while not answer.done():
                time.sleep(0.001)
            spent = time.monotonic() - began, worked_by(node) - worked
            times[_NAMES.get(state, "other")].append(spent)


def worked_by(node: Node) -> float:
    """Processor time of its process so far, seconds."""
    fields = Path(f"/proc/{node.process.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1]
    return sum(int(field) for field in fields.split()[11:13]) / os.sysconf("SC_CLK_TCK")


_NAMES = {1: "loading", 3: "active", 4: "active"}


def main() -> None:
    """Ask while it loads, and then while it works."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--step", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of work")
    arguments = parser.parse_args()
    peer = Peer("/answers")
    asked, times = callers(peer), defaultdict(list)
    node = Node({"threads": 1}, namespace="/answers", code=SLOW.format(step=arguments.step))
    try:
        while node.alive and not (peer.status and peer.status[-1].state in (3, 4)):
            ask(peer, node, asked, 0.2, times)
        camera = CameraNode(peer, 160, 120)
        peer.say("the red mug")
        wait(lambda: bool(peer.tracks), 60)
        ask(peer, node, asked, arguments.seconds, times)
        camera.close()
    finally:
        node.interrupt()
        peer.close()
    for state, spent in times.items():
        clock, processor = np.array(spent).T
        p50, p95, longest = np.percentile(clock, (50, 95, 100)).round(3).tolist()
        figures = {"p50": p50, "p95": p95, "longest": longest}
        figures["most processor time"] = round(float(processor.max()), 3)
        print(json.dumps({"state": state, "asked": len(spent), **figures}))


if __name__ == "__main__":
    main()
