# SPDX-License-Identifier: Apache-2.0
"""Short answers: right if they are one of the true ones, whatever is around the words that matter."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS)} | {"none": "0", "no": "no"}
_FILLERS = re.compile(
    r"^(?:it is|it's|its|there is|there are|there's|they are|this is|that is|i see|the answer is|answer)\b"
)
_ARTICLES = {"a", "an", "the"}
_SPELLINGS = {"gray": "grey", "color": "colour"}


def plain_answer(text: str) -> str:
    """An answer without case, punctuation, articles and openings such as "it is"; numbers as digits."""
    words = " ".join(re.findall(r"[\w'-]+", text.lower()))
    words = _FILLERS.sub("", words).strip()
    kept = [word for word in words.split() if word not in _ARTICLES]
    return " ".join(_DIGITS.get(word, _SPELLINGS.get(word, word)) for word in kept)


def is_right(answer: str, truths: Sequence[str]) -> bool:
    """Whether the answer is one of the true ones, apart from what `plain_answer` takes away."""
    return plain_answer(answer) in {plain_answer(truth) for truth in truths}
