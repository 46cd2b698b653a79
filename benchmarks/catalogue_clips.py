# SPDX-License-Identifier: Apache-2.0
"""How well ordinary objects are followed: clips of the furniture catalogue, held-out objects too.

    python benchmarks/catalogue_clips.py --clips 100
    python benchmarks/catalogue_clips.py --clips 15 --model FOLDER --json out.json

Needs the objects (`make realistic`), no GPU. Things are carried about, hide each other, leave and come back; most
cameras are held by hand. One seen and one unseen object of each clip are followed by the live tracker, frame by frame:
both by their names, and once more by their true masks on the first picture (memory alone). Counted:

    J&F           of all frames, where the object is away for an empty mask; by mask, without the first one
    J&F in sight  of frames that show at least a twentieth of it
    wrong object  frames whose mask lies mostly on another object
    found         clips in which anything was marked at all
    gone          frames without the object that have no mask
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from catalogue_exam import clear_names, known_names, on_another, standing
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from sa2va_model import Frame, LiveTracker, Sa2VA
from sa2va_model.checkpoints.load import load_model
from sa2va_sim.catalogue.room import SEEDS_PER_ROOM, things_clip
from sa2va_sim.words.facts import LabelledImage, ObjectFact
from sa2va_training.metrics.clips import clip_score

FIRST = 720_000
FRAMES = 24
PERIOD = 0.15  # seconds; clips have their own pace, 0.08 to 0.25
SEEN = 0.05  # share of itself below which an object is gone, as in the hard set


@dataclass(frozen=True)
class ClipTarget:
    """What to follow in a clip: its index, what it is called, and the group that it counts for."""

    index: int
    name: str
    group: str


@dataclass
class FollowedClips:
    """What came out for one way of asking and one group of objects; one value a clip, or a frame."""

    whole: list[float] = field(default_factory=list)
    sight: list[float] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)
    gone: list[bool] = field(default_factory=list)

    def add(self, clip: Sequence[LabelledImage], index: int, masks: np.ndarray) -> None:
        """One object of one clip.

        Args:
            masks: bool [T, H, W].
        """
        truth = np.stack([image.instances == index + 1 for image in clip])
        there = np.array([image.facts[index].visible >= SEEN for image in clip])
        self.whole.append(clip_score(masks, truth).j_and_f)
        if there.any():
            self.sight.append(clip_score(masks[there], truth[there]).j_and_f)
        self.found.append(bool(masks.any()))
        self.wrong += [
            on_another(mask, image.instances, index)
            for mask, image in zip(masks, clip, strict=True)
        ]
        self.gone += [not mask.any() for mask in masks[~there]]

    def figures(self) -> dict[str, float]:
        """Clips, and the mean of each value; NaN where there is none."""
        names = {
            "J&F": self.whole,
            "J&F in sight": self.sight,
            "wrong object": self.wrong,
            "found": self.found,
            "gone": self.gone,
        }
        means = {name: float(np.mean(values or [np.nan])) for name, values in names.items()}
        return {"n": len(self.whole), **{name: round(mean, 4) for name, mean in means.items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs and prints; with --json also writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=100, metavar="N")
    parser.add_argument("--first", type=int, default=FIRST, metavar="SEED")
    parser.add_argument("--model", metavar="FOLDER", help="a checkpoint; default: the tiny model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(args.model, device="cpu")
    tallies: dict[str, FollowedClips] = {}
    for clip, targets in tqdm(clips(args.first, args.clips), total=args.clips, leave=False):
        for way, ask in (("name", by_name), ("mask", by_mask)):
            begin = 1 if way == "mask" else 0
            for target, masks in zip(targets, follow(model, clip, targets, ask), strict=True):
                for group in (target.group, "all"):
                    tally = tallies.setdefault(f"{way}, {group}", FollowedClips())
                    tally.add(clip[begin:], target.index, masks[begin:])
    figures = {group: tallies[group].figures() for group in sorted(tallies)}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    _show(figures)
    return 0


def clips(first: int, count: int) -> Iterator[tuple[list[LabelledImage], list[ClipTarget]]]:
    """As many clips that have something to follow, each in a room of its own; a function of the first seed."""
    seed = first
    while count:
        clip = things_clip(seed, FRAMES, split="all")
        chosen = targets(clip[0].facts, seed)
        seed += SEEDS_PER_ROOM
        if chosen:
            count -= 1
            yield clip, chosen


def targets(facts: Sequence[ObjectFact], seed: int) -> list[ClipTarget]:
    """One seen and one unseen object of the first picture that have a name of their own there; as far as there are."""
    rng, known = np.random.default_rng([seed, 0xC11B, 1]), known_names()
    named = [
        ClipTarget(f.index, name, standing(f, name, known)) for f, name in clear_names(facts, rng)
    ]
    chosen = []
    for unseen in (False, True):
        fitting = [target for target in named if facts[target.index].held_out == unseen]
        if fitting:
            chosen.append(fitting[int(rng.integers(len(fitting)))])
    return chosen


Ask = Callable[[LiveTracker, LabelledImage, ClipTarget], str]


def by_name(live: LiveTracker, first: LabelledImage, target: ClipTarget) -> str:
    """Say what it is."""
    return live.track(f"the {target.name}")


def by_mask(live: LiveTracker, first: LabelledImage, target: ClipTarget) -> str:
    """Show it."""
    return live.prompt(mask=first.instances == target.index + 1)


def follow(
    model: Sa2VA, clip: Sequence[LabelledImage], targets: Sequence[ClipTarget], ask: Ask
) -> list[np.ndarray]:
    """The masks of each target on all frames, bool [T, H, W]."""
    live = LiveTracker(model)
    names = [ask(live, clip[0], target) for target in targets]
    found = [np.zeros((len(clip), *clip[0].instances.shape), bool) for _ in targets]
    for number, image in enumerate(clip):
        result = live.process(Frame(image.rgb, PERIOD * number, number))
        shown = {track.id: track.mask for track in result.tracks if track.mask is not None}
        for masks, name in zip(found, names, strict=True):
            if name in shown:
                masks[number] = shown[name]
    live.close()
    return found


def _show(figures: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(figures.values())))
    table = Table("followed by", *columns)
    for group, row in figures.items():
        table.add_row(group, *(str(value) for value in row.values()))
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
