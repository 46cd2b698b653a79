# SPDX-License-Identifier: Apache-2.0
"""What training frameworks do to the names of tensors, undone.

Compiled and distributed models save with a prefix, `peft` in `modules_to_save`, old transformers their rotary
frequencies; the tensors are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sa2va_model.errors import InputError

PREFIXES = ("module.", "_orig_mod.", "base_model.model.", "model.")
"""Dropped where all names begin so, one after the other."""
_INSIDE = (("_orig_mod.", ""), (".modules_to_save.default.", "."))
_REPLACED = ".original_module."  # what `peft` keeps of a module that it saves anew
_ROTATIONS = ".freqs_cis"  # complex numbers, of conversions of SAM 3 by others
_LEFT_OVER = (".inv_freq", ".position_ids", _ROTATIONS)  # buffers that are computed
_LOG = logging.getLogger(__name__)


def official_names(keys: Iterable[str], where: str) -> dict[str, str]:
    """The official name of each tensor that counts, by its name in the file.

    Raises:
        InputError: two tensors come to one name, or adapters were not merged.
    """
    listed = list(keys)
    if complex_ones := [k for k in listed if k.endswith(_ROTATIONS)]:
        _LOG.warning(
            "%s: tensor %r (%d such) is computed anew, not read",
            where,
            complex_ones[0],
            len(complex_ones),
        )
    kept = [k for k in listed if not k.endswith(_LEFT_OVER) and _REPLACED not in k]
    names = {key: _plain(key) for key in kept}
    while prefix := _common(names.values()):
        names = {key: name.removeprefix(prefix) for key, name in names.items()}
    lora = next((key for key, name in names.items() if ".lora_" in name), None)
    if lora is not None:
        raise InputError(
            f"{where}: tensor {lora!r} is of an adapter; expected it merged (merge_and_unload) or in its own folder"
        )
    first: dict[str, str] = {}
    for key, name in names.items():
        if other := first.get(name):
            raise InputError(f"{where}: tensors {other!r} and {key!r} are both {name!r}")
        first[name] = key
    return names


def _plain(name: str) -> str:
    for old, new in _INSIDE:
        name = name.replace(old, new)
    return name


def _common(names: Iterable[str]) -> str:
    listed = list(names)
    shared = (p for p in PREFIXES if listed and all(name.startswith(p) for name in listed))
    return next(shared, "")
