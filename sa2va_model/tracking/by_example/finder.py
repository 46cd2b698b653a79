# SPDX-License-Identifier: Apache-2.0
"""ExampleFinder: where on a picture is what an example shows?

The model names what the example shows ("an orange can") and is asked for that; what it points at counts if it looks
like the example. It is asked again with that painted over, for there may be a thing of the same name that looks more
like it. So words find, and looks decide.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.mllm import chat as prompts
from sa2va_model.sa2va import Sa2VA
from sa2va_model.segmentation.clip import decode_prompt
from sa2va_model.segmentation.object_check import cut_out
from sa2va_model.segmentation.object_masks import painted_over
from sa2va_model.tracking.by_example.example import ObjectExample
from sa2va_model.tracking.by_example.look import ObjectLook, look_of

LEAST = 0.8
"""Likeness from which on something may be the object."""
CUTS = (
    1.5,
    2.0,
    3.0,
)  # sides of the thing that the pictures show on which it is named, besides the whole one
NAMES = 3  # that are asked for, at most
ALIKE = 3  # things of one name that are looked at, at most


@dataclass(frozen=True)
class Sighting:
    """Where an example is seen on a picture.

    Attributes:
        mask: bool [H, W].
        embedding: [C], the prompt that shows it on the picture as it is; None if something had to be painted over.
        likeness: to the example.
    """

    mask: np.ndarray
    embedding: Tensor | None
    likeness: float


class ExampleFinder:
    """Looks for one example, on the thread that runs the model.

    Attributes:
        names: what it was called, the likeliest first.
    """

    def __init__(self, example: ObjectExample) -> None:
        self.example = example
        self.names: tuple[str, ...] = ()
        self._looks: tuple[ObjectLook, ...] = ()

    def find(self, model: Sa2VA, rgb: np.ndarray) -> Sighting | None:
        """Return where the object is on a picture; None if nothing looks like it.

        Raises:
            InputError: nothing is seen where the example points.
        """
        if not self._looks:
            self._learn(model)
        for name in self.names:
            seen = max(self._called(model, rgb, name), key=lambda s: s.likeness, default=None)
            if seen is not None and seen.likeness >= LEAST:
                return seen
        return None

    def _called(self, model: Sa2VA, rgb: np.ndarray, name: str) -> list[Sighting]:
        """What the model points at by that name, one thing after the other."""
        seen: list[Sighting] = []
        picture = rgb
        while len(seen) < ALIKE:
            shown = model.segment(picture, name)
            if not shown.found or not shown.masks[0].any():
                break
            mask, embeddings = shown.masks[0], shown.embeddings
            embedding = None if seen or embeddings is None else embeddings[0].clone()
            seen.append(Sighting(mask, embedding, self.likeness(look_of(model, rgb, mask))))
            picture = painted_over(picture, [mask])
        return seen

    def likeness(self, look: ObjectLook) -> float:
        """Return how like the example something looks."""
        return max(own.likeness(look) for own in self._looks)

    def _learn(self, model: Sa2VA) -> None:
        """Name the example and take its looks."""
        views, said = [], Counter[str]()
        for view in self.example.views:
            mask = view.region.mask
            if mask is None:
                prompt, features = view.region.prompt(view.rgb.shape), model.features(view.rgb)
                mask = decode_prompt(model.segmenter, features, prompt, view.rgb).masks[0]
            if not mask.any():
                raise InputError(f"example {self.example.name!r}: nothing is seen where it points")
            views.append((view.rgb, mask))
            cuts = [cut_out(view.rgb, mask, sides) for sides in CUTS]
            for rgb, inside in ((view.rgb, mask), *cuts):
                said[_name(model.describe_regions(rgb, [inside]).text)] += 1
        self.names = _likeliest(said)
        self._looks = tuple(look_of(model, rgb, mask) for rgb, mask in views)


def _name(text: str) -> str:
    """What a description names: "the orange can" for "an orange can."."""
    words = " ".join(text.split()).strip(" .").removesuffix(".")
    first, _, rest = words.partition(" ")
    return f"the {rest}" if rest and first.lower() in ("a", "an", "the") else words


def _likeliest(said: Counter[str]) -> tuple[str, ...]:
    names = tuple(name for name, _ in said.most_common(NAMES) if name)
    return tuple(prompts.clean_expression(name) for name in names)
