# SPDX-License-Identifier: Apache-2.0
"""The furniture libraries (`.sh3f`) that are installed: what each object is called, how big it is and who made it."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sa2va_model.errors import InputError

_FOLDER = "/usr/share/sweethome3d/furniture"
FOLDER_VARIABLE = "SA2VA_FURNITURE"
APT_LINE = "sudo apt-get install -y sweethome3d-furniture"
_LIST = "PluginFurnitureCatalog.properties"
_LICENCES = {"BlendSwap-CC-0": "CC0", "": "CC-BY 3.0"}
_LEFT_OUT = ("Reallusion.sh3f",)  # people


@dataclass(frozen=True)
class Furniture:
    """One object of a library.

    Attributes:
        file: the library's file name.
        id: its id there, or else its name.
        name: as the library calls it, lower case.
        model: the OBJ's path in the library.
        size: width, depth and height in metres.
        rotation: rows of the library's own rotation of the model (y up), empty for none.
        creator: who made it.
    """

    file: str
    id: str
    name: str
    model: str
    size: tuple[float, float, float]
    rotation: tuple[float, ...]
    creator: str

    @property
    def held_out(self) -> bool:
        """Whether the object belongs to the exam: such objects are never trained on."""
        return hashlib.sha1(f"{self.file}/{self.id}".encode()).hexdigest()[0] in "0123"

    @property
    def licence(self) -> str:
        """CC0, or the licence that asks for credits."""
        return _LICENCES.get(Path(self.file).stem, _LICENCES[""])


def library_folder() -> Path:
    """Where the libraries lie: Debian's place, or what `SA2VA_FURNITURE` says."""
    return Path(os.environ.get(FOLDER_VARIABLE) or _FOLDER)


def installed() -> bool:
    """Whether any library is there."""
    return any(library_folder().glob("*.sh3f"))


def read_furniture() -> tuple[Furniture, ...]:
    """Every object of every library, people left out.

    Raises:
        InputError: no library is there, or one cannot be read.
    """
    return _read(library_folder())


@lru_cache(maxsize=2)
def _read(folder: Path) -> tuple[Furniture, ...]:
    files = sorted(path for path in folder.glob("*.sh3f") if path.name not in _LEFT_OUT)
    if not files:
        raise InputError(
            f"{folder}: expected furniture libraries (*.sh3f); {APT_LINE}, or set {FOLDER_VARIABLE}"
        )
    return tuple(item for path in files for item in _read_library(path))


def _read_library(path: Path) -> list[Furniture]:
    try:
        with zipfile.ZipFile(path) as library:
            text = library.read(_LIST).decode("latin-1")
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{path}: expected a zip file with {_LIST}: {error}") from error
    rows: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*?)\s*$", text, re.MULTILINE):
        rows.setdefault(int(number), {})[key] = value.encode("latin-1").decode("unicode_escape")
    return [_furniture(path.name, row) for row in rows.values() if "model" in row]


def _furniture(file: str, row: dict[str, str]) -> Furniture:
    width, depth, height = (float(row[side]) / 100 for side in ("width", "depth", "height"))
    return Furniture(
        file,
        row.get("id") or row["name"],
        row["name"].lower(),
        row["model"].lstrip("/"),
        (width, depth, height),
        tuple(float(v) for v in row.get("modelRotation", "").split()),
        row.get("creator", "unknown"),
    )


def credits(items: Iterable[Furniture]) -> str:
    """The attribution that CC-BY asks for: one line for each maker with the names of their objects."""
    made: dict[tuple[str, str], set[str]] = {}
    for item in items:
        if item.licence != "CC0":
            made.setdefault((item.creator, item.licence), set()).add(item.name)
    return "".join(
        f"- {creator} ({licence}): {', '.join(sorted(names))}\n"
        for (creator, licence), names in sorted(made.items())
    )
