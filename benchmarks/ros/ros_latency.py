# SPDX-License-Identifier: Apache-2.0
"""How late results are and what the node adds, over DDS, with the camera in another process.

    python benchmarks/ros/ros_latency.py [--model FOLDER|nano] [--size 640x480] [--rate 8] [--seconds 30]

Overhead: from the image callback to the publication of tracks, less the tracker's step; told by the
node in its diagnostics. Latency: `TrackArray.latency` beside what this process measures, from the
image's stamp to the arrival of the message.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from ros_peer import Node, Peer, diagnostic, nano_folder, wait


def picture(width: int, height: int) -> tuple[np.ndarray, str]:
    """A picture with things on it, and words for one of them."""
    from sa2va_sim.scene import sample_scene
    from sa2va_sim.simulator import Simulator

    simulator = Simulator(sample_scene(3), width, height)
    frame = simulator.render()
    simulator.close()
    fact = max(frame.facts, key=lambda f: f.visible)
    return frame.rgb, f"the {fact.colour} {fact.shape}"


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="", help="folder, or nano; default: the one that ships")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rate", type=float, default=8.0, help="below what the tracker manages")
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    model = nano_folder() if arguments.model == "nano" else arguments.model
    rgb, words = picture(width, height)
    peer = Peer("/latency")
    node = Node({"model": model, "status_period": 0.2}, namespace="/latency")
    try:
        if not peer.ready(node):
            print(node.output)
            return 1
        peer.say(words)
        peer.stream(rgb, 8.0, arguments.rate)
        peer.tracks.clear()
        peer.stream(rgb, arguments.seconds, arguments.rate)
        wait(lambda: False, 1.5)  # the last diagnostics
        print(json.dumps(report(peer, words, arguments), indent=2))
    finally:
        node.interrupt()
        peer.close()
    return 0


def report(peer: Peer, words: str, arguments: argparse.Namespace) -> dict[str, object]:
    """What was measured."""
    told = np.array([message.latency for _, message in peer.tracks])
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for _, m in peer.tracks]
    seen = np.array([came - stamp for (came, _), stamp in zip(peer.tracks, stamps, strict=True)])
    newest = peer.diagnostics[-1]
    milliseconds = {f"published p{p}": float(np.percentile(told, p) * 1e3) for p in (50, 95)} | {
        f"measured outside p{p}": float(np.percentile(seen, p) / 1e6) for p in (50, 95)
    }
    for what, key in (
        ("node overhead p50", "node overhead p50 (s)"),
        ("node overhead p95", "node overhead p95 (s)"),
        ("tracker step p95", "tracker step p95 (s)"),
    ):
        milliseconds[what] = 1e3 * diagnostic(newest, "tracker", key)
    return {
        "size": arguments.size,
        "rate": arguments.rate,
        "expression": words,
        "results": len(told),
        "masks": peer.masks,
        "tracks": [t.area for t in peer.tracks[-1][1].tracks],
        "milliseconds": {name: round(value, 2) for name, value in milliseconds.items()},
        "published / measured p50": round(float(np.median(told) / np.median(seen) * 1e9), 3),
        "dropped": int(peer.status[-1].dropped),
    }


if __name__ == "__main__":
    raise SystemExit(main())
