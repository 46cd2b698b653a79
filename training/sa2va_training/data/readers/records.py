# SPDX-License-Identifier: Apache-2.0
"""Annotation files and their fields. Whatever is missing or wrong is named with file, record and field."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import parse_json, read_json
from sa2va_training.data.sample import Sample

_WORDS = {str: "text", int: "a whole number", list: "a list", dict: "an object", float: "a number"}


class Record:
    """One JSON object, with the words that say where it comes from.

    Attributes:
        data: the object.
        where: file and record: "annotations.json: record 3".
    """

    def __init__(self, data: Any, where: str) -> None:
        """Raises InputError if `data` is no JSON object."""
        if not isinstance(data, Mapping):
            raise InputError(f"{where}: is {_kind(data)}, expected an object with fields")
        self.data, self.where = data, where

    def __contains__(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.data.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        """A field that is text; must not be empty if there is no default."""
        value = self._typed(key, str, default)
        if default is None and not value.strip():
            raise InputError(f"{self.where}: field '{key}' is empty, expected text")
        return str(value)

    def number(self, key: str, default: int | None = None) -> int:
        """A field that is a whole number."""
        return int(self._typed(key, int, default))

    def entries(self, key: str, default: list[Any] | None = None) -> list[Any]:
        """A field that is a list."""
        found: list[Any] = self._typed(key, list, default)
        return found

    def texts(self, key: str, default: list[Any] | None = None) -> list[str]:
        """A list of texts."""
        values = self.entries(key, default)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise InputError(f"{self.where}: '{key}' [{i}] is {_kind(value)}, expected text")
        return values

    def record(self, key: str) -> Record:
        """A field that is an object."""
        return Record(self._typed(key, dict, None), f"{self.where}: {key}")

    def records(self, key: str, default: list[Any] | None = None) -> list[Record]:
        """A field that is a list of objects."""
        values = self.entries(key, default)
        return [Record(value, f"{self.where}: {key} [{i}]") for i, value in enumerate(values)]

    def raw(self, key: str) -> Any:
        """A field of any type; it must be there."""
        if key not in self.data:
            raise InputError(f"{self.where}: field '{key}' is missing{self._like(key)}")
        return self.data[key]

    def only(self, known: Sequence[str]) -> None:
        """Refuse fields that nobody reads."""
        for key in self.data:
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"expected {', '.join(known)}"
                raise InputError(f"{self.where}: unknown field '{key}', {hint}")

    def _typed(self, key: str, kind: type, default: Any) -> Any:
        if key not in self.data and default is not None:
            return default
        value = self.raw(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise InputError(
                f"{self.where}: field '{key}' is {_kind(value)}, expected {_WORDS[kind]}"
            )
        return value

    def _like(self, key: str) -> str:
        near = get_close_matches(key, [str(name) for name in self.data], 1)
        return f" (there is '{near[0]}')" if near else f", expected it among {_few(self.data)}"


def _kind(value: Any) -> str:
    """A value in words."""
    if value is None:
        return "null"
    if isinstance(value, (str, int, float)):
        return repr(value)[:40]
    return next((word for kind, word in _WORDS.items() if isinstance(value, kind)), "another type")


def _few(names: Iterable[Any]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:6]) + (", …" if len(listed) > 6 else "") if listed else "no fields"


def read_json_lines(path: Path) -> list[tuple[str, Any]]:
    """A file with one JSON value per line: (where, value) of each; empty lines are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}, expected one JSON object per line") from error
    places = ((f"{path}: line {number}", line) for number, line in enumerate(lines, start=1))
    return [(where, parse_json(line, where)) for where, line in places if line.strip()]


def read_json_list(path: Path) -> list[Any]:
    """A JSON file that is a list."""
    value = read_json(path)
    if not isinstance(value, list):
        raise InputError(f"{path}: is {_kind(value)}, expected a list of records")
    return value


def read_json_object(path: Path) -> Record:
    """A JSON file that is an object."""
    return Record(read_json(path), str(path))


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and dictionaries; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for anything that is not plain data."""
        if (module, name) == ("_codecs", "encode"):  # how old pickles write bytes
            return _encode
        raise pickle.UnpicklingError(f"holds a {module}.{name}, which is not plain data")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(encoding)


def read_pickle(path: Path) -> Any:
    """A pickle of plain data (numbers, texts, lists, dictionaries); others are refused, not run."""
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected a pickle") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError) as error:
        raise InputError(f"{path}: is no pickle of plain data ({error})") from error


class Records:
    """A dataset whose records are at hand: `build(i)` makes the i-th sample when it is asked for."""

    def __init__(self, name: str, count: int, build: Callable[[int], Sample]) -> None:
        self.name = name
        self._count, self._build = count, build

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`; IndexError outside 0 <= index < len."""
        if not 0 <= index < self._count:
            raise IndexError(f"{self.name}: sample {index} of {self._count}")
        return self._build(index)


def find_file(name: str, folders: Sequence[Path], where: str) -> Path:
    """The file of that name in the first folder that has it.

    Raises:
        InputError: no folder has it.
    """
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    places = ", ".join(str(folder) for folder in folders)
    raise InputError(f"{where}: file '{name}' is not in {places}")
