# SPDX-License-Identifier: Apache-2.0
"""The tests here change what PyTorch is for their whole process: `test_emulation.py` runs them in one of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
OWN_PROCESS = "SA2VA_EMULATE_CUDA" in os.environ
collect_ignore_glob = ["test_emulation.py"] if OWN_PROCESS else ["test_rules_*.py"]
