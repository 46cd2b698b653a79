# SPDX-License-Identifier: Apache-2.0
"""Tracking while a grounding takes two seconds on purpose: frame rate of the existing tracks, age of the first mask.

    python benchmarks/hard_set/slow_grounding.py

Two objects are tracked; then a sentence is said whose answer takes two seconds, once because it sleeps (a model on a
GPU) and once because the language model really works that long (it asks itself again and again). Frames are processed
as fast as they can be, before, meanwhile and after, in turns; then a camera runs in real time and the age of the first
mask is taken: from the stamp of its frame until the result is there. On a busy machine wall-clock figures say little;
beside them stand the tracking thread's own processor time for each frame, and the age by processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import DEFAULT_CACHE, clips
from rich.console import Console
from rich.table import Table

from sa2va_model.checkpoints.load import load_model
from sa2va_model.io.frames import Frame
from sa2va_model.results import GroundingResult
from sa2va_model.sa2va import Sa2VA
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import EventKind, FrameResult, TrackState
from sa2va_sim.hard_clips import HardClip

SECONDS = 2.0
RATE = 10.0  # of the camera


class SlowModel(Sa2VA):
    """Takes its time to answer."""

    busy: bool
    worked: float

    def ground(
        self, frames: Sequence[np.ndarray], expression: str, **options: Any
    ) -> GroundingResult:
        """The answer, two seconds later; `worked` is the processor time of that."""
        begun, own = time.perf_counter(), time.thread_time()
        reply = super().ground(frames, expression, **options)
        while time.perf_counter() - begun < SECONDS:
            if self.busy:
                self.forget()
                super().ground(frames, expression, **options)
            else:
                time.sleep(0.02)
        self.worked = time.thread_time() - own
        return reply


def main(arguments: list[str] | None = None) -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(args.model)
    model.__class__ = SlowModel
    assert isinstance(model, SlowModel)
    clip = next(iter(clips([3], args.cache)))
    table = Table(
        "grounding",
        "frames/s alone",
        "meanwhile",
        "kept",
        "model's share of 2 cores",
        "CPU ms/frame alone",
        "meanwhile",
        "age",
        "age by CPU",
    )
    result = {}
    for busy in (False, True):
        model.busy = busy
        figures = measure(model, clip, args.rounds)
        name = "works for 2 s" if busy else "sleeps for 2 s"
        result[name] = figures
        table.add_row(
            name,
            f"{figures['alone']:.1f}",
            f"{figures['meanwhile']:.1f}",
            f"{figures['kept']:.2f}",
            f"{figures['share']:.2f}",
            f"{figures['cpu alone']:.1f}",
            f"{figures['cpu meanwhile']:.1f}",
            f"{figures['age periods']:.2f}",
            f"{figures['age periods by cpu']:.2f}",
        )
    Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(model: SlowModel, clip: HardClip, rounds: int) -> dict[str, float]:
    """Medians over rounds."""
    alone, meanwhile, share, ages = [], [], [], []
    own: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        live = _begin(model, clip)
        number = 10
        first, cpu_first, number = _rate(live, clip, number)
        live.track(clip.expression, track_id="said")
        begun = time.perf_counter()
        during, cpu, number = _rate(live, clip, number, until="said")
        share.append(model.worked / (time.perf_counter() - begun) / 2)
        second, cpu_second, number = _rate(live, clip, number)
        live.close()
        own[0].append((cpu_first + cpu_second) / 2)
        own[1].append(cpu)
        alone.append((first + second) / 2)
        meanwhile.append(during)
        ages.append(_age(model, clip))
    middle = statistics.median
    return {
        "alone": middle(alone),
        "meanwhile": middle(meanwhile),
        "kept": middle([m / a for m, a in zip(meanwhile, alone, strict=True)]),
        "share": middle(share),
        "cpu alone": middle(own[0]),
        "cpu meanwhile": middle(own[1]),
        "age periods": max(age for age, _ in ages),
        "age periods by cpu": max(age for _, age in ages),
    }


def _begin(model: SlowModel, clip: HardClip) -> LiveTracker:
    """Two objects by their masks; checks of the words would come between, so there are none."""
    live = LiveTracker(model, LiveConfig(background=True, verify_period=0))
    for value in (2, 3):
        live.prompt(mask=clip.instances[0] == value, track_id=f"object {value}")
    for number in range(10):
        _process(live, clip, number)
    return live


def _process(live: LiveTracker, clip: HardClip, number: int) -> FrameResult:
    """The clip to and fro, without end."""
    place = number % (2 * len(clip.rgb) - 2)
    place = min(place, 2 * len(clip.rgb) - 2 - place)
    return live.process(Frame(clip.rgb[place], number / RATE, number))


def _rate(
    live: LiveTracker, clip: HardClip, number: int, until: str = ""
) -> tuple[float, float, int]:
    """Frames per second, and milliseconds of processor time per frame.

    Over a second and a half, or until a track is found (its own frame is not counted).
    """
    begun, own, count = time.perf_counter(), time.thread_time(), 0
    while True:
        before, own_before = time.perf_counter(), time.thread_time()
        result = _process(live, clip, number)
        number += 1
        ended = any(e.track_id == until and e.kind != EventKind.STARTED for e in result.events)
        if until and ended:
            return count / (before - begun), (own_before - own) / max(count, 1) * 1e3, number
        count += 1
        if not until and time.perf_counter() - begun > 1.5:
            spent = (time.thread_time() - own) / count * 1e3
            return count / (time.perf_counter() - begun), spent, number


def _age(model: SlowModel, clip: HardClip) -> tuple[float, float]:
    """Age of the first mask in frame periods, by the clock and by processor time.

    The camera runs in real time, of which the newest frame is taken.
    """
    live = _begin(model, clip)
    live.track(clip.expression, track_id="said")
    begun, last = time.perf_counter(), -1
    try:
        while time.perf_counter() - begun < 60:
            newest = int((time.perf_counter() - begun) * RATE)
            if newest == last:
                time.sleep(0.001)
                continue
            last, own = newest, time.thread_time()
            result = _process(live, clip, 10 + newest)
            track = next((t for t in result.tracks if t.id == "said"), None)
            if track is not None and track.state == TrackState.NOT_FOUND:
                raise RuntimeError(f"{clip.expression!r} was not found; take another clip")
            if track is not None and track.mask is not None:
                spent = (
                    1.0 + (time.thread_time() - own) * RATE
                )  # begun when it was a period old at most
                return (time.perf_counter() - begun) * RATE - newest, spent
        raise RuntimeError("no mask within a minute")
    finally:
        live.close()


if __name__ == "__main__":
    sys.exit(main())
