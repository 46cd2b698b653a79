# SPDX-License-Identifier: Apache-2.0
"""Floods of requests: each must get an answer, a result or a refusal with its reason, and none may be left open.

    python benchmarks/ros/ros_flood.py --goals 200 --cancelled 60 --cancels 5 --questions 100

A model with random weights, real DDS. Goals, then goals with cancels each, then questions, each kind sent as fast as
the client can; then the node must still follow a sentence. Paced: the next kind begins when the last one is answered.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any

from ros_load import CameraNode
from ros_peer import Node, Peer, nano_folder, wait


class Requests:
    """The goals of one action and what became of them.

    Attributes:
        answers: error codes of results; "refused" for goals that were not accepted.
    """

    def __init__(self, peer: Peer, kind: Any, name: str) -> None:
        from rclpy.action import ActionClient

        from sa2va_ros.support.deferred import REQUESTS

        # Answers to all clients of a service share a DDS topic, and rclpy keeps ten of them.
        kept = {f"{part}_service_qos_profile": REQUESTS for part in ("goal", "result", "cancel")}
        self._client = ActionClient(peer.node, kind, f"sa2va_tracker/{name}", **kept)
        self._kind = kind
        self.sent, self.answers = 0, Counter[str]()
        self.cancels = self.cancels_answered = 0
        assert self._client.wait_for_server(60.0), name

    def send(self, cancels: int = 0, **fields: Any) -> None:
        """One goal, cancelled so often as soon as it is accepted."""
        self.sent += 1
        future = self._client.send_goal_async(self._kind.Goal(**fields))
        future.add_done_callback(lambda done: self._taken(done.result(), cancels))

    def _taken(self, handle: Any, cancels: int) -> None:
        if not handle.accepted:
            self.answers["refused"] += 1
            return
        handle.get_result_async().add_done_callback(self._told)
        for _ in range(cancels):
            self.cancels += 1
            handle.cancel_goal_async().add_done_callback(self._cancelled)

    def _told(self, done: Any) -> None:
        result = done.result().result
        self.answers[str(result.error_code)] += 1

    def _cancelled(self, _: Any) -> None:
        self.cancels_answered += 1

    def whole(self, seconds: float) -> dict[str, Any]:
        """Wait for all answers; what came."""
        start = time.monotonic()
        wait(lambda: self.open == (0, 0), seconds)
        goals, cancels = self.open
        return {
            "sent": self.sent,
            "answers": dict(sorted(self.answers.items())),
            "open": goals,
            "cancels": self.cancels,
            "cancels_open": cancels,
            "seconds": round(time.monotonic() - start, 1),
        }

    @property
    def open(self) -> tuple[int, int]:
        """Goals and cancels without an answer."""
        return self.sent - sum(self.answers.values()), self.cancels - self.cancels_answered


def flood(peer: Peer, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The three floods, one after the other."""
    from sa2va_ros.action import AskScene, TrackExpression

    rows = []
    plain = Requests(peer, TrackExpression, "track_expression")
    for number in range(options.goals):
        plain.send(expression=f"the thing {number}")
    wait(
        lambda: plain.open[0] <= 16, options.wait
    )  # max_objects are tracked until they are stopped
    peer.say("stop")
    rows.append({"flood": "goals", **plain.whole(options.wait)})
    cancelled = Requests(peer, TrackExpression, "track_expression")
    for number in range(options.cancelled):
        cancelled.send(options.cancels, expression=f"the other {number}")
    rows.append({"flood": "cancelled goals", **cancelled.whole(options.wait)})
    asked = Requests(peer, AskScene, "ask_scene")
    for number in range(options.questions):
        asked.send(question=f"what is number {number}?", max_tokens=4)
    rows.append({"flood": "questions", **asked.whole(options.wait)})
    return rows


def lives_on(peer: Peer) -> dict[str, Any]:
    """Whether images still become results and a sentence a track."""
    before = len(peer.tracks)
    peer.say("stop")
    peer.say("the red mug")
    found = wait(lambda: bool(peer.living()), 60.0)
    status = peer.status[-1]
    return {
        "flood": "afterwards",
        "results": len(peer.tracks) - before,
        "follows": found,
        "received": status.received,
        "processed": status.processed,
    }


def main() -> int:
    """Flood a node and count; status 1 if anything is left open."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--goals", type=int, default=200)
    parser.add_argument("--cancelled", type=int, default=60)
    parser.add_argument("--cancels", type=int, default=5, help="of each of them")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument(
        "--wait", type=float, default=180.0, help="seconds for the answers of a kind"
    )
    options = parser.parse_args()
    peer = Peer("/flood")
    settings = {"model": nano_folder(), "threads": 1, "verify_period": 0.0, "status_period": 0.2}
    node = Node(settings, namespace="/flood")
    try:
        assert peer.ready(node), node.output
        camera = CameraNode(peer, 160, 120)
        rows = [*flood(peer, options), lives_on(peer)]
        camera.close()
    finally:
        node.interrupt()
        peer.close()
    for row in rows:
        print(json.dumps(row))
    whole = not any(row.get("open") or row.get("cancels_open") for row in rows[:-1])
    return 0 if whole and rows[-1]["follows"] and "Traceback" not in node.output else 1


if __name__ == "__main__":
    raise SystemExit(main())
