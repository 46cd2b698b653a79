# SPDX-License-Identifier: Apache-2.0
"""One process writes to a folder at a time: a file with its number and host, which a killed one leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from sa2va_model.errors import InputError

NAME = ".sa2va.lock"


class FolderLock:
    """Holds a folder for this process; use it as a context manager.

    A lock whose process has ended on this host is taken over. Of another host nothing can be known, so its lock stays.
    """

    def __init__(self, folder: Path, name: str = NAME) -> None:
        """Args: `name`, where several processes share a folder and each has its own file in it."""
        self._folder, self._path = folder, folder / name

    def __enter__(self) -> FolderLock:
        """Take it; InputError if another process has it."""
        own = {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}
        for _ in range(3):
            try:
                handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                self._take_over()
                continue
            except OSError as error:
                raise InputError(
                    f"{self._folder}: {error.strerror}, expected a folder that can be written"
                ) from error
            with os.fdopen(handle, "w") as file:
                json.dump(own, file)
            return self
        raise InputError(
            f"{self._folder}: {self._path.name} cannot be taken; expected it to be free"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._path.unlink(missing_ok=True)

    def _take_over(self) -> None:
        """Remove a stale lock; InputError if its process lives, or is of another host."""
        holder: Any = None
        with contextlib.suppress(OSError, ValueError):
            holder = json.loads(self._path.read_text())
        if isinstance(holder, dict) and isinstance(holder.get("pid"), int):
            here = holder.get("host") == socket.gethostname()
            if not here or _started(holder["pid"]) == holder.get("started") is not None:
                raise InputError(
                    f"{self._folder}: process {holder['pid']} on {holder.get('host')} writes to it; "
                    f"expected another folder, or the end of that run (else remove {self._path})"
                )
        self._path.unlink(missing_ok=True)


def _started(pid: int) -> str | None:
    """When a process began, so that a number that was given again is not taken for it; None = there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "alive"
    return "alive"
