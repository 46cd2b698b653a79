# SPDX-License-Identifier: Apache-2.0
"""Who may ask: tokens, the same for every transport."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path

from sa2va_model.errors import InputError

PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata of a refusal: when to try again, as gRPC's own retries read it."""
SHORTEST = 16  # characters of a token


def read_tokens(path: str) -> tuple[bytes, ...]:
    """The tokens of a file, one a line; `#` begins a remark.

    Raises:
        InputError: no such file, or no token in it that could not be guessed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    tokens = [line.partition("#")[0].strip() for line in text.splitlines()]
    tokens = [token for token in tokens if token]
    if not tokens or any(len(token) < SHORTEST for token in tokens):
        raise InputError(f"{path}: expected a token of {SHORTEST} characters or more in each line")
    return tuple(token.encode() for token in tokens)


def is_known(metadata: Mapping[str, str | bytes], tokens: tuple[bytes, ...]) -> bool:
    """Whether a call carries one of the tokens; takes as long whichever it is."""
    given = metadata.get("authorization", "")
    value = given if isinstance(given, bytes) else given.encode()
    same = [hmac.compare_digest(value, b"Bearer " + token) for token in tokens]
    return any(same)
