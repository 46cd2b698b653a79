# SPDX-License-Identifier: Apache-2.0
"""The simulator's hard clips: what each part of the tracker is worth, and how well objects are lost and found.

    python benchmarks/hard_set.py --clips 60                  everything, with the model's own words
    python benchmarks/hard_set.py --clips 60 --start embedding   the language model's errors taken out
    python benchmarks/hard_set.py --clips 10 --only masks     a quick look

Clips are rendered once into runs/hard_clips. Needs no GPU; a model of one's own with --model FOLDER.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import hard_set_live
import hard_set_masks
import torch
from hard_set_clips import DEFAULT_CACHE, clips
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from sa2va_model.calibration import Calibration
from sa2va_model.checkpoints import SHIPPED, load_model
from sa2va_model.live import LiveConfig
from sa2va_sim.hard_clips import KINDS


def main(arguments: list[str] | None = None) -> int:
    """Runs and prints; with --json also writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=60, metavar="N", help="the first N clips")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="number of the first")
    parser.add_argument("--start", choices=("words", "mask", "embedding"), default="words")
    parser.add_argument("--only", choices=("masks", "events"))
    parser.add_argument("--model", metavar="FOLDER", help="a checkpoint; default: the tiny model")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR")
    parser.add_argument("--log", action="store_true", help="print what happened on each clip")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(args.model, device="cpu")
    calibration = Calibration.read(Path(args.model) if args.model else SHIPPED)
    numbers = range(args.first, args.first + args.clips)
    begun, result = time.perf_counter(), {"clips": args.clips, "start": args.start}
    console = Console(width=150)
    if args.only != "events":
        scores = {name: hard_set_masks.Score() for name in hard_set_masks.VARIANTS}
        for clip in tqdm(clips(numbers, args.cache), total=len(numbers), desc="masks", leave=False):
            hard_set_masks.run_clip(model, clip, scores, start=args.start, calibration=calibration)
        console.print(_masks_table(scores))
        result["masks"] = {
            name: {"all": score.mean(), **{k: score.mean(k) for k in KINDS}}
            for name, score in scores.items()
        }
    if args.only != "masks":
        live = hard_set_live.LiveScore()
        for clip in tqdm(clips(numbers, args.cache), total=len(numbers), desc="live", leave=False):
            hard_set_live.run_clip(model, clip, live, start=args.start, config=LiveConfig())
        if args.log:
            console.print("\n".join(live.log), markup=False, highlight=False)
        result["events"] = live.figures()
        console.print(_events_table(live.figures()))
    result["seconds"] = round(time.perf_counter() - begun, 1)
    console.print(f"{result['seconds']} s")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _masks_table(scores: dict[str, hard_set_masks.Score]) -> Table:
    table = Table("J&F, frames with the target", "all", *KINDS, "gone: no mask")
    for name, score in scores.items():
        gone = sum(score.gone) / max(len(score.gone), 1)
        figures = [score.mean(), *(score.mean(kind) for kind in KINDS), gone]
        table.add_row(name, *(f"{value:.3f}" for value in figures))
    return table


def _events_table(figures: dict[str, float]) -> Table:
    table = Table("live tracker", "figure")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}".rstrip("0").rstrip("."))
    return table


if __name__ == "__main__":
    sys.exit(main())
