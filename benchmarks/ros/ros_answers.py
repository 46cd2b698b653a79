# SPDX-License-Identifier: Apache-2.0
"""How soon the node answers while it loads a model, and while every image takes its time.

    python benchmarks/ros/ros_answers.py --step 1.0 --seconds 10

Lifecycle state, parameters and services are asked one after the other, from the first moment on; seconds p50, p95 and
longest of each state. The aim is 0.2 s. The model that ships, its real load (imports of torch included).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
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
    peer: Peer, asked: list[tuple[Any, Any]], seconds: float, times: dict[str, list[float]]
) -> None:
    """Ask for so long; adds to the times of the state the node was in."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for caller, request in asked:
            if not caller.service_is_ready():
                continue
            state, began = peer.status[-1].state if peer.status else -1, time.monotonic()
            answer = caller.call_async(request)
            while not answer.done():
                time.sleep(0.001)
            times[_NAMES.get(state, "other")].append(time.monotonic() - began)


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
            ask(peer, asked, 0.2, times)
        camera = CameraNode(peer, 160, 120)
        peer.say("the red mug")
        wait(lambda: bool(peer.tracks), 60)
        ask(peer, asked, arguments.seconds, times)
        camera.close()
    finally:
        node.interrupt()
        peer.close()
    for state, spent in times.items():
        p50, p95, longest = (round(float(np.percentile(spent, p)), 3) for p in (50, 95, 100))
        print(
            json.dumps(
                {"state": state, "asked": len(spent), "p50": p50, "p95": p95, "longest": longest}
            )
        )


if __name__ == "__main__":
    main()
