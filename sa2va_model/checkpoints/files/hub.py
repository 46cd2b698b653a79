# SPDX-License-Identifier: Apache-2.0
"""A checkpoint by its name on the Hugging Face hub; a local folder always comes first."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from sa2va_model.errors import InputError

FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What is fetched: configuration, weights and the tokenizer's files; never code."""
_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$")


def find_folder(name: str | Path) -> Path:
    """The folder of a checkpoint.

    Args:
        name: a folder, or `owner/name` or `owner/name@revision` on the hub. What is in the hub's local cache is
            found without a network.

    Raises:
        InputError: there is no such folder, and no such checkpoint on the hub or no way to reach it.
    """
    path = Path(name).expanduser()
    if max((len(part.encode()) for part in path.parts), default=0) > 255:
        raise InputError(f"{str(name)[:60]}…: no such folder; no file has so long a name")
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{path}: is a file; expected a Sa2VA checkpoint folder")
    if not isinstance(name, str) or not _NAME.match(name):
        raise InputError(f"{path}: no such folder; expected a Sa2VA checkpoint folder")
    owner_name, _, revision = name.partition("@")
    logging.getLogger(__name__).warning(
        "%s: no such folder; looked for on the Hugging Face hub", name
    )
    try:
        found = snapshot_download(owner_name, revision=revision or None, allow_patterns=list(FILES))
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise InputError(
            f"{name}: no such folder, and not to be had from the Hugging Face hub "
            f"({type(error).__name__}: {reason})"
        ) from error
    return Path(found)
