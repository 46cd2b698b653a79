# SPDX-License-Identifier: Apache-2.0
"""A program that keeps freed memory does not ask the kernel for it again at every frame."""

import os
import subprocess
import sys

import pytest

FRAMES = """
import resource, sys
import numpy as np
from sa2va_model.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def frame():
    return [np.ones(3 << 20, np.uint8) for _ in range(4)]
for _ in range(3):
    frame()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    frame()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


def faults(how: str, **chosen: str) -> float:
    """Page faults of a frame that uses 12 MiB in four blocks: 3,072 pages."""
    done = subprocess.run(
        [sys.executable, "-c", FRAMES, how],
        env=os.environ | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_frames_after_the_first_ask_the_kernel_for_nothing() -> None:
    assert faults("give back") > 1000
    assert faults("keep") < 50


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_what_the_environment_chose_is_left_alone() -> None:
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 1000
