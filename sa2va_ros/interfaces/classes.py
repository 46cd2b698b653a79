# SPDX-License-Identifier: Apache-2.0
"""Classes with fixed numbers for what is tracked, for consumers of label images (semantic costmaps). No ROS.

{person: 1, car|bus|truck: 2}    "the red truck" is 2 in every image and in every run; what has no class is 0
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import yaml

from sa2va_model.errors import InputError
from sa2va_model.tracks import FrameResult

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
        table = np.zeros(256, np.uint8)
        for track in result.tracks:
            if track.mask is not None:
                table[track.mask_value] = self.number(track.expression or track.label)
        labels: np.ndarray = table[result.labels()]
        return labels
