# SPDX-License-Identifier: Apache-2.0
"""Keep freed memory in the process.

glibc gives a freed block back to the kernel and asks for it again at the next frame, and the kernel clears every page
of it: two to three thousand page faults a frame of a small model, an eighth of its time on a CPU (docs/log.md).
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_BLOCK = 32 << 20  # glibc's own limit for what may come from its heap
_KEPT = 512 << 20
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Blocks of up to 32 MiB stay in this process when they are freed, 512 MiB at most; larger ones go back.

    For programs, which own their process: a library does not do this to its caller. Nothing happens without glibc, or
    where the environment (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`, `GLIBC_TUNABLES`) has chosen already.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _CHOSEN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    mallopt(_TRIM_THRESHOLD, _KEPT)
