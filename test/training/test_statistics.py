# SPDX-License-Identifier: Apache-2.0
"""What a dataset holds, in the terms of the paper's Tables 3 and 4."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sa2va_cli.main import main
from sa2va_training.data.folder import FolderWriter
from sa2va_training.evaluation.statistics import camera_motion


def test_what_is_counted_and_measured(tmp_path: Path) -> None:
    root = tmp_path / "folder"
    still = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    masks = [np.zeros((60, 80), np.uint8) for _ in range(4)]
    for t in (1, 3):  # late, hidden once in between, ten pixels a frame
        masks[t][10:20, 10 * t : 10 * t + 10] = 1
    with FolderWriter(root, quality=0) as writer:
        said = [
            {"text": "the red mug", "objects": ["1"]},
            {"text": "mug", "objects": ["1"]},
            {"text": "a dog", "objects": []},
        ]
        writer.add_clip("run", [still] * 4, masks, {1: "mug"}, expressions=said)
        writer.add_image("a", still, masks[1], {1: "mug"}, expressions=said[:1])
    report = tmp_path / "report.json"
    assert main(["data", "check", str(root), "--statistics", "--json", str(report)]) == 0
    found = json.loads(report.read_text())["statistics"]
    counts = {
        name: found[name] for name in ("clips", "pictures", "objects", "masks", "expressions")
    }
    assert counts == {"clips": 1, "pictures": 5, "objects": 2, "masks": 3, "expressions": 4}
    assert found["mean words"] == pytest.approx((3 + 1 + 2 + 3) / 4)
    assert found["mean hidden"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["mean late"] == pytest.approx(1 / 4)
    assert found["mean camera motion"] == pytest.approx(0, abs=1e-3)


def test_the_camera_s_motion_is_that_of_the_picture() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    wide = np.kron(wide, np.ones((8, 8, 1), np.uint8))  # coarse enough to survive the scaling
    frames = [wide[:, 8 * t : 8 * t + 192] for t in range(4)]
    expected = 8 / 192 * 96 / (96 * np.sqrt(2))
    assert camera_motion(frames) == pytest.approx(expected, rel=0.15)
