# SPDX-License-Identifier: Apache-2.0
"""How often a model's answers are among the known ones, on scenes it was never trained on (seeds below 100,000)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.mllm import chat as prompts
from sa2va_model.sa2va import Sa2VA
from sa2va_sim.gl import RenderingUnavailableError
from sa2va_sim.painted.scene import flat_scene
from sa2va_sim.simulator import render_labelled
from sa2va_sim.words.expressions import describe
from sa2va_sim.words.facts import LabelledImage

PER_SCENE = 12  # sentences
FIRST_SEED = 90_000


def scene_with_known_objects(
    model: Sa2VA, count: int, side: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """An image and sentences about it that the model answers with a mask.

    Raises:
        InputError: there is none such among a hundred scenes.
    """
    for seed in range(FIRST_SEED, FIRST_SEED + 100):
        image = flat_scene(np.random.default_rng(seed), side)
        found = [
            text
            for text, absent in _sentences(image, seed)
            if not absent and model.segment(image.rgb, text).found
        ]
        if len(found) >= count:
            return image.rgb, tuple(found[:count])
    raise InputError("bench grounding: the model finds nothing in the simulator's scenes")


def acceptance(model: Sa2VA, scenes: int) -> dict[str, dict[str, Any]]:
    """Counts forwards over held-out scenes, and compares every answer with token-by-token decoding."""
    kinds: dict[str, Iterable[tuple[int, LabelledImage]]] = {
        "painted scenes": _flat(scenes),
        "rendered scenes": _rendered(scenes),
    }
    out: dict[str, dict[str, Any]] = {}
    for kind, images in kinds.items():
        counts = _count(model, images)
        if counts["sentences"]:
            out[kind] = counts
    return out


def _flat(scenes: int) -> Iterator[tuple[int, LabelledImage]]:
    for seed in range(FIRST_SEED, FIRST_SEED + scenes):
        yield seed, flat_scene(np.random.default_rng(seed), 240)


def _rendered(scenes: int) -> Iterator[tuple[int, LabelledImage]]:
    try:
        for seed in range(FIRST_SEED, FIRST_SEED + scenes):
            yield seed, render_labelled(seed, 256)
    except RenderingUnavailableError as error:
        print(f"  rendered scenes are left out: {error}")


def _sentences(image: LabelledImage, seed: int) -> list[tuple[str, bool]]:
    """Sentences about a scene, and whether they mean nothing in it."""
    given = describe(image.facts, np.random.default_rng([seed, 1]), PER_SCENE, motion=False)
    return [(expression.text, expression.target is None) for expression in given]


def _count(model: Sa2VA, images: Iterable[tuple[int, LabelledImage]]) -> dict[str, Any]:
    forwards, tokens, different, absent = [], [], 0, 0
    for seed, image in images:
        for text, nothing in _sentences(image, seed):
            quick = model.ground([image.rgb], text).generated
            question = prompts.referring_question(prompts.clean_expression(text))
            slow = model.reply(f"{prompts.IMAGE_PLACEHOLDER}\n{question}", [image.rgb]).generated
            forwards.append(quick.forwards)
            tokens.append(slow.forwards)
            different += quick.ids != slow.ids
            absent += nothing
    return {
        "sentences": len(forwards),
        "absent": absent,
        "one_forward": float(np.mean([n == 1 for n in forwards])) if forwards else 0.0,
        "forwards": float(np.mean(forwards)) if forwards else 0.0,
        "tokens": float(np.mean(tokens)) if forwards else 0.0,
        "different": different,
    }
