# SPDX-License-Identifier: Apache-2.0
"""Milliseconds: the tracker beside the `sam2` package, the whole loop of a node, sentences, training, a long run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import training_step

from gpu.setting import Setting, middle
from sa2va_cli.bench.tracker_race import compare, moving_squares, peak_bytes, soak
from sa2va_model.config.segmenter import Sam2Config
from sa2va_model.device import prepare
from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.backends.registry import pick_runtime
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_training.data.synth import write_scenes
from sa2va_training.run.settings_files import settings_from

SENTENCES = ("the man", "the red cup on the left", "a dog", "the tall woman in blue", "the car")


def tracking(
    setting: Setting, size: str, counts: tuple[int, ...], *, optimized: bool = False
) -> dict[str, Any]:
    """Frames with 1, 16 … objects from ready tensors, each of SAM-2's also through the predictor of `sam2`."""
    prepare(setting.device)
    model, out = setting.sam2(size), {}
    against = isinstance(model.config, Sam2Config)
    for count in counts:
        frames, prompts = moving_squares(setting.count(20, 6), model.config.image_size, count)
        ours = {"ours": pick_runtime("bfloat16", setting.device, model.config)}
        shown = frames.to(setting.device)
        timings = compare(model, ours, shown, prompts, against=against, optimized=optimized)
        rows: dict[str, Any] = {name: middle(t.wall[8:] or t.wall) for name, t in timings.items()}
        rows["frames per second"] = round(1e3 / rows["ours"]["median"], 1)
        if against:
            rows["times sam2"] = round(rows["sam2"]["median"] / rows["ours"]["median"], 2)
        out[f"{count} objects"] = {**rows, "GB": round(peak_bytes(setting.device) / 1e9, 2)}
    return out


def node(setting: Setting, size: str = "1b") -> dict[str, Any]:
    """Frames of 1280 x 720 pixels through the live tracker, while a sentence is asked about them again and again."""
    model, out = setting.sa2va(size), {}
    frames = setting.pictures(8, 720, 1280)
    height, width = frames[0].shape[:2]
    for asking in (False, True):
        live = LiveTracker(model, LiveConfig(background=True))
        live.prompt(box=(0.1 * width, 0.2 * height, 0.3 * width, 0.6 * height))
        spent: list[float] = []
        for t in range(setting.count(90, 6)):
            if asking and t % 15 == 0:
                live.track(SENTENCES[t // 15 % len(SENTENCES)])
            begin = time.perf_counter()
            live.process(Frame(frames[t % len(frames)], t / 30, t))
            spent.append((time.perf_counter() - begin) * 1e3)
        live.close(5.0)
        rows = middle(spent[len(spent) // 3 :])
        rows["frames per second"] = round(1e3 / rows["median"], 1)
        out["while asked" if asking else "alone"] = {**rows, "first": round(spent[0], 1)}
    return out


def sentences(setting: Setting, size: str) -> dict[str, Any]:
    """From a sentence about five frames to its [SEG] embedding: frames never seen, and frames that were read before."""
    model = setting.sa2va(size)
    frames = setting.pictures(5, 480, 640)
    new: list[float] = []
    known: list[float] = []
    for _ in range(setting.count(4)):
        for sentence in SENTENCES:
            model.forget_frames()
            new.append(setting.milliseconds(lambda s=sentence: model.ground(frames, s)))  # type: ignore[misc]
    for _ in range(setting.count(3)):
        for sentence in SENTENCES:
            known.append(setting.milliseconds(lambda s=sentence: model.ground(frames, s)))  # type: ignore[misc]
    return {
        "new frames": middle(new[-5:]),
        "known frames": middle(known[-5:]),
        "first": [round(v, 1) for v in new[:12]],
        "GB": round(peak_bytes(setting.device) / 1e9, 2),
    }


def training(setting: Setting, kind: str) -> dict[str, Any]:
    """A step of four clips with our settings or with the published ones."""
    prepare(setting.device)
    chosen = training_step.OURS if kind == "ours" else training_step.PUBLISHED
    settings = settings_from({**chosen, "device": setting.device.type}, kind)
    batches = replace(settings.batches, frames=5, batch=2, accumulate=2, talk=0.0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "flat"
        write_scenes(data, "flat", range(8), size=480, asked=("expressions",))
        size = "nano" if setting.small else "1b"
        return training_step.measure(replace(settings, batches=batches), data, size, 2)


def long_run(setting: Setting, size: str = "tiny") -> dict[str, Any]:
    """2,000 frames in which objects come and go: milliseconds and memory in the second and the last tenth."""
    prepare(setting.device)
    model = setting.sam2(size)
    segmenter = pick_runtime("bfloat16", setting.device, model.config).segmenter(model)
    count = setting.count(2000, 20)
    spent: list[float] = []
    held: list[int] = []

    def tell(index: int, wall: float, cpu: float) -> None:
        spent.append(wall)
        if index % 10 == 0:
            cuda = setting.device.type == "cuda"
            held.append(torch.cuda.memory_reserved() if cuda else peak_bytes(setting.device))

    soak(segmenter, count, tell)
    tenth = count // 10
    parts = {"second tenth": spent[tenth : 2 * tenth], "last tenth": spent[-tenth:]}
    grown = held[-1] - held[max(1, len(held) // 5)]
    return {**{name: middle(part) for name, part in parts.items()}, "MB grown": grown / 1e6}
