# SPDX-License-Identifier: Apache-2.0
"""`sa2va bench grounding`: seconds from a sentence to its mask, official flow and ours in one run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sa2va_cli.inputs import positive, seconds
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sa2va_model.sa2va import Sa2VA

HELP = (
    "Time from a sentence and keyframes to masks: the official flow (token by token, SAM-2 once for each object) "
    "beside ours, on the same weights, in turns. Without --preset: the model of --model on a scene of the simulator, "
    "and how often its answers are known ahead."
)
EXAMPLES = """examples:
  sa2va bench grounding
  sa2va bench grounding --preset 1b --random-weights --frames 1
  sa2va bench grounding --preset 1b,4b,8b,26b --random-weights --device cuda --json out/grounding.json"""

EXPRESSIONS = ("the man", "the woman on the left", "the red car", "the dog")
LINES = {
    "official": "official flow, one sentence",
    "first": "ours, one sentence, new frames",
    "first_cold": "ours, the very first sentence of a model",
    "second": "ours, another sentence, same frames",
    "two": "ours, two more, one after the other",
    "four": "ours, four more at once, same frames",
    "four_new": "ours, four at once, new frames",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va bench grounding`."""
    parser.add_argument(
        "--preset", metavar="SIZE,…", help="published sizes, with random weights: 1b,4b,8b,26b,…"
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="say that --preset has no weights of its own (speed does not depend on them)",
    )
    parser.add_argument(
        "--frames", type=positive, metavar="N", help="keyframes (default: 5; --model: its own)"
    )
    parser.add_argument("--size", type=positive, default=480, metavar="S", help="pixels of a side")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument(
        "--profile",
        default="auto",
        metavar="P",
        help="SAM-2 in ours: auto, reference, float32 or bfloat16 (the official flow: its own modules)",
    )
    parser.add_argument(
        "--no-masks", action="store_true", help="stop at the [SEG] embedding, without SAM-2"
    )
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument(
        "--repeats", type=positive, default=7, metavar="N", help="rounds (default: 7)"
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        default=120.0,
        metavar="S",
        help="begin no further round of a model after so many seconds (default: 120)",
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor seconds of this process, steadier on a busy machine (not for CUDA)",
    )
    parser.add_argument(
        "--scenes",
        type=int,
        default=20,
        metavar="N",
        help="held-out scenes for --model (default: 20)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    sizes = [size.strip() for size in (args.preset or "").split(",") if size.strip()]
    if sizes and not args.random_weights:
        raise InputError("--preset: has no weights of its own, expected --random-weights with it")
    if args.random_weights and not sizes:
        raise InputError("--random-weights: expected --preset, for example --preset 1b")
    from sa2va_cli.bench.rounds import machine
    from sa2va_cli.output import write_json
    from sa2va_model.checkpoints.load import pick_device

    device = pick_device(args.device)
    if args.clock == "cpu" and device.type != "cpu":
        raise InputError("--clock cpu: the device is a GPU, expected --clock wall")
    result: dict[str, Any] = {"machine": machine(device), "clock": args.clock, "models": []}
    print(result["machine"]["device"], f"({args.clock} clock)")
    for size in sizes or [None]:
        report = _preset(args, size, device) if size else _loaded(args)
        result["models"].append(report)
        write_json(args.json, result)  # after each: a later size may not fit
        _show(report)
    return 0


def _preset(args: argparse.Namespace, size: str, device: torch.device) -> dict[str, Any]:
    """A published size with random weights."""
    import gc

    import torch

    from sa2va_cli.bench.random_models import random_model
    from sa2va_model.checkpoints.load import pick_dtype

    model = random_model(size, device, pick_dtype(args.dtype, device))
    frames = _noise(args.frames or 5, args.size)
    report = _measure(args, f"{size} (random weights)", model, frames, EXPRESSIONS)
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return report


def _loaded(args: argparse.Namespace) -> dict[str, Any]:
    """The model of --model on a scene of the simulator."""
    from sa2va_cli.bench.acceptance import acceptance, scene_with_known_objects
    from sa2va_model.checkpoints.load import load_model, suit_threads

    model = load_model(args.model, device=args.device, dtype=args.dtype)
    suit_threads(model)
    image, expressions = scene_with_known_objects(model, len(EXPRESSIONS), args.size)
    frames = [image] * (args.frames or model.config.keyframes)
    report = _measure(args, args.model or "tiny (ships)", model, frames, expressions)
    if args.scenes > 0:
        report["acceptance"] = acceptance(model, args.scenes)
    return report


def _noise(count: int, side: int) -> list[np.ndarray]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def _measure(
    args: argparse.Namespace,
    name: str,
    model: Sa2VA,
    frames: list[np.ndarray],
    expressions: tuple[str, ...],
) -> dict[str, Any]:
    from sa2va_cli.bench.rounds import Rounds

    model.use_profile(args.profile, graphs=not args.eager)
    rounds = Rounds(model, frames, expressions, clock=args.clock, masks=not args.no_masks)
    times = rounds.measure(args.repeats, args.budget)
    return {"model": name, **rounds.facts(), "seconds": times, **rounds.compare(times)}


def _show(report: dict[str, Any]) -> None:
    print(
        f"\n{report['model']}: {report['parameters'] / 1e9:.2f} G parameters, {report['dtype']}, "
        f"SAM-2 {report['sam2']}, {report['frames']} frames, {report['visual_tokens']} visual tokens"
    )
    seconds = report["seconds"]
    official = seconds["official"]["median"]
    for key, line in LINES.items():
        value = seconds[key]
        print(f"  {line:42} {value['median'] * 1e3:9.1f} ms   ({official / value['median']:.2f} x)")
    for key, value in seconds["stages"].items():
        print(f"    {key:40} {value * 1e3:9.1f} ms")
    for line in (
        f"first / second {report['first_over_second']:.1f}; four at once / two in turn "
        f"{report['four_over_two']:.2f} on known frames, {report['four_new_over_two_new']:.2f} on new ones",
        f"answer: {report['answer']!r}, {report['forwards']} forward of the language model (official: "
        f"{report['official_forwards']}); same tokens: {report['same_tokens']}, "
        f"pixels that differ: {report['pixels_that_differ']:.2g}, "
        f"embeddings: {report['embeddings_differ_by']:.2g}",
    ):
        print(f"  {line}")
    for kind, found in report.get("acceptance", {}).items():
        print(
            f"  {kind}: {found['one_forward']:.1%} of {found['sentences']} answers in one forward, "
            f"{found['forwards']:.2f} forwards on average (token by token {found['tokens']:.2f}), "
            f"{found['different']} answers differ"
        )
