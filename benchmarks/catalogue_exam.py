# SPDX-License-Identifier: Apache-2.0
"""How well a model finds ordinary objects: rendered tables with things of the furniture catalogue, held-out ones too.

    python benchmarks/catalogue_exam.py --scenes 500
    python benchmarks/catalogue_exam.py --scenes 100 --model FOLDER --json out.json
    python benchmarks/catalogue_exam.py --scenes 6 --sheet out.jpg        look at the names' answers

Needs the objects (`make realistic`), no GPU. Every scene is new; an object is "unseen" if the rule of
`Furniture.held_out` keeps it from training, and of a "known noun" if another object of that noun was trained on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from sa2va_model.checkpoints.load import load_model
from sa2va_model.io.overlay import draw_overlay
from sa2va_model.io.preprocessing import mask_box
from sa2va_model.sa2va import Sa2VA
from sa2va_model.tracks import FrameResult, Track, TrackState
from sa2va_sim.catalogue.nouns import all_names
from sa2va_sim.catalogue.room import exam_scene
from sa2va_sim.catalogue.stock import trained_names
from sa2va_sim.words.expressions import Expression, describe
from sa2va_sim.words.facts import LabelledImage, ObjectFact, is_referable, seen
from sa2va_sim.words.vocabulary import SHAPES

FIRST = 700_000
ABSENT_KNOWN = "absent, all words known"  # of a sentence with other words the rest is grounded, and that is said
_WORDS = 14  # expressions of a scene, beside the names
_WRONG = 0.5  # of a mask on another object than the one that was named
_TABLES = 6  # of the sheet
_MIN_VISIBLE, _MIN_AREA = 0.4, 0.003


@dataclass
class Answers:
    """What came out for one kind of question."""

    ious: list[float] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)
    marked: list[bool] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Mean IoU (a target that is not found scores 0), wrong objects and answers with a mask."""
        names = {
            "n": len(self.marked),
            "giou": self.ious,
            "wrong": self.wrong,
            "marked": self.marked,
        }
        return {
            name: value if isinstance(value, int) else round(float(np.mean(value or [np.nan])), 4)
            for name, value in names.items()
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs and prints; with --json also writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=500, metavar="N")
    parser.add_argument("--first", type=int, default=FIRST, metavar="SEED")
    parser.add_argument("--model", metavar="FOLDER", help="a checkpoint; default: the tiny model")
    parser.add_argument(
        "--any-word", action="store_true", help="ask for words that the model was not taught, too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="a picture of the first six tables with what was marked",
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(args.model, device="cpu")
    if args.any_word:
        model.vocabulary = None
    tallies: dict[str, Answers] = {}
    tables: list[np.ndarray] = []
    for seed in tqdm(range(args.first, args.first + args.scenes), leave=False):
        image = exam_scene(seed)
        answers = list(_asked(model, image, seed))
        for group, expression, mask in answers:
            _grade(tallies, group, expression, mask, image)
        if args.sheet and len(tables) < _TABLES:
            tables.append(_drawn(image, answers))
    if args.sheet:
        rows = [np.hstack(tables[i : i + 3]) for i in range(0, len(tables) // 3 * 3, 3)]
        cv2.imwrite(str(args.sheet), cv2.cvtColor(np.vstack(rows or tables), cv2.COLOR_RGB2BGR))
    figures = {group: tallies[group].figures() for group in sorted(tallies)}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    _show(figures)
    return 0


def questions(image: LabelledImage, seed: int) -> list[tuple[str, Expression]]:
    """Sentences of a scene with the group that each counts for."""
    known, rng = known_names(), np.random.default_rng([seed, 0xE8A3])
    found: list[tuple[str, Expression]] = []
    for fact, name in clear_names(image.facts, rng):
        said = Expression(f"the {name}", "name", fact.index, fact.colour, fact.shape)
        found.append((f"name, {standing(fact, name, known)}", said))
    for said in describe(image.facts, rng, _WORDS, motion=False, shapes=all_names()):
        if said.kind == "attribute" and not _colour_and_noun(said, image):
            continue
        group = {"attribute": "colour and noun", "none": "absent"}.get(said.kind, said.kind)
        found.append((group, said))
    return found


def clear_names(
    facts: Sequence[ObjectFact], rng: np.random.Generator
) -> Iterator[tuple[ObjectFact, str]]:
    """Things of the catalogue that are seen well, each with a name that means no other in sight."""
    for fact in seen(facts):
        if fact.shape in SHAPES and not fact.names:
            continue  # the toy world has its own benchmark
        name = str(rng.choice(fact.called))
        others = [f for f in seen(facts) if f.index != fact.index]
        clear = not any(name in (*f.called, *f.doubtful) for f in others)
        if clear and is_referable(fact, _MIN_VISIBLE, _MIN_AREA):
            yield fact, name


def known_names() -> frozenset[str]:
    """Nouns of which some object was trained on."""
    return frozenset((*SHAPES, *trained_names()))


def standing(fact: ObjectFact, name: str, known: frozenset[str]) -> str:
    """Whether training saw the object, or else the noun."""
    if not fact.held_out:
        return "seen object"
    return "unseen object, known noun" if name in known else "unseen object, unknown noun"


def on_another(mask: np.ndarray, instances: np.ndarray, index: int) -> bool:
    """Whether most of a mask lies on other objects than the one with this index; False without a mask."""
    other = mask & (instances != index + 1) & (instances > 0)
    return bool(other.sum() > _WRONG * max(mask.sum(), 1))


def _colour_and_noun(said: Expression, image: LabelledImage) -> bool:
    assert said.target is not None
    fact = image.facts[said.target]
    return (
        bool(fact.names)
        and bool(fact.colour)
        and fact.colour in said.text.split()
        and any(name in said.text for name in fact.called)
    )


@torch.inference_mode()
def _asked(
    model: Sa2VA, image: LabelledImage, seed: int
) -> Iterator[tuple[str, Expression, np.ndarray]]:
    """Every question with the mask that answers it, bool [H, W]."""
    asked = questions(image, seed)
    if not asked:
        return
    answers = model.segment_many(image.rgb, [said.text for _, said in asked])
    for (group, said), answer in zip(asked, answers, strict=True):
        shape = image.instances.shape
        mask = np.any(np.asarray(answer.masks, bool).reshape(-1, *shape), 0)
        yield group, said, mask
        if group == "absent" and not answer.unknown:
            yield ABSENT_KNOWN, said, mask


def _grade(
    tallies: dict[str, Answers],
    group: str,
    said: Expression,
    mask: np.ndarray,
    image: LabelledImage,
) -> None:
    tally = tallies.setdefault(group, Answers())
    tally.marked.append(bool(mask.any()))
    if said.target is None:
        return
    truth = image.instances == said.target + 1
    tally.ious.append(float((mask & truth).sum() / max((mask | truth).sum(), 1)))
    tally.wrong.append(on_another(mask, image.instances, said.target))


def _drawn(
    image: LabelledImage, answers: Sequence[tuple[str, Expression, np.ndarray]]
) -> np.ndarray:
    """The table with what the names marked, as the node draws tracks."""
    tracks: list[Track] = []
    for group, said, mask in answers:
        if not group.startswith("name"):
            continue
        (box, area), number = mask_box(mask), len(tracks) + 1
        state = TrackState.TRACKING if area else TrackState.NOT_FOUND
        track = Track(str(number), said.text, state, number, mask, box, area, math.nan)
        tracks.append(track)
    height, width = image.instances.shape
    return draw_overlay(image.rgb, FrameResult(0.0, 0, height, width, tuple(tracks)))


def _show(figures: dict[str, dict[str, Any]]) -> None:
    table = Table("asked for", "n", "gIoU", "wrong object", "marked")
    for group, row in figures.items():
        table.add_row(group, *(str(value) for value in row.values()))
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
