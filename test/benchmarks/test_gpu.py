# SPDX-License-Identifier: Apache-2.0
"""What is run first where there is a GPU, small and on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu.child import Section, run  # noqa: E402


@pytest.mark.timeout(1200)
def test_every_section_gives_a_result(tmp_path: Path) -> None:
    paths = [str(ROOT / "benchmarks"), *sys.path]
    command = [sys.executable, "-m", "gpu", "--device", "cpu", "--small", "--out", str(tmp_path)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    numbers = report["sections"]["numbers"]["result"]
    assert numbers["float32 to the modules of sam2"] < 1e-3
    assert numbers["pixels to PIL"] <= 1
    assert report["sections"]["track large"]["result"]["16 objects"]["times sam2"] > 0


def test_a_section_that_fails_or_hangs_costs_itself_alone(tmp_path: Path) -> None:
    def fail() -> dict[str, int]:
        raise ValueError("no such kernel")

    def hang() -> dict[str, int]:
        time.sleep(60)
        return {}

    assert "ValueError: no such kernel" in run(Section("fails", 20, fail), tmp_path, 20)["error"]
    assert "no result within 5 s" in run(Section("hangs", 5, hang), tmp_path, 20)["error"]
    assert "hang" in (tmp_path / "hangs.trace").read_text()
    assert run(Section("later", 20, fail), tmp_path, 3)["error"] == "no time left"


def test_a_section_with_a_result_is_not_run_again(tmp_path: Path) -> None:
    count = tmp_path / "count"

    def work() -> dict[str, int]:
        with count.open("a") as file:
            file.write("x")
        return {"value": 3}

    section = Section("once", 20, work)
    first, second = (run(section, tmp_path, 20) for _ in range(2))
    assert first == second
    assert first["result"] == {"value": 3}
    assert count.read_text() == "x"


@pytest.mark.parametrize("name", ["numbers", "track large", "node"])
def test_sections_can_be_chosen(name: str) -> None:
    import torch
    from gpu.__main__ import sections
    from gpu.setting import Setting

    assert name in {section.name for section in sections(Setting(torch.device("cpu")))}
