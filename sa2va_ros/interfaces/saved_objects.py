# SPDX-License-Identifier: Apache-2.0
"""Objects that were saved under a name, for "go back to the red mug". No ROS; torch comes with the first one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sa2va_model.tracking.by_example.example import ObjectExample, ObjectFolder


def objects_folder(parameter: str) -> Path:
    """The folder that the parameter `objects` means: empty = sa2va_objects in ROS's own folder."""
    if parameter:
        return Path(parameter).expanduser()
    home = os.environ.get("ROS_HOME")
    return (Path(home) if home else Path.home() / ".ros") / "sa2va_objects"


class SavedObjects:
    """The node's folder of objects. What it does takes as long as a disk: not on the executor's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, example: ObjectExample) -> Path:
        """Write one under its name, in place of an earlier one; InputError if it cannot be written."""
        return self._open().save(example)

    def read(self, name: str) -> ObjectExample:
        """Return what was saved under a name; InputError if nothing was."""
        return self._open().read(name)

    def _open(self) -> ObjectFolder:
        from sa2va_model.tracking.by_example.example import ObjectFolder

        return ObjectFolder(self._folder)
