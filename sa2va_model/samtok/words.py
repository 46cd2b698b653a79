# SPDX-License-Identifier: Apache-2.0
"""Masks as words of a text: `<|mt_start|><|mt_0123|><|mt_0456|><|mt_end|>`.

The first word is an entry of the first codebook, the second one of the second, counted on from the first.
"""

from __future__ import annotations

import re

from sa2va_model.errors import InputError

BOOK, DEPTH = 256, 2
"""Entries of a codebook; codebooks."""
START, END = "<|mt_start|>", "<|mt_end|>"
Code = tuple[int, int]
"""Entries of both codebooks, 0..255; a second one of -1 = none was said, which is decoded as entry 0."""
_WORD = re.compile(r"<\|mt_(\d{4})\|>")
_WHOLE = re.compile(r"<\|mt_start\|><\|mt_(\d{4})\|><\|mt_(\d{4})\|><\|mt_end\|>")
_MORE = re.compile(r"(<\|mt_start\|>(?:<\|mt_\d+\|>){2})(?:<\|mt_\d+\|>)+<\|mt_end\|>")
_ONE = re.compile(r"(<\|mt_start\|><\|mt_\d+\|>)(?:<\|mt_end\|>|(?!<\|mt_))")
_NONE = 9999


def vocabulary() -> list[str]:
    """All mask tokens, in the order in which a checkpoint's tokenizer has them."""
    return [START, *(f"<|mt_{number:04d}|>" for number in range(DEPTH * BOOK)), END]


def spell(code: Code) -> str:
    """A mask's words, to put them into a question.

    Raises:
        InputError: an entry that no codebook has.
    """
    if not all(0 <= entry < BOOK for entry in code):
        raise InputError(f"mask words are {code}; expected two numbers of 0 to {BOOK - 1}")
    return f"{START}<|mt_{code[0]:04d}|><|mt_{BOOK + code[1]:04d}|>{END}"


def read(text: str) -> list[Code]:
    """The masks that a text names, in order, as the official code reads them.

    All mask words are taken in pairs. Where their number is odd, those between `<|mt_start|>` and `<|mt_end|>` count:
    more than two are cut, and one alone has no second entry. A first word of the second codebook is no mask.
    """
    numbers = [int(number) for number in _WORD.findall(text)]
    if len(numbers) % DEPTH:
        lone = rf"\1<|mt_{_NONE}|>{END}"
        pairs = _WHOLE.findall(_ONE.sub(lone, _MORE.sub(rf"\1{END}", text)))
        numbers = [int(number) for pair in pairs for number in pair]
    each = zip(numbers[::DEPTH], numbers[1::DEPTH], strict=True)
    codes = [(a, b - BOOK if BOOK <= b < DEPTH * BOOK else -1) for a, b in each]
    return [code for code in codes if code[0] < BOOK]
