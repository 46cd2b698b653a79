# SPDX-License-Identifier: Apache-2.0
"""The live tracker on exported graphs beside PyTorch, end to end: pictures in, masks and events out.

    python benchmarks/graphs/equality.py tiny --frames 300
    python benchmarks/graphs/equality.py sam2-tiny --resolution 512 --frames 300
    python benchmarks/graphs/equality.py sam2-large --resolution 1024 --frames 8 --objects 1
    python benchmarks/graphs/equality.py tiny --graphs DIR --provider openvino

Hard clips of the simulator, 50 frames each: what is followed is hidden, leaves and comes back, meets its like; cameras
shake. Sentences and boxes begin tracks, tracks are stopped and others take their place. SAM-2s of the published sizes
have random weights and the smallest language model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sa2va_model.checkpoints.files.sam2_files import stock_config
from sa2va_model.checkpoints.load import load_model
from sa2va_model.checkpoints.presets import byte_tokenizer, nano_config
from sa2va_model.export.writer import ExportOptions, export
from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.backends.onnx.backend import onnx_backend
from sa2va_model.segmentation.backends.onnx.providers import CHOICES, ProviderOptions
from sa2va_model.segmentation.backends.registry import Profile
from sa2va_model.testing import script_answer, wake
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import FrameResult
from sa2va_sim.hard_clips import RATE, HardClip, hard_clip

CLIP = 50
COMES, GOES = 12, 10
"""Frames of a clip between two tracks that begin; from the end, when the first of them is stopped."""


@dataclass(frozen=True)
class FrameAnswer:
    """What one frame gave: for each track its state and mask, and what happened."""

    masks: dict[str, np.ndarray | None]
    states: dict[str, str]
    events: list[tuple[str, str, str, int]]


def main() -> None:
    """Follow twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("tiny", "sam2-tiny", "sam2-large"))
    parser.add_argument("--resolution", type=int, default=512, help="of sam2-tiny and sam2-large")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--objects", default="1,4")
    parser.add_argument("--graphs", metavar="DIR", help="exported before; else exported now")
    parser.add_argument("--half", action="store_true", help="export with float16 inside")
    parser.add_argument("--provider", choices=CHOICES, default="auto")
    parser.add_argument("--fallback", action="store_true", help="operators may run elsewhere")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = made(args.model, args.resolution)
    report: dict[str, Any] = {"model": args.model, "size": model.config.sam2.image_size}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.graphs) if args.graphs else Path(scratch) / "graphs"
        if not folder.exists():
            export("benchmark", [model.sam2], folder, ExportOptions(half=args.half), say=print)
        options = ProviderOptions(args.provider, fallback=args.fallback)
        for count in map(int, args.objects.split(",")):
            told = [
                list(follow(model, profile, args.frames, count))
                for profile in ("float32", onnx_backend(folder, options))
            ]
            report[f"objects {count}"] = compared(*told)
            print(count, report[f"objects {count}"], flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def made(name: str, resolution: int) -> Sa2VA:
    """The model that ships, or a SAM-2 with random weights beside the smallest language model."""
    if name == "tiny":
        return load_model(device="cpu")
    tokenizer = byte_tokenizer()
    sizes = stock_config(name.removeprefix("sam2-"), image_size=resolution)
    torch.manual_seed(0)
    model = Sa2VA(replace(nano_config(len(tokenizer)), sam2=sizes), tokenizer).eval()
    wake(model.sam2)
    script_answer(model)
    return model


def follow(model: Sa2VA, profile: Profile, frames: int, count: int) -> Iterator[FrameAnswer]:
    """Every frame's result, while up to `count` objects are followed."""
    model.use_profile(profile)
    live = LiveTracker(model, LiveConfig(max_objects=count + 1))
    for index in range(frames):
        number, step = divmod(index, CLIP)
        clip = _clip(number)
        if step == 0:
            live.stop()
            live.track(clip.expression)
        values = _others(clip)
        if step % COMES == 0 and 0 < step // COMES <= min(count - 1, len(values)):
            live.prompt(box=_box(clip.instances[step], values[step // COMES - 1]), label="thing")
        if step == CLIP - GOES and count > 1:
            live.stop(next(iter(live.expressions()), None))
        yield _told(live.process(Frame(clip.rgb[step], index / RATE, index)))
    live.close()


_CLIPS: dict[int, HardClip] = {}


def _clip(number: int) -> HardClip:
    if number not in _CLIPS:
        _CLIPS[number] = hard_clip(number)
    return _CLIPS[number]


def _others(clip: HardClip) -> list[int]:
    """Things that are in sight whenever a track begins."""
    seen = [set(np.unique(clip.instances[step])) for step in range(COMES, CLIP - GOES, COMES)]
    return sorted(set.intersection(*seen) - {0})


def _box(instances: np.ndarray, value: int) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(instances == value)
    return float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0


def _told(result: FrameResult) -> FrameAnswer:
    events = [(e.kind.name, e.track_id, e.reason.value, e.frame_index) for e in result.events]
    states = {t.id: t.state.name for t in result.tracks}
    return FrameAnswer({t.id: t.mask for t in result.tracks}, states, events)


def compared(one: list[FrameAnswer], other: list[FrameAnswer]) -> dict[str, Any]:
    """Shares of equal pixels, states and events."""
    shares, states, total, apart = [], 0, 0, []
    for index, (a, b) in enumerate(zip(one, other, strict=True)):
        if a.events != b.events or a.states.keys() != b.states.keys():
            apart.append(index)
        for name in a.states.keys() & b.states.keys():
            total += 1
            states += a.states[name] == b.states[name]
            mine, theirs = a.masks[name], b.masks[name]
            if mine is None or theirs is None:
                if mine is not theirs:
                    shares.append(1 - float((mine if theirs is None else theirs).mean()))  # type: ignore[union-attr]
                continue
            shares.append(float((mine == theirs).mean()))
    kinds = [event[0] for told in one for event in told.events]
    return {
        "frames": len(one),
        "masks": len(shares),
        "equal pixels": float(np.mean(shares)),
        "worst mask": min(shares),
        "masks with all pixels equal": sum(share == 1 for share in shares),
        "states equal": f"{states} of {total}",
        "events": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "frames whose events differ": apart,
    }


if __name__ == "__main__":
    main()
