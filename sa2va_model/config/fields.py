# SPDX-License-Identifier: Apache-2.0
"""Values of a JSON object as the fields of a dataclass: the default of a field says what may stand there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from sa2va_model.errors import InputError

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_NUMBERS: dict[type, Any] = {int: int, float: (int, float)}


def typed_fields(cls: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The entries of `values` that are fields of `cls`, lists as tuples; null is as good as absent.

    Args:
        prefix: before the names of the fields in messages, as in "sam2_config.".

    Raises:
        InputError: a value of another kind than the field's default, a negative or an infinite one.
    """
    found = {}
    for field in fields(cls):
        value = values.get(field.name)
        if value is not None and field.default is not MISSING:
            found[field.name] = typed(value, field.default, prefix + field.name)
    return found


def renamed_fields(
    cls: type, values: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """As `typed_fields`, of fields that files call otherwise.

    Args:
        names: what a field is called in files: its name in `cls`.
    """
    defaults = {field.name: field.default for field in fields(cls)}
    return {
        ours: typed(values[name], defaults[ours], name)
        for name, ours in names.items()
        if values.get(name) is not None
    }


def typed(value: Any, like: Any, name: str) -> Any:
    """A value, if it is of the kind of `like`: a truth, a number, text, or a tuple of such.

    Raises:
        InputError: it is not, or is negative, infinite or of another length than a pair.
    """
    if isinstance(like, tuple):
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{name} is {value!r:.80}; expected a list")
        inner = like[0] if like else ("" if name.endswith("answers") else 0)
        return tuple(typed(item, inner, f"{name}[{n}]") for n, item in enumerate(value))
    kind = type(like)
    fits = isinstance(value, _NUMBERS.get(kind, kind)) and isinstance(value, bool) is (kind is bool)
    if not fits or (kind in _NUMBERS and not (math.isfinite(value) and value >= min(like, 0))):
        low = " of 0 or more" if kind in _NUMBERS and like >= 0 else ""
        raise InputError(f"{name} is {value!r:.80}; expected {_WORDS[kind]}{low}")
    return value
