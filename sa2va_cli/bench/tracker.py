# SPDX-License-Identifier: Apache-2.0
"""`sa2va bench tracker`: frames per second of the tracker, beside the `sam2` package's own predictor, and a soak."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sa2va_cli.backend import add_backend, chosen_profile
from sa2va_cli.inputs import positive
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    import torch

    from sa2va_model.segmentation.backends.base import Runtime
    from sa2va_model.segmentation.sam2 import Sam2

HELP = (
    "Time the tracker's steps on a made clip (or --video). With --against sam2 the sam2 package's own video predictor "
    "runs on the same weights and frames in the same run, frames alternating. --soak adds and removes objects for "
    "thousands of frames and shows that memory and time stay."
)
EXAMPLES = """examples:
  sa2va bench tracker --objects 1,4 --against sam2
  sa2va bench tracker --preset sam2-tiny --resolution 512 --random-weights --against sam2 --json out/tiny512.json
  sa2va bench tracker --preset sam2-large --resolution 1024 --objects 1,16 --against sam2 --random-weights
  sa2va bench tracker --sam2 sam2.1_hiera_small.pt --resolution 512
  sa2va bench tracker --preset sam3 --resolution 252 --random-weights
  sa2va bench tracker --preset edgetam --resolution 512 --random-weights
  sa2va bench tracker --backend onnx --onnx tiny_onnx            graphs beside PyTorch
  sa2va bench tracker --soak 10000 --preset nano"""

PRESETS = ("tiny", "nano", "sam2-tiny", "sam2-small", "sam2-base+", "sam2-large", "sam3", "edgetam")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va bench tracker`."""
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="tiny",
        help="sizes: the model that ships (or --model), nano, SAM-2.1, SAM 3, EdgeTAM as published (--random-weights)",
    )
    parser.add_argument(
        "--sam2", metavar="FILE.pt", help="a published SAM-2, SAM-2.1, SAM 3 or EdgeTAM instead"
    )
    parser.add_argument(
        "--random-weights", action="store_true", help="time a published size without its weights"
    )
    parser.add_argument(
        "--resolution",
        type=positive,
        metavar="S",
        help="side of the image, pixels: 1024, 512; SAM 3: 1008, 504",
    )
    parser.add_argument(
        "--objects", type=_counts, default=(1, 4), metavar="N,...", help="default: 1,4"
    )
    parser.add_argument("--frames", type=positive, default=40, metavar="N", help="default: 40")
    parser.add_argument("--video", metavar="FILE", help="its frames, objects as boxes on a grid")
    parser.add_argument(
        "--against",
        choices=("sam2",),
        help="also the sam2 package's own video predictor (of SAM-2's weights)",
    )
    parser.add_argument(
        "--profile", default="auto", metavar="P", help="auto, reference, float32 or bfloat16"
    )
    add_backend(parser)
    parser.add_argument("--soak", type=positive, metavar="N", help="N frames of coming and going")


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    from sa2va_cli.output import write_json
    from sa2va_model.config.segmenter import Sam2Config
    from sa2va_model.segmentation.backends.registry import pick_runtime

    segmenter = _segmenter(args)
    if args.against and not isinstance(segmenter.config, Sam2Config):
        raise InputError("--against sam2 is for SAM-2's weights; --preset or --sam2 is of another")
    device = segmenter.device
    chosen = pick_runtime(chosen_profile(args), device, segmenter.config)
    report: dict[str, Any] = {
        "preset": args.preset,
        "sam2": args.sam2,
        "resolution": segmenter.config.image_size,
        "profile": chosen.profile.arithmetic,
        "machine": _machine(device),
    }
    if args.soak:
        report["soak"] = _soak(segmenter, chosen, args.soak)
    else:
        report["runs"] = [_race(args, segmenter, chosen, count) for count in args.objects]
    write_json(args.json, report)
    return 0


