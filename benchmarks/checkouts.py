# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of two checkouts of this project, in turn: an older one with its model, and a newer one with its own.

    git worktree add --detach /tmp/older 75e6a2a
    python benchmarks/checkouts.py /tmp/older . --threads 1

Each is a process of its own that answers one question about a new picture and tracks one frame when it is told to, so
that both see the same machine at the same time. Prints medians and the ratio. Needs the simulator, no GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

WORDS = "the red mug"
WARM = 3  # rounds that do not count
STEPS = ("a sentence, to [SEG]", "a sentence, to its mask", "a frame of one track")
WORKER = """
import sys, time
import numpy as np, torch
torch.set_num_threads(int(sys.argv[1]))
try:
    from sa2va_model.checkpoints.load import load_model
    from sa2va_model.freed_memory import keep_freed_memory
    from sa2va_model.io.frames import Frame
    from sa2va_model.tracking.live import LiveConfig, LiveTracker
    keep_freed_memory()
except ImportError:  # before the package had rooms
    from sa2va_model.checkpoints import load_model
    from sa2va_model.live import LiveTracker
    from sa2va_model.live_config import LiveConfig
    from sa2va_model.sources import Frame
pictures, words = np.load(sys.argv[2]), sys.argv[3]
model = load_model(None, device="cpu")
live = LiveTracker(model, LiveConfig(background=False))
live.track(words)
print("ready", flush=True)
for count, _ in enumerate(sys.stdin):
    first, second = (np.roll(pictures[count % len(pictures)], k, 0).copy() for k in (0, 1))
    steps = (lambda: model.ground([first], words), lambda: model.segment(second, words),
             lambda: live.process(Frame(first, count / 10, count)))
    with torch.inference_mode():
        for step in steps:
            began = time.perf_counter()
            step()
            print(time.perf_counter() - began, flush=True)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs both and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("older", type=Path)
    parser.add_argument("newer", type=Path)
    parser.add_argument("--rounds", type=int, default=24, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures.npy"
        np.save(pictures, _pictures())
        workers = [_start(tree, args.threads, pictures) for tree in (args.older, args.newer)]
        rounds = [[_ask(worker) for worker in workers] for _ in range(args.rounds + WARM)]
        for worker in workers:
            worker.communicate()
    _show(rounds[WARM:])
    return 0


def _pictures() -> np.ndarray:
    """Twelve pictures that differ, uint8 [12, 480, 640, 3]."""
    from sa2va_sim.scripted import demo_scene
    from sa2va_sim.simulator import Simulator

    simulator = Simulator(demo_scene(0).scene, 640, 480)
    rgb = simulator.render().rgb
    simulator.close()
    return np.stack([np.roll(rgb, k, 1) for k in range(12)])


def _start(tree: Path, threads: int, pictures: Path) -> subprocess.Popen[str]:
    code = (str(tree.resolve()), str(tree.resolve() / "training"))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(code),
        "OMP_NUM_THREADS": str(threads),
    }
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(threads), str(pictures), WORDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tree,
        env=environment,
    )
    assert worker.stdout is not None
    if worker.stdout.readline().strip() != "ready":
        raise SystemExit(f"{tree}: expected a checkout whose model loads")
    return worker


def _ask(worker: subprocess.Popen[str]) -> list[float]:
    """Seconds of each of STEPS."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    return [float(worker.stdout.readline()) for _ in STEPS]


def _show(rounds: Sequence[Sequence[Sequence[float]]]) -> None:
    table = Table("milliseconds", "older", "newer", "ratio")
    for number, name in enumerate(STEPS):
        older, newer = (
            1000 * statistics.median(r[side][number] for r in rounds) for side in (0, 1)
        )
        table.add_row(name, f"{older:.1f}", f"{newer:.1f}", f"{newer / older:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(main())
