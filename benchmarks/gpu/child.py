# SPDX-License-Identifier: Apache-2.0
"""Sections of a measurement as processes of their own: a crash, a hang or a full memory costs one section.

Results are written as each section ends; a section that has a result is not run again.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Section:
    """One part of a measurement.

    Attributes:
        limit: seconds after which it is ended.
        measure: gives what is written down as JSON.
    """

    name: str
    limit: float
    measure: Callable[[], dict[str, Any]]


def run(section: Section, folder: Path, left: float) -> dict[str, Any]:
    """The section's result: `result`, or `error` and where, and `seconds`; read back if it is there already.

    Args:
        left: seconds of the whole budget.
    """
    file = folder / f"{section.name.replace(' ', '_')}.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    limit = min(section.limit, left)
    if limit < 5:
        return {"error": "no time left", "seconds": 0.0}
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _work(section, file, limit, begin)
    while time.monotonic() - begin < limit:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.05)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if file.exists():
        return dict(json.loads(file.read_text()))
    return {"error": f"no result within {limit:.0f} s", "seconds": round(limit, 1)}


def _work(section: Section, file: Path, limit: float, begin: float) -> None:
    """In the child: measures, writes, ends. A stack trace is left shortly before the limit."""
    os.setpgid(0, 0)
    with file.with_suffix(".trace").open("w") as trace:
        faulthandler.dump_traceback_later(max(1.0, limit - 2), file=trace)
        try:
            out: dict[str, Any] = {"result": section.measure()}
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the section's result
            frames = traceback.extract_tb(error.__traceback__)[-6:]
            where = [f"{Path(f.filename).name}:{f.lineno}" for f in frames]
            out = {"error": f"{type(error).__name__}: {error}"[:600], "at": where}
        out["seconds"] = round(time.monotonic() - begin, 1)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(out, default=str))
        part.rename(file)
        os._exit(0)
