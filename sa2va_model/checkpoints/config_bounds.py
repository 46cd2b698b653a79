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

from sa2va_model.checkpoints.files.safetensors_files import Stored
from sa2va_model.errors import InputError

_COUNTS = re.compile(r"(layers?|depth|blocks?|stages)$")  # each of them has tensors
_SIDES = re.compile(r"(size|dim|channels|width|heads|experts|frames|pointers|spec)s?$")
_LOOPS = re.compile(r"(tiles|dynamic_patch|keyframes)$")
_TOKENS = re.compile(r"new_tokens$")
_RANGES = (  # outside of them a model gives NaN, or nothing
    (re.compile(r"theta$"), 1.0, 1e12),
    (re.compile(r"(eps|epsilon)$"), 1e-30, 0.1),
    (re.compile(r"rope_(scaling|parameters)\..*factor$"), 1e-6, 1e6),
)
_AT_LEAST_ONE = re.compile(
    r"^(num_(attention_heads|key_value_heads|hidden_layers)|(hidden|intermediate|vocab|patch)_size|head_dim)$"
)
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
    for place, value in _leaves(values, ""):
        bare = place.rstrip("]0123456789").rstrip("[")
        for names, low, high in _RANGES:
            if names.search(bare) and not (_is_number(value) and low <= value <= high):
                raise InputError(
                    f"{file}: {place} is {value!r:.80}; expected a number from {low:g} to {high:g}"
                )
        if not _is_number(value):
            continue
        key = bare.rpartition(".")[2]
        if _AT_LEAST_ONE.search(key) and value < 1:
            raise InputError(f"{file}: {place} is {value}; expected 1 or more")
        for pattern, limit, why in limits:
            if pattern.search(key) and not value <= limit:
                raise InputError(f"{file}: {place} is {value}, but {why}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value of a JSON value that is neither object, list nor null, and where it stands."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{n}]")
    elif value is not None:
        yield place, value
