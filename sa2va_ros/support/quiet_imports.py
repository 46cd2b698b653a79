# SPDX-License-Identifier: Apache-2.0
"""Imports large libraries on a thread without making the other threads wait. No ROS.

Python holds its lock while it opens a library (0.3 s of processor time for torch's) and while its collector looks at
all objects (0.1 to 0.2 s each time near the end of the imports): nothing is answered meanwhile. So libraries are opened
here by a foreign call, which lets go of the lock, and the collector rests until they are there.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TORCH = ("libtorch_global_deps.so", "libtorch_cpu.so", "libtorch.so")  # none of them calls Python
_resting = threading.Lock()


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Import torch within, and what needs it; the collector never looks at what was imported."""
    if "torch" in sys.modules:  # what is there now may be garbage one day
        yield
        return
    open_libraries("torch", _TORCH)
    with _resting:
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            gc.freeze()
            if collecting:
                gc.enable()


def open_libraries(package: str, names: tuple[str, ...]) -> int:
    """Open libraries of a package that is not imported yet, from its folder `lib`, beside all other threads.

    Returns:
        How many were opened. None is needed: what is not opened here is when it is imported.
    """
    if sys.platform != "linux":
        return 0
    found = importlib.util.find_spec(package)
    folders = (found.submodule_search_locations if found is not None else None) or ()
    # Called like any foreign function: `ctypes.CDLL(path)` itself opens with the lock held.
    call = ctypes.CDLL(None).dlopen
    call.restype, call.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    paths = [Path(folder) / "lib" / name for name in names for folder in folders]
    return sum(
        bool(call(os.fsencode(path), _scope(path) | os.RTLD_NOW)) for path in paths if path.exists()
    )


def _scope(path: Path) -> int:
    """As torch opens them itself."""
    return os.RTLD_GLOBAL if "global" in path.name else os.RTLD_LOCAL
