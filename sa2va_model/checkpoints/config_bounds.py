# SPDX-License-Identifier: Apache-2.0
"""Sizes in a `config.json` against the files beside it, before anything is built.

A model is built without memory for its weights, but not without time: a million layers take hours, and a billion of
anything takes the machine. Weights bound what a configuration can mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sa2va_model.checkpoints.safetensors_files import Stored
from sa2va_model.errors import InputError

_COUNTS = re.compile(r"(layers?|depth|blocks?|stages)$")  # each of them has tensors
_SIDES = re.compile(r"(size|dim|channels|width|heads|experts|frames|pointers|spec)s?$")
_LOOPS = re.compile(r"(tiles|dynamic_patch|keyframes)$")
_TOKENS = re.compile(r"new_tokens$")
LEAST_SIDE, MOST_LOOPS, MOST_TOKENS = 4096, 1024, 2**17


def check_sizes(values: Mapping[str, Any], stored: Mapping[str, Stored], file: Path) -> None:
    """InputError naming the first number that no model with these files has."""
    side = max((side for entry in stored.values() for side in entry.shape), default=0)
    limits = (
        (_COUNTS, len(stored), f"the files have {len(stored)} tensors"),
        (
            _SIDES,
            max(LEAST_SIDE, 4 * side),
            f"the largest tensor of the files has a side of {side}",
        ),
        (_LOOPS, MOST_LOOPS, f"expected at most {MOST_LOOPS}"),
        (_TOKENS, MOST_TOKENS, f"expected at most {MOST_TOKENS}"),
    )
    for place, number in _numbers(values, ""):
        key = place.rstrip("]0123456789").rstrip("[").rpartition(".")[2]
        for pattern, limit, why in limits:
            if pattern.search(key) and not number <= limit:
                raise InputError(f"{file}: {place} is {number}, but {why}")


def _numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Every number of a JSON value and where it stands."""
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from _numbers(inner, f"{place}[{n}]")
