# SPDX-License-Identifier: Apache-2.0
"""Settings in and out of files: YAML, the ones that ship, and `key=value` on the command line.

What may be set, and to what, are the fields and types of the dataclasses in `settings.py`. The resolved settings are
written beside every checkpoint and are enough to go on.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import yaml

from sa2va_model.errors import InputError
from sa2va_training.data.plain_yaml import parse_yaml, read_yaml_file
from sa2va_training.data.shipped import find_config
from sa2va_training.run.settings import Settings

LARGEST = 2**32 - 1
"""Of whole numbers: what seeds of numpy and torch share."""
LONGEST = 4096  # characters of an override
_WHOLE = ("data", "rehearsal", "validation")
"""What is replaced as a whole: mappings that are values."""


def load_settings(config: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Reads a YAML file, on top of the one that it `extends`, and applies `key.sub=value` overrides.

    Raises:
        InputError: no such file, no YAML, an unknown key (with the nearest known one) or a value of the wrong kind.
    """
    path = find_config(str(config))
    values = _read(path)
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise InputError(f"override {item!r}: expected key=value")
        _put(values, key, _value(text), item)
    return settings_from(values, str(path))


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file's keys and values, on top of those of the file that it `extends`."""
    if path in below:
        raise InputError(f"{path}: extends itself by way of {below[-1]}")
    values = read_yaml_file(path)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}; expected keys and values")
    if "extends" not in values:
        return values
    name = str(values.pop("extends"))
    beside = path.parent / name
    other = beside if beside.is_file() else find_config(name)
    return _over(_read(other, (*below, path)), values)


def _over(values: dict[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others in their place, key by key."""
    out = dict(values)
    for key, value in others.items():
        inner = out.get(key)
        both = isinstance(inner, dict) and isinstance(value, Mapping) and key not in _WHOLE
        out[key] = _over(inner, value) if both and isinstance(inner, dict) else value
    return out


def _value(text: str) -> Any:
    if len(text) > LONGEST:
        raise InputError(f"override {text!r:.80}: expected at most {LONGEST} characters")
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def _put(values: dict[str, Any], key: str, value: Any, item: str) -> None:
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(f"override {item!r}: {parent!r} has no keys below it")
        place = inner
    place[last] = value


def settings_from(values: Mapping[str, Any], where: str) -> Settings:
    """Settings from a parsed mapping; see `load_settings`."""
    built = _build(Settings, values, where, "")
    assert isinstance(built, Settings)
    return built


def _build(cls: type[Any], values: Mapping[str, Any], where: str, prefix: str) -> Any:
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = (
                f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            )
            raise InputError(f"{where}: unknown key {prefix}{key!s:.80}; {hint}")
        hint_type = hints[key]
        if is_dataclass(hint_type):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: {prefix}{key} is {value!r:.80}; expected keys below it")
            assert isinstance(hint_type, type)
            found[key] = _build(hint_type, value, where, f"{prefix}{key}.")
        else:
            found[key] = _converted(hint_type, value, where, prefix + key)
    return cls(**found)


def _converted(kind: Any, value: Any, where: str, name: str) -> Any:
    """A YAML value as its field wants it."""
    if kind is Any:
        return value
    if get_origin(kind) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_converted(kind.__args__[0], item, where, name) for item in items)
    try:
        return _PLAIN[kind](value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {name} is {value!r:.80}; expected {_words(kind)}") from None


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _int(value: Any) -> int:
    if isinstance(value, (bool, str)) or value != int(value) or not 0 <= value <= LARGEST:
        raise TypeError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise TypeError
    return float(value)  # YAML reads 1e-4 as text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _text,
    str | None: lambda value: None if value is None else _text(value),
}


def _words(kind: Any) -> str:
    names = {
        bool: "true or false",
        int: f"a whole number from 0 to {LARGEST}",
        float: "a number",
        str: "text",
    }
    return names.get(kind, "a list" if "tuple" in str(kind) else "text or null")


def to_dict(settings: Settings) -> dict[str, Any]:
    """Plain values, as YAML and JSON take them."""
    return _plain(asdict(settings))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def save_settings(settings: Settings, path: Path) -> None:
    """Writes YAML that `load_settings` reads."""
    path.write_text(yaml.safe_dump(to_dict(settings), sort_keys=False), encoding="utf-8")
