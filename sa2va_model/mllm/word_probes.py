# SPDX-License-Identifier: Apache-2.0
"""WordProbes: whether what a mask shows looks like what was asked for, read off the language model's visual tokens.

A linear probe for each word (Alain and Bengio 2016, "Understanding intermediate layers using linear classifier
probes"). A small model that is asked for a kettle often points at the thing that looks most like one; its visual tokens
know better what that thing is. So the mask of an answer is held against the words once more, for the price of one
product of matrices.

Letters: N rows of weights, C hidden size of the language model, r side of its grid of visual tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.mllm.vocabulary import singulars

FILE = "word_probes.safetensors"
_LEAST = 0.5  # cells that a mask has to cover for a verdict
_RIVALS = 16  # kinds of things that a mask may show instead: those that the image shows most of


@dataclass(frozen=True)
class Likeness:
    """How much each part of an image looks like what a sentence asks for.

    Attributes:
        word: what is asked for: a noun, or a colour where there is none.
        cells: float32 [K, r, r] over the whole image, one map for each kind of thing that the word may mean: how much
            likelier this kind is than the mean of all kinds, in log-odds; what colour is said counts, too.
        floor: mean over a mask from which on it shows the thing.
        rivals: float32 [R, r, r], the same of other kinds that the image shows; None = of none.
        odds: logarithm of the share of what is asked for, among it and its rivals, from which on a mask shows it.
    """

    word: str
    cells: Tensor
    floor: float
    rivals: Tensor | None = None
    odds: float = -math.inf

    def of(self, mask: Tensor | np.ndarray) -> float:
        """Mean over a mask of the whole image, bool [h, w] of any size; NaN if it is too small to tell."""
        return float(self._means(self.cells, mask).max())

    def against_rivals(self, mask: Tensor | np.ndarray) -> float:
        """Logarithm of the share of what is asked for, 0 or less; NaN as above, 0 without rivals."""
        maps = self.cells if self.rivals is None else torch.cat([self.cells, self.rivals])
        means = self._means(maps, mask)
        return float(means[: len(self.cells)].logsumexp(0) - means.logsumexp(0))

    def _means(self, maps: Tensor, mask: Tensor | np.ndarray) -> Tensor:
        shown = torch.as_tensor(mask, device=maps.device).float()
        weights = F.adaptive_avg_pool2d(shown[None], maps.shape[-1])[0]
        covered = weights.sum()
        means = (maps * weights).sum((1, 2)) / covered
        return means.where(covered >= _LEAST, torch.nan)

    def fits(self, mask: Tensor | np.ndarray) -> bool:
        """Return whether a mask shows what is asked for, as far as one can tell."""
        return not (self.of(mask) < self.floor or self.against_rivals(mask) < self.odds)

    @property
    def refusal(self) -> str:
        """What people are told if the mask does not fit."""
        return f"What comes nearest to {self.word!r} looks like something else."


@dataclass(frozen=True)
class WordProbes:
    """A row of weights for each kind of thing and each colour.

    Attributes:
        nouns: the rows of each noun; one that names several kinds has several.
        colours: the row of each colour.
        weight: float32 [N, C]; `bias`: float32 [N].
        floor: see `Likeness`; `colour_floor`: that of a sentence that names no thing, for each colour.
        odds: see `Likeness`; of sentences that name a thing.
    """

    nouns: Mapping[str, tuple[int, ...]]
    colours: Mapping[str, int]
    weight: Tensor
    bias: Tensor
    floor: float
    colour_floor: float
    odds: float = -math.inf

    @classmethod
    def read(cls, folder: Path, hidden: int) -> WordProbes | None:
        """Those of a checkpoint; None if it has none.

        Args:
            hidden: C.

        Raises:
            InputError: the file is damaged, or for another model.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as stored:
                words = json.loads(stored.metadata()["words"])
                weight, bias = (stored.get_tensor(name).float() for name in ("weight", "bias"))
            nouns = {str(noun): tuple(map(int, rows)) for noun, rows in words["nouns"].items()}
            colours = {str(name): int(row) for name, row in words["colours"].items()}
            floors = float(words["floor"]), float(words["colour_floor"])
            odds = float(words.get("odds", -math.inf))  # files before 29 November 2026 have none
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: expected weight [N, {hidden}], bias [N] and the words of their rows ({error!r})"
            ) from error
        rows = {row for several in nouns.values() for row in several} | set(colours.values())
        if weight.shape != (len(bias), hidden) or not rows <= set(range(len(bias))):
            raise InputError(
                f"{file}: weight is {list(weight.shape)}, bias {list(bias.shape)}, rows to {max(rows, default=0)}; "
                f"expected [N, {hidden}], [N] and rows below N"
            )
        return cls(nouns, colours, weight, bias, *floors, odds)

    def write(self, folder: Path) -> Path:
        """Puts them beside the weights, in float16."""
        names = ("nouns", "colours", "floor", "colour_floor")
        words = {name: getattr(self, name) for name in names}
        if math.isfinite(self.odds):
            words["odds"] = self.odds
        tensors = {"weight": self.weight, "bias": self.bias}
        file = folder / FILE
        save_file(
            {name: tensor.half().contiguous() for name, tensor in tensors.items()},
            file,
            {"words": json.dumps(words, ensure_ascii=False)},
        )
        file.chmod(0o644)  # safetensors writes for the owner alone; this file is shared
        return file

    def likeness(self, tokens: Tensor, words: Sequence[str]) -> Likeness | None:
        """How much each part of an image looks like what some words name; None if they name neither thing nor colour.

        Args:
            tokens: [r * r, C], the visual tokens of the whole image as one tile.
            words: of the thing itself, in lower case: "the", "green", "kettle".
        """
        noun, colours = self._noun(words), [word for word in words if word in self.colours]
        if noun is None and not colours:
            return None
        every = self._maps(tokens.float())
        said = every[[self.colours[colour] for colour in colours]].sum(0)
        if noun is None:
            return Likeness(" ".join(colours), said[None], self.colour_floor * len(colours))
        own = self.nouns[noun]
        others = [row for row in self._kinds if row not in own]
        most = every[others].amax((1, 2)).topk(min(_RIVALS, len(others))).indices
        return Likeness(noun, every[list(own)] + said, self.floor, every[others][most], self.odds)

    @cached_property
    def _kinds(self) -> tuple[int, ...]:
        """The rows of things."""
        return tuple(sorted({row for rows in self.nouns.values() for row in rows}))

    def _maps(self, tokens: Tensor) -> Tensor:
        """[N, r, r] of tokens [r * r, C]."""
        weight, bias = (values.to(tokens.device) for values in (self.weight, self.bias))
        side = int(len(tokens) ** 0.5)
        return (weight @ tokens.T + bias[:, None]).unflatten(1, (side, side))

    def _noun(self, words: Sequence[str]) -> str | None:
        """The longest of the nouns that stand last."""
        for end in range(len(words), 0, -1):
            for begin in range(end):
                before = words[begin : end - 1]
                for last in singulars(words[end - 1]):
                    if (noun := " ".join((*before, last))) in self.nouns:
                        return noun
        return None
