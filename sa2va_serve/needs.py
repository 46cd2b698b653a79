# SPDX-License-Identifier: Apache-2.0
"""Packages that are only there where they were asked for."""

from __future__ import annotations

from importlib.util import find_spec

from sa2va_model.errors import InputError


def need(module: str, extra: str) -> None:
    """Raise InputError with the command that installs a package, unless it is there."""
    if find_spec(module) is None:
        raise InputError(
            f"the package {module!r} is not installed; expected pip install 'sa2va_ros[{extra}]'"
        )