def _counts(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def _segmenter(args: argparse.Namespace) -> Sam2:
    """The SAM-2 that is timed, in float32."""
    import torch

    from sa2va_model.checkpoints.files.sam2_files import load_stock, stock_config
    from sa2va_model.checkpoints.load import load_model, pick_device, suit_threads
    from sa2va_model.segmentation.sam2 import Sam2
    from sa2va_model.testing import nano_model

    device = pick_device(args.device)
    if args.sam2:
        return load_stock(args.sam2, image_size=args.resolution, device=device)
    if args.preset.startswith(("sam", "edgetam")):
        if not args.random_weights:
            raise InputError(
                f"--preset {args.preset} has no weights; expected --random-weights, or --sam2 FILE.pt"
            )
        torch.manual_seed(0)
        config = stock_config(args.preset.removeprefix("sam2-"), image_size=args.resolution)
        return Sam2(config).eval().to(device)
    if args.resolution:
        raise InputError(
            f"--resolution is for published sizes of segmenters; --preset is {args.preset}"
        )
    if args.preset == "nano":
        return nano_model().sam2.to(device)
    model = load_model(args.model, device=args.device, dtype=torch.float32)
    suit_threads(model)
    return model.sam2


def _machine(device: torch.device) -> dict[str, Any]:
    import platform

    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": str(device),
        "name": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _clip(args: argparse.Namespace, segmenter: Sam2, objects: int) -> tuple[Any, list[Any]]:
    """Frames [T, 3, S, S] and a box for each object."""
    import torch

    from sa2va_cli.bench.tracker_race import moving_squares
    from sa2va_cli.inputs import open_input
    from sa2va_model.io import preprocessing as images
    from sa2va_model.segmentation.types import Prompt

    if args.video is None:
        return moving_squares(args.frames, segmenter.config.image_size, objects)
    frames = []
    for frame in open_input(args.video, topic=None, fps=30):
        frames.append(images.sam_pixels(frame.rgb, segmenter.config))
        if len(frames) == args.frames:
            break
    columns = max(1, round(objects**0.5))
    side = 1 / columns
    boxes = [
        Prompt.box(
            (i % columns + 0.2) * side,
            (i // columns + 0.2) * side,
            (i % columns + 0.8) * side,
            min((i // columns + 0.8) * side, 1.0),
        )
        for i in range(objects)
    ]
    return torch.cat(frames), boxes


def _race(
    args: argparse.Namespace, segmenter: Sam2, chosen: Runtime, objects: int
) -> dict[str, Any]:
    """One number of objects; prints its table."""
    from sa2va_cli.bench.tracker_race import (
        agreement,
        compare,
        peak_bytes,
        resident_bytes,
        stages,
    )
    from sa2va_model.segmentation.backends.registry import pick_runtime

    frames, prompts = _clip(args, segmenter, objects)
    runtimes: dict[str, Runtime] = {chosen.profile.arithmetic: chosen}
    if args.against or args.backend != "torch":
        plain = pick_runtime("float32", segmenter.device, segmenter.config)
        runtimes.setdefault("float32", plain)
    before = resident_bytes()
    timings = compare(segmenter, runtimes, frames, prompts, against=bool(args.against))
    grown = resident_bytes() - before
    base = timings.get("sam2")
    exact = timings.get("sam2") or timings.get("float32")
    rows: dict[str, Any] = {}
    for name, timing in timings.items():
        row = {"ms": round(timing.median(), 2), "fps": round(1e3 / timing.median(), 2)}
        row["p95_ms"] = round(timing.percentile(95), 2)
        row["cpu_ms"] = round(timing.median("cpu"), 2)
        if base is not None and name != "sam2":
            row["ratio"] = round(base.median() / timing.median(), 2)
            row["cpu_ratio"] = round(base.median("cpu") / timing.median("cpu"), 2)
        if exact is not None and timing is not exact:
            mean, least = agreement(timing.masks, exact.masks)
            row["agreement_j"], row["agreement_j_least"] = round(mean, 4), round(least, 4)
        rows[name] = row
    result = {
        "objects": objects,
        "frames": len(frames),
        "contestants": rows,
        "peak_mb": round(peak_bytes(segmenter.device) / 1e6, 1),
        "grown_mb": round(grown / 1e6, 1),
    }
    # Behind the race, whose figures stay if it fails. Stages of a graph cannot be timed one by one.
    apart = replace(chosen, profile=replace(chosen.profile, graphs=False))
    detail = stages(apart.segmenter(segmenter), frames[: max(12, len(frames) // 2)], prompts)
    result["stages_ms"] = {name: round(value, 2) for name, value in detail.items()}
    _print(result)
    return result


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['objects']} object(s), {result['frames']} frames")
    columns = ("ms", "p95_ms", "fps", "ratio", "cpu_ms", "cpu_ratio", "agreement_j")
    table.add_column("tracker")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in result["contestants"].items():
        table.add_row(name, *(str(row.get(column, "")) for column in columns))
    console = Console()
    console.print(table)
    parts = ", ".join(f"{name} {value}" for name, value in result["stages_ms"].items())
    console.print(f"stages, ms: {parts}; peak {result['peak_mb']} MB", soft_wrap=True)


def _soak(segmenter: Sam2, runtime: Runtime, count: int) -> dict[str, Any]:
    """The long run; prints what stayed and what did not."""
    import numpy as np

    from sa2va_cli.bench.tracker_race import soak
    from sa2va_cli.measure import Memory
    from sa2va_cli.output import Progress

    memory, steps = Memory(), np.zeros((count, 2))
    with Progress(count, "soak") as progress:

        def tell(index: int, milliseconds: float, cpu: float) -> None:
            steps[index] = milliseconds, cpu
            memory.frame(index)
            progress.step()

        soak(runtime.segmenter(segmenter), count, tell)
    early, late = steps[count // 20 : count // 20 + 1000], steps[-1000:]
    result: dict[str, Any] = {"frames": count, **memory.report()}
    for column, unit in enumerate(("ms", "cpu_ms")):
        first, last = (float(np.percentile(part[:, column], 95)) for part in (early, late))
        result[f"p50_{unit}"] = round(float(np.median(steps[:, column])), 3)
        result[f"p95_{unit}_early"], result[f"p95_{unit}_late"] = round(first, 3), round(last, 3)
        result[f"p95_{unit}_late_to_early"] = round(last / first, 3)
    for name, value in result.items():
        if name != "rss_mb":
            print(f"{name}: {value}")
    return result
