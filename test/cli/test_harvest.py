# SPDX-License-Identifier: Apache-2.0
"""Tracks of a bag become drafts: by stamp, where they were sure of themselves and nobody corrected them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sa2va_cli.main import main
from sa2va_model.tracks import FrameResult, Track, TrackState
from sa2va_ros.bags.bag import BagImages
from sa2va_ros.bags.writer import BagWriter
from sa2va_training.data.drafts.harvest import collected
from sa2va_training.data.readers.simple import SimpleFolder

STATES = (TrackState.TRACKING, TrackState.TRACKING, TrackState.LOST, TrackState.TRACKING)
SCORES = (0.9, 0.3, 0.9, 0.8)


def seen_at(t: int) -> np.ndarray:
    mask = np.zeros((96, 128), bool)
    mask[20:40, 10 + t : 30 + t] = True
    return mask


def test_tracks_of_a_bag_become_drafts(make, tmp_path: Path, frames: list[np.ndarray]) -> None:
    source = BagImages(make.bag(tmp_path / "in", frames[:4]))
    with BagWriter(tmp_path / "out", source.clock) as writer:
        for frame in source:
            t = frame.index
            mask = seen_at(t) if STATES[t] is TrackState.TRACKING else None
            track = Track("t1", "the red ball", STATES[t], 7, mask, score=SCORES[t])
            writer.write(FrameResult(frame.stamp, t, *frame.rgb.shape[:2], (track,)), frame)
    folder = tmp_path / "data"
    words = ["data", "from-bag", str(tmp_path / "in"), "-o", str(folder), "--name", "run"]
    assert main(words) == 0
    report = tmp_path / "report.json"
    words = ["data", "harvest", str(folder), str(tmp_path / "out"), "--json", str(report)]
    assert main(words) == 0
    clip = {"clip": "images/run", "objects": 1, "masks": 2, "matched": 4}
    assert json.loads(report.read_text()) == {"clips": [clip]}
    ((_, sample, found),) = SimpleFolder(folder).marked()
    target = found["1"]
    assert target.annotated == (0, 3)  # unsure and lost: open, not denied
    assert target.name == "the red ball"
    shown = target.read(*sample.size())
    assert np.array_equal(shown[0], seen_at(0))
    assert np.array_equal(shown[3], seen_at(3))
    assert main(["data", "check", str(folder)]) == 0
    other = tmp_path / "other"
    assert main(["data", "from-bag", str(tmp_path / "in"), "-o", str(other), "--stills"]) == 0
    assert main(["data", "harvest", str(other), str(tmp_path / "out")]) == 2


def message(t: float, **fields: Any) -> tuple[int, Any]:
    stamp = SimpleNamespace(sec=100 + int(t), nanosec=int(t % 1 * 1e9))
    return 0, SimpleNamespace(header=SimpleNamespace(stamp=stamp), **fields)


def image(mask: np.ndarray, value: int = 1) -> dict[str, Any]:
    height, width = mask.shape
    data = (value * mask).astype(np.uint8).tobytes()
    return {"encoding": "mono8", "height": height, "width": width, "step": width, "data": data}


def test_a_correction_is_taken_and_what_it_corrects_is_not() -> None:
    track = SimpleNamespace(
        id="t1", expression="the mug", label="", state=1, mask_value=1, score=0.9
    )
    times = (0.0, 1.5, 2.0, 2.5)  # corrected at 2.0
    drawn = SimpleNamespace(**image(seen_at(50), 255))
    found = collected(
        {
            "tracks": iter([message(t, tracks=[track]) for t in times]),
            "mask": iter([message(t, **image(seen_at(0))) for t in times]),
            "prompt": iter([message(2.0, track_id="t1", type=2, mask=drawn)]),
        }
    )
    masks = [found[int((100 + t) * 1e9)] for t in times]
    assert [len(shown) for shown in masks] == [1, 0, 1, 1]
    assert np.array_equal(masks[0][0].mask, seen_at(0))
    assert np.array_equal(masks[2][0].mask, seen_at(50))
    clicked = {
        "tracks": iter([message(t, tracks=[track]) for t in times]),
        "mask": iter([message(t, **image(seen_at(0))) for t in times]),
        "prompt": iter([message(2.0, track_id="t1", type=0, mask=None)]),
    }
    assert [len(shown) for shown in collected(clicked).values()] == [1, 0, 0, 1]
