# SPDX-License-Identifier: Apache-2.0
"""What the tracker node survives: each fault on a node of real DDS, with counts, as a table.

    python benchmarks/ros/ros_faults.py [--model FOLDER] [--only NAME ...]

The default model has random weights: its masks mean nothing, but it tracks, and it is quick. A fault is
survived if the process lives, says what happened, and the tracks go on or are honestly ended.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ros_peer import Node, Peer, nano_folder, wait

RNG = np.random.default_rng(3)
PICTURE = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (320, 240))
RATE = 10.0
DEACTIVATE, ACTIVATE, CLEANUP, CONFIGURE = 4, 3, 2, 1  # lifecycle_msgs/Transition


@dataclass(frozen=True)
class FaultRow:
    """One line of the table."""

    fault: str
    survived: bool
    counts: str


class Faults:
    """A node with two tracks, and everything that can go wrong around it."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.peer = Peer("/faults")
        self.node = self._start()

    def _start(self, **parameters: object) -> Node:
        settings = {"model": self.model, "status_period": 0.1, "verify_period": 0.0} | parameters
        node = Node(settings, namespace="/faults")
        if not self.peer.ready(node):
            raise RuntimeError(node.output)
        return node

    def track(self) -> dict[str, int]:
        """Two fresh tracks; their states."""
        self.peer.say("the red mug")
        self.peer.say("+ the blue bowl")

        def both() -> bool:
            self.peer.send(self.peer.image(PICTURE))
            time.sleep(1 / RATE)
            return sorted(self.peer.living().values()) == [1, 1]

        wait(both, 60)
        return self.peer.living()

    def after(self, fault: str, before: dict[str, int], counts: str) -> FaultRow:
        """The row of a fault, after a few good images."""
        got = len(self.peer.tracks)
        self.peer.tracks.clear()
        self.peer.stream(PICTURE, 1.5, RATE)
        wait(lambda: len(self.peer.tracks) > 3, 10)
        after = self.peer.living()
        same = after == before and self.node.alive and "Traceback" not in self.node.output
        kept = "same tracks" if after == before else f"tracks {before} -> {after}"
        return FaultRow(fault, same, f"{counts}; {kept}; {got} results before")

    # --- the faults -------------------------------------------------------------------------------

    def malformed_images(self) -> FaultRow:
        """1,000 images of ten kinds."""
        before, start = self.track(), self.peer.status[-1].rejected
        kinds: list[Callable[[Any], None]] = [
            lambda m: setattr(m, "data", b"\0" * 100),
            lambda m: setattr(m, "encoding", "yuv999"),
            lambda m: setattr(m, "encoding", "32FC1"),
            lambda m: setattr(m, "encoding", ""),
            lambda m: setattr(m, "step", 3),
            lambda m: setattr(m, "height", 0),
            lambda m: setattr(m, "width", 2**31),
            lambda m: (setattr(m, "width", 160), setattr(m, "step", 480)),
            lambda m: setattr(m, "header", type(m.header)(frame_id="camera_optical_frame")),
            lambda m: setattr(m, "data", b""),
        ]
        for n in range(1000):
            message = self.peer.image(PICTURE)
            kinds[n % 10](message)
            self.peer.send(message)
            rejected = start + n + 1
            wait(lambda r=rejected: self._handled() >= r, 0.012)
        wait(lambda: False, 0.5)
        newest = self.peer.status[-1]
        rejected = newest.rejected - start
        counts = f"1000 sent, {rejected} rejected, {newest.dropped} dropped (newer one came first)"
        return self.after("1,000 malformed images, ten kinds", before, counts)

    def _handled(self) -> int:
        return int(self.peer.status[-1].rejected)

    def camera_stops(self) -> FaultRow:
        """Nothing for five seconds, then images again."""
        before = self.track()
        wait(lambda: False, 5.0)
        warned = any(
            "no images arrive" in status.message
            for array in self.peer.diagnostics
            for status in array.status
        )
        row = self.after(
            "camera stops for 5 s and returns", before, f"diagnostics warned: {warned}"
        )
        return FaultRow(row.fault, row.survived and warned, row.counts)

    def depth_trouble(self) -> FaultRow:
        """Depth missing for half of the images; camera_info ten images late; sizes that change."""
        from sensor_msgs.msg import CameraInfo, Image

        from sa2va_ros.messages.images import fill_image

        before, good = self.track(), 0
        depth = np.ones((240, 320), np.float32)
        self.peer.tracks.clear()
        for n in range(60):
            message = self.peer.image(PICTURE)
            if n >= 10:
                info = CameraInfo(header=message.header, height=240, width=320)
                info.k = [300.0, 0.0, 160.0, 0.0, 300.0, 120.0, 0.0, 0.0, 1.0]
                self.peer.info.publish(info)
            if n % 2:
                self.peer.depth.publish(fill_image(Image(), depth, "32FC1", message.header))
            if n % 10 == 0:
                small = fill_image(Image(), depth[::2, ::2].copy(), "32FC1", message.header)
                self.peer.depth.publish(small)
            time.sleep(0.01)
            self.peer.send(message)
            time.sleep(1 / RATE)
        good = sum(any(t.has_3d for t in m.tracks) for _, m in self.peer.tracks)
        total = len(self.peer.tracks)
        counts = f"{total} results, {good} of them with 3D (expected 25), the others without"
        row = self.after("depth missing, camera_info late, depth of another size", before, counts)
        return FaultRow(row.fault, row.survived and 0 < good <= 25, row.counts)

    def fast_camera(self) -> FaultRow:
        """Ten times the rate."""
        before, start = self.track(), self.peer.status[-1]
        sent = self.peer.stream(PICTURE, 5.0, 10 * RATE)
        wait(lambda: False, 0.5)
        now = self.peer.status[-1]
        counts = (
            f"{sent} sent, {now.received - start.received} received, "
            f"{now.processed - start.processed} processed, {now.dropped - start.dropped} dropped"
        )
        return self.after("10 x the camera's rate", before, counts)

    def subscriber_storms(self) -> FaultRow:
        """Subscribers of all heavy topics that come and go."""
        from sensor_msgs.msg import CompressedImage, Image
        from visualization_msgs.msg import MarkerArray

        before, count = self.track(), 0
        kinds = ((Image, "mask"), (Image, "overlay"), (CompressedImage, "overlay/compressed"))
        for _ in range(20):
            made = [
                self.peer.node.create_subscription(kind, topic, lambda m: None, 1)
                for kind, topic in (*kinds, (MarkerArray, "markers"))
                for _ in range(5)
            ]
            count += len(made)
            self.peer.stream(PICTURE, 0.3, RATE)
            for subscription in made:
                self.peer.node.destroy_subscription(subscription)
        return self.after("subscriber storms", before, f"{count} subscriptions came and went")

    def command_storm(self) -> FaultRow:
        """100 commands a second for ten seconds, with every kind of nonsense."""
        said = (
            "the red mug",
            "+ the blue bowl",
            "stop",
            "stop nobody",
            "",
            "\x1b[0m",
            "+ ",
            "x" * 999,
        )
        start, number = time.monotonic(), 0
        while time.monotonic() - start < 10:
            self.peer.say(said[number % len(said)])
            if number % 10 == 0:
                self.peer.send(self.peer.image(PICTURE))
            number += 1
            time.sleep(max(0.0, start + number / 100 - time.monotonic()))
        failed = sum(event.type == 8 for event in self.peer.events)
        self.peer.say("stop")
        self.peer.stream(PICTURE, 2.0, RATE)
        before = self.track()
        return self.after("100 commands a second", before, f"{number} sent, {failed} refused")

    def pauses(self) -> FaultRow:
        """Deactivate and activate 50 times."""
        before, done, worst = self.track(), 0, 0.0
        for _ in range(50):
            for transition in (DEACTIVATE, ACTIVATE):
                start = time.monotonic()
                done += self.peer.change_state(transition)
                worst = max(worst, time.monotonic() - start)
            self.peer.send(self.peer.image(PICTURE))
        wait(lambda: self.peer.ready(self.node, 10), 10)
        counts = f"{done} of 100 transitions, the longest {worst:.2f} s"
        row = self.after("deactivate and activate 50 times", before, counts)
        return FaultRow(row.fault, row.survived and done == 100, row.counts)

    def clock_jumps(self) -> FaultRow:
        """Stamps that jump back and forth twenty times; each jump back ends all tracks with an event."""
        resets, jumps = 0, 20
        for n in range(jumps):
            self.track()
            self.peer.events.clear()
            past = time.time_ns() - (n + 1) * 3600 * 10**9
            self.peer.send(self.peer.image(PICTURE, past))
            resets += wait(lambda: any(e.type == 7 for e in self.peer.events), 5)
        before = self.track()
        counts = f"{jumps} jumps back, {resets} MEMORY_RESET events"
        row = self.after("clock jumps", before, counts)
        return FaultRow(row.fault, row.survived and resets == jumps, row.counts)

    def model_folder_removed(self) -> FaultRow:
        """Gone while it runs: nothing; at the next configure: refused with the reason; back: works."""
        before = self.track()
        away = self.model.with_name(self.model.name + "-away")
        self.model.rename(away)
        row = self.after("model folder removed", before, "tracking goes on")
        ok = row.survived and self.peer.change_state(DEACTIVATE) and self.peer.change_state(CLEANUP)
        refused = not self.peer.change_state(CONFIGURE)
        wait(lambda: self.peer.status[-1].state == 5, 5)
        reason = "no such folder" in self.peer.status[-1].message
        away.rename(self.model)
        ok &= self.peer.change_state(CONFIGURE) and self.peer.change_state(ACTIVATE)
        self.peer.ready(self.node, 60)
        again = len(self.track()) == 2
        counts = (
            f"{row.counts}; configure refused with the reason: {refused and reason}; back: {again}"
        )
        return FaultRow(row.fault, bool(ok and refused and reason and again), counts)

    def interrupt_while_loading(self) -> FaultRow:
        """Ctrl-C at ten moments of the start."""
        times, bad = [], 0
        for n in range(10):
            node = Node({"model": self.model}, namespace="/other")
            wait(lambda node=node: "loading" in node.output, 120)
            time.sleep(0.3 * n)
            seconds, status = node.interrupt()
            times.append(seconds)
            bad += status != 0 or "Traceback" in node.output
        counts = f"10 starts, the longest end {max(times):.2f} s, {bad} bad ends"
        return FaultRow("SIGINT while loading", not bad and max(times) <= 3, counts)

    def interrupt_while_grounding(self) -> FaultRow:
        """Ctrl-C while the language model sleeps in a question for a minute, deaf to everything."""
        code = (
            "import time, sa2va_model.sa2va as s; s.Sa2VA.ground = lambda *a, **k: time.sleep(60);"
            "from sa2va_ros.tracker_node import main; raise SystemExit(main())"
        )
        node = Node({"model": self.model, "status_period": 0.1}, namespace="/deaf", code=code)
        peer = Peer("/deaf")
        try:
            if not peer.ready(node):
                return FaultRow("SIGINT while a grounding runs", False, node.output)
            peer.say("the mug")
            peer.stream(PICTURE, 2.0, RATE)
            seconds, status = node.interrupt()
        finally:
            peer.close()
        good = status == 0 and seconds <= 3 and "Traceback" not in node.output
        return FaultRow(
            "SIGINT while a grounding runs", good, f"ended after {seconds:.2f} s, exit {status}"
        )

    def end(self) -> FaultRow:
        """Ctrl-C at work."""
        self.track()
        seconds, status = self.node.interrupt()
        good = status == 0 and seconds <= 3
        return FaultRow(
            "SIGINT while tracking", good, f"ended after {seconds:.2f} s, exit {status}"
        )

    def close(self) -> None:
        """Whatever still runs ends."""
        if self.node.alive:
            self.node.process.send_signal(signal.SIGKILL)
            self.node.process.wait()
        self.peer.close()


NAMES = (
    "malformed_images",
    "camera_stops",
    "depth_trouble",
    "fast_camera",
    "subscriber_storms",
    "command_storm",
    "pauses",
    "clock_jumps",
    "model_folder_removed",
    "interrupt_while_loading",
    "interrupt_while_grounding",
    "end",
)


def main() -> int:
    """Run the faults one after the other and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="folder; default: random weights")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    arguments = parser.parse_args()
    made = None if arguments.model else nano_folder()
    copy = Path(tempfile.mkdtemp(prefix="faults-")) / "model"
    shutil.copytree(arguments.model or made, copy)
    faults, bad = Faults(copy), 0
    print("| fault | survived | counts |\n|---|---|---|", flush=True)
    try:
        for name in arguments.only:
            row = getattr(faults, name)()
            bad += not row.survived
            print(f"| {row.fault} | {'yes' if row.survived else 'NO'} | {row.counts} |", flush=True)
        if bad:
            print(faults.node.output[-3000:])
    finally:
        faults.close()
        shutil.rmtree(copy.parent)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
