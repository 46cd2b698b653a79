# SPDX-License-Identifier: Apache-2.0
"""Names that come out of a file are names and stay inside of their folder; files are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from sa2va_model.errors import InputError

LONGEST = 200  # bytes of one part of a path; file systems take 255, and endings are added


def inside(folder: Path, name: str, what: str) -> Path:
    """The path of `name` below `folder`; it may hold folders.

    Args:
        what: what the name is, for the message.

    Raises:
        InputError: it is empty, absolute or too long, leads out of the folder, or has characters that no file has.
    """
    parts = PurePosixPath(name).parts
    printable = name.isprintable() and "\\" not in name
    if not parts or name.startswith("/") or {".", ".."} & set(parts) or not printable:
        raise InputError(f"{what} is {name!r:.120}; expected a name inside of {folder}")
    if any(len(part.encode()) > LONGEST for part in parts):
        raise InputError(f"{what} is {name!r:.60}…; expected at most {LONGEST} bytes")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):  # a link leads out
        raise InputError(f"{what} is {name!r:.120}; expected a name inside of {folder}")
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and move it there: a full disk or a kill leaves the old one or none."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
