# SPDX-License-Identifier: Apache-2.0
"""Makes the ROS 2 wheels of this virtual environment usable for CMake.

The CMake export files in the wheels name the Python and NumPy headers of the container they were built in, and CMake
refuses folders that do not exist. This rewrites the two prefixes to the headers of the running interpreter. Running it
again changes nothing. Call it with the interpreter of the environment: `.venv/bin/python tools/fix_ros_wheels.py`.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

PYTHON_HEADERS = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")
NUMPY_HEADERS = re.compile(
    r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy/_?core/include"
)


def fix_text(text: str, *, python_headers: str, numpy_headers: str) -> str:
    """Returns `text` with the header folders of the build container replaced by the given ones."""
    text = NUMPY_HEADERS.sub(lambda _: numpy_headers, text)
    return PYTHON_HEADERS.sub(lambda _: python_headers, text)


def fix_tree(folder: Path, *, python_headers: str, numpy_headers: str) -> int:
    """Rewrites every CMake file under `folder` that needs it; returns how many did."""
    changed = 0
    for path in sorted(folder.rglob("*.cmake")):
        old = path.read_text(encoding="utf-8", errors="surrogateescape")
        new = fix_text(old, python_headers=python_headers, numpy_headers=numpy_headers)
        if new != old:
            # A new file instead of writing in place: installers may hard-link files out of a shared cache.
            path.unlink()
            path.write_text(new, encoding="utf-8", errors="surrogateescape")
            changed += 1
    return changed


def main() -> int:
    """Fixes the environment this interpreter belongs to."""
    if sys.prefix == sys.base_prefix:
        print("fix_ros_wheels: not in a virtual environment; nothing is changed", file=sys.stderr)
        return 2
    python_headers = sysconfig.get_paths()["include"]
    if not (Path(python_headers) / "Python.h").is_file():
        print(
            f"fix_ros_wheels: {python_headers}/Python.h does not exist; install the Python headers "
            "(Debian, Ubuntu: apt-get install python3-dev)",
            file=sys.stderr,
        )
        return 1
    changed = fix_tree(
        Path(sys.prefix) / "share", python_headers=python_headers, numpy_headers=numpy.get_include()
    )
    print(f"fix_ros_wheels: {changed} CMake files changed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
