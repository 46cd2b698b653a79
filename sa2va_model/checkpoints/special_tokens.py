# SPDX-License-Identifier: Apache-2.0
"""Whether special tokens have the ids that a checkpoint's files give them.

`tokenizers` numbers added tokens by their order and passes over what the file says, and transformers adds what one
file has and another lacks under new ids. The model was trained with the ids of the files: `[SEG]` under another id is
another word, and nothing would be found without anybody saying why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import SEG


def check_special_tokens(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compare the ids that were loaded with those of all files.

    Raises:
        InputError: a token has another id, or none of the files gives it one; it is named.
    """
    loaded: dict[str, int] = tokenizer.get_vocab()
    told = list(_told(path))
    known = {token for _, token, _ in told}
    whole = _content(path / "tokenizer.json") or _content(path / "vocab.json")
    vocabulary = _mapping(_mapping(whole.get("model")).get("vocab")) or whole
    for token in (
        (SEG, *tokenizer.get_added_vocab()) if whole else ()
    ):  # or they are in tokenizer.model
        if token not in known and token not in vocabulary:
            raise InputError(
                f"{path}: token {token!r} is in no file with an id; expected the tokenizer of the training"
            )
    for file, token, number in told:
        if loaded.get(token) != number:
            raise InputError(
                f"{file}: token {token!r} has id {number}, but is loaded as {loaded.get(token)}; "
                "expected ids that follow the order of added_tokens, and the same in all files"
            )


def _told(path: Path) -> Iterator[tuple[Path, str, int]]:
    """Every special token that a file gives an id."""
    file = path / "tokenizer.json"
    for entry in _content(file).get("added_tokens") or ():
        if isinstance(entry, Mapping):
            yield file, str(entry.get("content")), _number(file, entry.get("id"))
    file = path / "tokenizer_config.json"
    for number, entry in _mapping(_content(file).get("added_tokens_decoder")).items():
        if isinstance(entry, Mapping):
            yield file, str(entry.get("content")), _number(file, number)
    file = path / "added_tokens.json"
    for token, number in _content(file).items():
        yield file, token, _number(file, number)


def _content(file: Path) -> dict[str, Any]:
    try:
        return dict(_mapping(json.loads(file.read_text(encoding="utf-8-sig"))))
    except (OSError, ValueError, RecursionError):
        return {}  # absent, or reading the tokenizer has said so


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(file: Path, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: id {value!r} of a token; expected a whole number") from error
