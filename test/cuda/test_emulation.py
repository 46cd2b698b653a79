# SPDX-License-Identifier: Apache-2.0
"""CUDA's rules, kept on a machine without a GPU: the tests beside this one, in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.timeout(1200)  # a minute, and many on a busy machine
@pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch knows real CUDA here")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_our_code_keeps_cudas_rules() -> None:
    here = str(Path(__file__).parent)
    path = os.pathsep.join((here, os.environ.get("PYTHONPATH", "")))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "stand_in", here],
        env={**os.environ, "SA2VA_EMULATE_CUDA": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1150,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
