# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime beside the torch backends, in one run: exactness over 300 frames, milliseconds, start-up and memory.

    python benchmarks/graphs/runtime.py tiny --json out/onnx_tiny.json
    python benchmarks/graphs/runtime.py sam2-tiny --resolution 512 --frames 24
    python benchmarks/graphs/runtime.py sam2-large --resolution 1024 --frames 4 --objects 1
    python benchmarks/graphs/runtime.py start                  processes that load and follow one image

Frames alternate between the contestants, so that whatever else the machine does meets all of them. Objects come and go
in the run that compares masks.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STARTS = {
    "live tracker, whole model (torch)": """
from sa2va_model.checkpoints.load import load_model
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.io.frames import Frame
live = LiveTracker(load_model(device="cpu"), LiveConfig())
live.prompt(box=(60, 60, 120, 120))
live.process(Frame(picture, 0.0, 0))
""",
    "segmentation half (torch)": """
from sa2va_model.checkpoints.load import load_half
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt
half = load_half(None, "cpu")
tracker = OnlineTracker(half.segmenter)
tracker.add("a", Prompt.box(.2, .2, .4, .4))
tracker.step(half.features(picture))
""",
    "OnnxFollower": """
from sa2va_model.segmentation.backends.onnx.follower import OnnxFollower
follower = OnnxFollower(FOLDER)
follower.add("a", box=(60, 60, 120, 120), size=picture.shape[:2])
follower.step(picture)
""",
}
MEASURE = """
import time; begin = time.perf_counter(); used = time.process_time()
import resource, sys
import numpy as np
FOLDER = sys.argv[1]
picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
{code}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
there = [name for name in ("torch", "transformers") if name in sys.modules]
print(time.perf_counter() - begin, time.process_time() - used, peak, *there)
"""


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("tiny", "sam2-tiny", "sam2-large", "start"))
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument(
        "--compare", type=int, default=0, metavar="N", help="frames of the comparison of masks"
    )
    parser.add_argument("--objects", default="1,4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--graphs", metavar="DIR", help="exported before; else they are exported now"
    )
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.graphs) if args.graphs else Path(scratch) / "graphs"
        report = start(folder) if args.model == "start" else race(args, folder)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def weights_of(args: argparse.Namespace) -> Any:
    """The SAM-2 that is timed."""
    import torch

    from sa2va_model.checkpoints.files.sam2_files import stock_config
    from sa2va_model.checkpoints.load import load_half
    from sa2va_model.segmentation.sam2 import Sam2
    from sa2va_model.testing import wake

    torch.set_num_threads(args.threads)
    if args.model in ("tiny", "start"):
        return load_half(None, "cpu").sam2
    torch.manual_seed(0)
    model = Sam2(stock_config(args.model[5:], image_size=args.resolution)).eval()
    wake(model)
    return model


def exported(weights: Any, folder: Path) -> dict[str, Any]:
    """Writes the graphs where there are none; returns seconds and differences."""
    from sa2va_model.export.writer import ExportOptions, export
    from sa2va_model.segmentation.backends.onnx.manifest import read_manifest

    begin = time.process_time()
    if not folder.exists():
        export("benchmark", [weights], folder, ExportOptions(), say=print)
    [entry] = read_manifest(folder).segmenters
    differences = {name: graph.difference for name, graph in entry.graphs.items()}
    return {"export_cpu_s": round(time.process_time() - begin, 1), "differences": differences}


def race(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Graphs beside float32 and the sam2 package's modules."""
    from sa2va_cli.bench.tracker_race import agreement, compare, moving_squares, stages
    from sa2va_model.segmentation.backends.onnx.backend import onnx_backend
    from sa2va_model.segmentation.backends.registry import pick_runtime

    weights = weights_of(args)
    report: dict[str, Any] = {
        "model": args.model,
        "size": weights.config.image_size,
        "threads": args.threads,
    }
    report |= exported(weights, folder)
    print(report, flush=True)
    device, config = weights.device, weights.config
    runtimes = {
        "float32": pick_runtime("float32", device, config),
        "onnx": pick_runtime(onnx_backend(folder), device, config),
    }
    if args.compare:
        report["come_and_go"] = come_and_go(weights, runtimes, args.compare)
        print(report["come_and_go"], flush=True)
    for count in map(int, args.objects.split(",")):
        frames, prompts = moving_squares(args.frames, config.image_size, count)
        timings = compare(weights, runtimes, frames, prompts)
        rows = {
            name: {"ms": round(t.median(), 1), "cpu_ms": round(t.median("cpu"), 1)}
            for name, t in timings.items()
        }
        rows["agreement"] = agreement(timings["onnx"].masks, timings["float32"].masks)
        for name, runtime in runtimes.items():
            rows[f"stages {name}"] = stages(
                runtime.segmenter(weights), frames[: max(10, args.frames // 3)], prompts
            )
        report[f"objects {count}"] = rows
        print(count, rows, flush=True)
    report["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return report


def come_and_go(weights: Any, runtimes: dict[str, Any], count: int) -> dict[str, float]:
    """Share of equal mask pixels, and of equal verdicts on visibility, while objects are added and removed."""
    import torch

    from sa2va_cli.bench.tracker_race import moving_squares
    from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig

    frames, prompts = moving_squares(40, weights.config.image_size, 4)
    segmenters = [runtime.segmenter(weights) for runtime in runtimes.values()]
    trackers = [OnlineTracker(segmenter, TrackerConfig(max_objects=4)) for segmenter in segmenters]
    equal = total = verdicts = looks = 0
    worst = 1.0
    for index in range(count):
        seen = []
        for segmenter, tracker in zip(segmenters, trackers, strict=True):
            if index % 25 == 0:
                if len(tracker.ids) == 4:
                    tracker.remove(tracker.ids[0])
                tracker.add(f"object {index}", prompts[index // 25 % 4])
            with torch.inference_mode():
                features = segmenter.encode_image(frames[index % len(frames)][None])
                seen.append(tracker.step(features))
        for name, one in seen[0].items():
            same = float(((one.logits > 0) == (seen[1][name].logits > 0)).float().mean())
            equal, total, worst = equal + same, total + 1, min(worst, same)
            verdicts += (one.object_score > 0) == (seen[1][name].object_score > 0)
            looks += 1
    return {
        "pixels": equal / total,
        "worst mask": worst,
        "verdicts": verdicts / looks,
        "masks": total,
    }


def start(folder: Path) -> dict[str, Any]:
    """New processes from nothing to the first mask, three times each; the quickest."""
    args = argparse.Namespace(model="start", threads=1)
    if not folder.exists():
        exported(weights_of(args), folder)
    report: dict[str, Any] = {}
    for name, code in STARTS.items():
        runs = []
        for _ in range(3):
            command = [sys.executable, "-c", MEASURE.format(code=code), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            wall, cpu, peak, *modules = done.stdout.split()
            runs.append((float(wall), float(cpu), float(peak), modules))
        wall, cpu, peak, modules = min(runs)
        report[name] = {
            "s": round(wall, 2),
            "cpu_s": round(cpu, 2),
            "peak_mb": round(peak),
            "imports": modules,
        }
        print(name, report[name], flush=True)
    return report


if __name__ == "__main__":
    main()
