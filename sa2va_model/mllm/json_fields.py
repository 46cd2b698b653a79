# SPDX-License-Identifier: Apache-2.0
"""Fields of a `config.json`, read with an error that names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sa2va_model.errors import InputError


def json_object(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The JSON object at `name`.

    Raises:
        InputError: it is missing or something else.
    """
    found = values.get(name)
    if not isinstance(found, Mapping):
        said = "is missing" if found is None else f"is a {type(found).__name__}"
        raise InputError(f"{where}: field {name!r} {said}; expected a JSON object")
    return found
