# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a checkpoint, from whichever files it has; its own code is never run."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.utils import logging

from sa2va_model.checkpoints.files.safetensors_files import refuse_pointer
from sa2va_model.checkpoints.special_tokens import check_special_tokens
from sa2va_model.errors import InputError

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder: `tokenizer.json`, or `vocab.json` and `merges.txt`, or `tokenizer.model`.

    The class that `tokenizer_config.json` names is not asked for: the official one of InternLM2 is code of the
    checkpoint, and the others are what their files say.

    Raises:
        InputError: there are no such files, they cannot be read, or a special token would get another id than theirs.
    """
    return _quietly(path, checked=True)


def read_base_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a base MLLM, which has no `[SEG]` yet; see `read_tokenizer`."""
    return _quietly(path, checked=False)


def _quietly(path: Path, *, checked: bool) -> PreTrainedTokenizerBase:
    # transformers warns that it does not know the model type, which it need not for a tokenizer.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    for name in FILES:
        if (path / name).is_file():
            refuse_pointer(path / name)
    try:
        tokenizer = _read(path)
        if checked:
            check_special_tokens(path, tokenizer)
        return tokenizer
    except InputError:
        raise
    except Exception as error:  # the parsers raise bare exceptions for files that are not theirs
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path}: tokenizer cannot be read ({type(error).__name__}: {reason})"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _read(path: Path) -> PreTrainedTokenizerBase:
    if (path / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return Qwen2Tokenizer.from_pretrained(path, local_files_only=True)
    if (path / "tokenizer.model").is_file():
        return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    raise InputError(
        f"{path}: no tokenizer.json, vocab.json with merges.txt or tokenizer.model in it; "
        "expected the checkpoint's tokenizer files"
    )
