# SPDX-License-Identifier: Apache-2.0
"""The simulator's hard clips: what each part of the tracker is worth, and how well objects are lost and found.

    python benchmarks/hard_set/measure.py --clips 60                  everything, with the model's own words
    python benchmarks/hard_set/measure.py --clips 60 --start embedding   the language model's errors taken out
    python benchmarks/hard_set/measure.py --clips 10 --only masks     a quick look

Clips are rendered once into runs/hard_clips. Needs no GPU; a model of one's own with --model FOLDER.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import live
import masks
import torch
from clips import DEFAULT_CACHE, clips
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from sa2va_model.checkpoints.calibration import Calibration
from sa2va_model.checkpoints.load import SHIPPED, load_model
from sa2va_model.tracking.live import LiveConfig
from sa2va_sim.hard_clips import KINDS, HardClip


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
    report = Report(args)
    if args.only != "events":
        scores = {name: masks.Score() for name in masks.VARIANTS}
        for clip in report.each("masks"):
            masks.run_clip(model, clip, scores, start=args.start, calibration=calibration)
            report.keep("masks", {name: score.figures(KINDS) for name, score in scores.items()})
        report.show(_masks_table(scores))
    if args.only != "masks":
        heard = live.LiveScore()
        for clip in report.each("live"):
            live.run_clip(model, clip, heard, start=args.start, config=LiveConfig())
            report.keep("events", heard.figures())
            if args.log:
                report.show(heard.log[-1])
        report.show(_events_table(heard.figures()))
    return 0


class Report:
    """The clips of a run, and what is known so far: written after every clip, so that a run may be broken off."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._begun = time.perf_counter()
        self._values: dict[str, Any] = {"start": args.start}
        self._console = Console(width=150)

    def each(self, name: str) -> Iterator[HardClip]:
        """The clips, with a bar on the screen."""
        numbers = range(self._args.first, self._args.first + self._args.clips)
        found = clips(numbers, self._args.cache)
        for done, clip in enumerate(tqdm(found, total=len(numbers), desc=name, leave=False), 1):
            yield clip
            self._values["clips"] = done

    def keep(self, name: str, figures: dict[str, Any]) -> None:
        """Writes the file."""
        self._values[name] = figures
        self._values["seconds"] = round(time.perf_counter() - self._begun, 1)
        if self._args.json:
            self._args.json.write_text(json.dumps(self._values, indent=1) + "\n")

    def show(self, what: Table | str) -> None:
        """Prints."""
        self._console.print(what, markup=False, highlight=False)


def _masks_table(scores: dict[str, masks.Score]) -> Table:
    table = Table("J&F, frames with the target", "all", *KINDS, "gone: no mask")
    for name, score in scores.items():
        table.add_row(name, *(f"{value:.3f}" for value in score.figures(KINDS).values()))
    return table


def _events_table(figures: dict[str, float]) -> Table:
    table = Table("live tracker", "figure")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}".rstrip("0").rstrip("."))
    return table


if __name__ == "__main__":
    sys.exit(main())
