# SPDX-License-Identifier: Apache-2.0
"""The YAML files that ship with training: recipes, mixtures, tables of the paper."""

from __future__ import annotations

from pathlib import Path

from sa2va_model.errors import InputError

PACKAGE = Path(__file__).parents[1]
# Beside the package in the source tree, inside of it where it is installed.
CONFIGS = next(
    (path for path in (PACKAGE.parent / "configs", PACKAGE / "configs") if path.is_dir()),
    PACKAGE / "configs",
)


def find_config(name: str, folder: str = "") -> Path:
    """A file of that name here, or the one that ships.

    Args:
        folder: below those that ship.

    Raises:
        InputError: neither exists; lists what ships.
    """
    shipped = CONFIGS / folder
    for path in (Path(name), shipped / name, shipped / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.name for path in shipped.glob("*.yaml")))
    raise InputError(f"{name}: no such file; expected a YAML file, or one that ships: {known}")
