# SPDX-License-Identifier: Apache-2.0
"""Simulated tables as a simple folder: true masks, expressions, no labelling. `sa2va data synth` on the command line.

Used to rehearse what a model knows while it learns something new, to try a recipe before there is any data, and in
tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_sim.words.dialogue import converse
from sa2va_sim.words.expressions import Expression, describe
from sa2va_sim.words.facts import LabelledImage
from sa2va_sim.words.plurals import describe_all
from sa2va_training.data.folder import FolderWriter

Scene = tuple[list[LabelledImage], list[Expression]]


def _sim(seed: int, size: int) -> Scene:
    from sa2va_sim.simulator import render_labelled

    return _described([render_labelled(seed, size)], seed)


def _sim_clip(seed: int, size: int) -> Scene:
    from sa2va_sim.simulator import sim_clip

    return _described(sim_clip(seed, 8, size), seed)


def _flat(seed: int, size: int) -> Scene:
    from sa2va_sim.painted.scene import flat_scene

    return _described([flat_scene(np.random.default_rng(seed), size)], seed)


def _flat_clip(seed: int, size: int) -> Scene:
    from sa2va_sim.painted.scene import flat_clip

    return _described(flat_clip(np.random.default_rng(seed), size, 8), seed)


def _garden(seed: int, size: int) -> Scene:
    from sa2va_sim.domain_garden import SHAPES, render_garden

    return _described([render_garden(seed, size)], seed, shapes=SHAPES)


def _things(seed: int, size: int, split: str = "train") -> Scene:
    from sa2va_sim.catalogue.nouns import all_names
    from sa2va_sim.catalogue.room import render_things

    return _described([render_things(seed, split, size)], seed, shapes=all_names())


def _things_clip(seed: int, size: int) -> Scene:
    from sa2va_sim.catalogue.nouns import all_names
    from sa2va_sim.catalogue.room import things_clip

    return _described(things_clip(seed, 8, size), seed, shapes=all_names())


def _crowd(seed: int, size: int) -> Scene:
    from sa2va_sim.crowd import render_crowd

    image = render_crowd(seed, size)
    _, expressions = _described([image], seed)
    absent = [e for e in expressions if e.target is None]
    several = describe_all(image.facts, np.random.default_rng([seed, 0xA11]), absent=absent)
    return [image], expressions + several


def _described(images: list[LabelledImage], seed: int, **options: Any) -> Scene:
    """Expressions about the first picture."""
    rng = np.random.default_rng([seed, 0x5E7])
    return images, describe(images[0].facts, rng, 16, motion=False, **options)


SCENES: dict[str, Callable[[int, int], Scene]] = {
    "sim": _sim,
    "flat": _flat,
    "sim-clips": _sim_clip,
    "flat-clips": _flat_clip,
    "garden": _garden,
    # Several of a kind, and sentences that mean all of them.
    "crowd": _crowd,
    # Ordinary objects, where they are installed: those that may be trained on, and the others.
    "things": _things,
    "things-unseen": partial(_things, split="unseen"),
    "things-clips": _things_clip,
}


ASKED = ("expressions", "questions", "captions")
"""What can be written about a picture, beside its masks."""


def write_scenes(
    folder: Path,
    kind: str,
    seeds: Iterable[int],
    *,
    size: int = 320,
    split: str = "train",
    quality: int = 95,
    asked: Collection[str] = ASKED,
) -> int:
    """Adds scenes to a simple folder; returns how many.

    Args:
        kind: a key of `SCENES`.
        size: side of the square pictures in pixels.
        asked: what is written about them, of `ASKED`.

    Raises:
        InputError: an unknown kind of scene or question, or a size that is too small to see anything.
    """
    if kind not in SCENES:
        raise InputError(f"kind is {kind!r}; expected one of {', '.join(SCENES)}")
    if not asked or not set(asked) <= set(ASKED):
        raise InputError(
            f"asked is {', '.join(asked) or 'nothing'}; expected some of {', '.join(ASKED)}"
        )
    if size < 32:
        raise InputError(f"size is {size}; expected 32 pixels or more")
    count = 0
    with FolderWriter(folder, quality=quality) as writer:
        for seed in seeds:
            pictures, expressions = SCENES[kind](seed, size)
            _write(writer, f"{kind}_{seed:07d}", pictures, expressions, split, asked)
            count += 1
    return count


def _talk(
    picture: LabelledImage, expressions: Sequence[Expression], *, regions: bool
) -> dict[str, Any]:
    """What can be asked and told about a picture, in the folder's words; only of what is seen beyond doubt.

    Args:
        regions: also ask about regions, which only a picture can have.
    """
    talks = converse(picture.facts, np.random.default_rng(0), expressions, vary=False)
    talks = [talk for talk in talks if regions or talk.kind != "region"]
    # Plain lists too: a rehearsal without them unlearns the answer to "What is in this image?".
    captions = [
        {
            "text": talk.answer.replace(" [SEG]", "")
            .replace("<p> ", "<p>")
            .replace(" </p>", "</p>"),
            "objects": [[str(i + 1)] for i in talk.objects] if talk.kind == "grounded" else [],
        }
        for talk in talks
        if talk.kind in ("grounded", "caption")
    ]
    questions = [
        {"question": talk.question, "answer": talk.answer, "kind": talk.kind}
        | ({"regions": [str(talk.objects[0] + 1)]} if talk.kind == "region" else {})
        for talk in talks
        if talk.kind not in ("grounded", "caption")
    ]
    return {"questions": questions, "captions": captions}


def _write(
    writer: FolderWriter,
    name: str,
    pictures: Sequence[LabelledImage],
    expressions: Sequence[Expression],
    split: str,
    asked: Collection[str],
) -> None:
    first = pictures[0]
    said = {
        "expressions": [
            {
                "text": e.text,
                "objects": [] if e.target is None else [str(k + 1) for k in (e.target, *e.others)],
                "kind": e.kind,
            }
            for e in expressions
        ],
        **_talk(first, expressions, regions=len(pictures) == 1),
    }
    said = {"split": split} | {name: value for name, value in said.items() if name in asked}
    objects = {fact.index + 1: f"{fact.colour} {fact.shape}".strip() for fact in first.facts}
    if len(pictures) == 1:
        writer.add_image(name, first.rgb, first.instances, objects, **said)
        return
    frames, labels = [p.rgb for p in pictures], [p.instances for p in pictures]
    writer.add_clip(name, frames, labels, objects, **said)
