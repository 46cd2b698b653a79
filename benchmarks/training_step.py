# SPDX-License-Identifier: Apache-2.0
"""What one optimiser step costs: seconds, tokens per second and peak memory of a model of a published size.

    python benchmarks/training_step.py --size 1b --device cuda          random weights: cost does not depend on values
    python benchmarks/training_step.py --size nano --device cpu --steps 2

Two rows for each kind of sample. "published": LoRA of rank 128 with the whole word table trained beside it, five
expressions one after the other, features of the frozen encoders computed anew every time, as the official code does.
"ours": LoRA of rank 32, expressions as branches, features of frozen encoders kept. Samples are drawn scenes of
640 x 480 pixels: still images, and clips of which five frames are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from loading import random_weights

from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_training.data.sources import open_sources
from sa2va_training.data.synth import write_scenes
from sa2va_training.run.job import make_job
from sa2va_training.run.launch import make_accelerator
from sa2va_training.run.loop import TrainingRun
from sa2va_training.run.settings import Settings
from sa2va_training.run.settings_files import settings_from

PUBLISHED: dict[str, Any] = {
    "train": {"rank": 128, "alpha": 256, "embeddings": "all"},
    "optimiser": {"rate": 4e-5, "decoder": 1.0},
    "loss": {"target": "nearest"},
    "batches": {"layout": "conversation", "augment": "none", "cache_gb": 0},
}
OURS: dict[str, Any] = {
    "train": {"rank": 32, "alpha": 64},
    "batches": {"layout": "branches", "augment": "none", "cache_gb": 40},
}


def build(size: str, device: torch.device) -> Sa2VA:
    """A model of a published size with random weights, in bfloat16 on a GPU."""
    if size == "nano":
        return nano_model().to(device)
    from sa2va_model.checkpoints.meta_init import unallocated
    from sa2va_model.checkpoints.presets import byte_tokenizer
    from sa2va_model.checkpoints.published import published_config
    from sa2va_model.mllm.registry import family

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with unallocated():
        config = published_config(size)
        tokenizer = byte_tokenizer(extra=family(config.mllm.family).tokens)
        model = Sa2VA(config, tokenizer).eval()
    random_weights(model, dtype)
    return model.to(device)


def measure(settings: Settings, data: Path, size: str, steps: int) -> dict[str, float]:
    """Medians over some steps, after two that warm up (and fill the store of features)."""
    accelerator = make_accelerator(settings)
    device = accelerator.device
    sources = open_sources(str(data), held_out=0.0, stills=False)
    model = build(size, device)
    job = make_job(settings, accelerator, model, "", sources)
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(Path(folder), settings, accelerator, job.learner, job.feeder, "", 1000)
        run.wrapped.train()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, tokens = [], []
        for n, batches in enumerate(run.feeder.steps(0, steps + 2)):
            begun = time.perf_counter()
            run.step([batch.to(device) for batch in batches])
            if device.type == "cuda":
                torch.cuda.synchronize()
            if n >= 2:
                seconds.append(time.perf_counter() - begun)
                tokens.append(sum(int((batch.owner >= 0).sum()) for batch in batches))
            run.done += 1
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    per_step = statistics.median(seconds)
    samples = settings.batches.batch * settings.batches.accumulate
    return {
        "seconds_per_step": round(per_step, 3),
        "samples_per_second": round(samples / per_step, 3),
        "tokens_per_second": round(statistics.median(tokens) / per_step, 1),
        "peak_gb": round(peak / 1e9, 2),
    }


def main() -> int:
    """Measures all rows; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1b", help="nano, 1b, 4b, … (sa2va_model/published.py)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=8)
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("training_step: no CUDA device is seen; use --device cpu", file=sys.stderr)
        return 2
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("flat", "flat-clips"):
            write_scenes(Path(folder) / kind, kind, range(8), size=480, asked=("expressions",))
            for name, values in (("published", PUBLISHED), ("ours", OURS)):
                settings = settings_from({**values, "device": args.device}, name)
                batches = replace(
                    settings.batches,
                    frames=5,
                    batch=args.batch,
                    accumulate=args.accumulate,
                    talk=0.0,
                )
                settings = replace(settings, batches=batches)
                rows[f"{kind} {name}"] = measure(
                    settings, Path(folder) / kind, args.size, args.steps
                )
                print(f"{kind:11s} {name:10s} {rows[f'{kind} {name}']}", flush=True)
    where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    result = {"size": args.size, "device": where, "torch": torch.__version__, "rows": rows}
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
