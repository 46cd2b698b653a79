# SPDX-License-Identifier: Apache-2.0
"""Classes with fixed numbers for what is tracked, for consumers of label images (semantic costmaps). No ROS.

{person: 1, car|bus|truck: 2}    "the red truck" is 2 in every image and in every run; what has no class is 0
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import yaml

from sa2va_model.errors import InputError
from sa2va_model.tracks import FrameResult, Track

_EXPECTED = 'expected words with numbers from 1 to 255, such as "{person: 1, car|bus|truck: 2}"'


@dataclass(frozen=True)
class Classes:
    """Numbers of groups of words.

    Attributes:
        numbers: by word (or words) in lower case.
    """

    numbers: dict[str, int]

    @classmethod
    def parse(cls, text: str) -> Classes:
        """Those of a YAML (or JSON) mapping; none for "".

        Raises:
            InputError: it is none, a number is not from 1 to 255, or a word has two.
        """
        try:
            groups = yaml.safe_load(text) if text.strip() else {}
        except yaml.YAMLError as error:
            raise InputError(f"classes {text!r} cannot be read; {_EXPECTED}") from error
        if not isinstance(groups, dict):
            raise InputError(f"classes is {text!r}; {_EXPECTED}")
        numbers: dict[str, int] = {}
        for words, number in groups.items():
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 255:
                raise InputError(f"classes: '{words}' has {number!r}; {_EXPECTED}")
            for word in (" ".join(part.split()).casefold() for part in str(words).split("|")):
                if not word or numbers.setdefault(word, number) != number:
                    raise InputError(
                        f"classes: '{word}' of '{words}' has two numbers or none; {_EXPECTED}"
                    )
        return cls(numbers)

    def names(self) -> dict[int, str]:
        """What each number is called: its first word."""
        called: dict[int, str] = {}
        for word, number in self.numbers.items():
            called.setdefault(number, word)
        return called

    def number(self, expression: str) -> int:
        """The class of what an expression names: of its first word that has one, the longest there; 0 = none."""
        text, best = expression.casefold(), (len(expression), 0, 0)
        for word, number in self.numbers.items():
            found = re.search(rf"\b{re.escape(word)}(?:e?s)?\b", text)
            if found is not None:
                best = min(best, (found.start(), -len(word), number))
        return best[2]

    def labels(self, result: FrameResult) -> np.ndarray:
        """The label image of classes: uint8 [H, W], 0 = background, and what has no class."""
        return self._painted(result, lambda track, number: number)

    def confidence(self, result: FrameResult) -> np.ndarray:
        """How sure each pixel of `labels` is, 0 to 255: its track's score; 0 where there is no class."""
        return self._painted(result, lambda track, number: number and _byte(track.score))

    def _painted(self, result: FrameResult, value: Callable[[Track, int], int]) -> np.ndarray:
        table = np.zeros(256, np.uint8)
        for track in result.tracks:
            if track.mask is not None:
                number = self.number(track.expression or track.label)
                table[track.mask_value] = value(track, number)
        painted: np.ndarray = table[result.labels()]
        return painted


def _byte(share: float) -> int:
    """A score as a byte; one that is not known (NaN) is none."""
    return round(255 * min(max(share, 0.0), 1.0)) if share == share else 0
