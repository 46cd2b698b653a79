# SPDX-License-Identifier: Apache-2.0
"""The tests here change what PyTorch is for their whole process: `test_emulation.py` runs them in one of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
OWN_PROCESS = "SA2VA_EMULATE_CUDA" in os.environ
collect_ignore_glob = ["test_emulation.py"] if OWN_PROCESS else ["test_rules_*.py"]


def pytest_collect_file(file_path: Path) -> None:
    """Files that were named are not ignored: say how they are run before they fail for want of an accelerator."""
    if not OWN_PROCESS and file_path.match("test_rules_*.py"):
        raise pytest.UsageError(
            f"{file_path.name} needs a process of its own: SA2VA_EMULATE_CUDA=1 pytest {file_path}"
        )
