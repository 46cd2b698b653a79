# SPDX-License-Identifier: Apache-2.0
"""JSON that others have written: whatever is wrong with it ends in one `InputError` that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError

_WORDS: dict[type, str] = {dict: "a JSON object", list: "a JSON list"}


def parse_json(text: str | bytes, where: object) -> Any:
    """The value that a text is.

    Args:
        where: what to call it in the message.

    Raises:
        InputError: no JSON; brackets without a bottom; a number with thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{where}: not valid JSON ({reason})") from error


def read_json(file: Path, kind: type | None = None) -> Any:
    """What a file holds, in UTF-8, with or without the mark that editors on Windows write.

    Args:
        kind: `dict` or `list`, if it must be one.

    Raises:
        InputError: it cannot be read, is no JSON, or something else than asked for.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}, expected a JSON file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not valid JSON ({error})") from error
    value = parse_json(text, file)
    if kind is not None and not isinstance(value, kind):
        raise InputError(f"{file}: holds a {type(value).__name__}; expected {_WORDS[kind]}")
    return value
