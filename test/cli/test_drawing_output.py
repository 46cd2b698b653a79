# SPDX-License-Identifier: Apache-2.0
"""The overlay, growing files and the measurements."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sa2va_cli.inputs import box_prompt, point_prompt
from sa2va_cli.measure import Memory, Slope, Times
from sa2va_cli.output import JsonRecords, VideoWriter, plain, write_json, write_png
from sa2va_model.errors import InputError
from sa2va_model.io.frames import VideoFile
from sa2va_model.io.overlay import PALETTE, caption, draw_overlay
from sa2va_model.tracks import FrameResult, Track, TrackState


def result(*tracks: Track, size: tuple[int, int] = (120, 160)) -> FrameResult:
    return FrameResult(0.0, 0, *size, tracks)


def blob(track_id: str, value: int, box: tuple[int, int, int, int], **fields) -> Track:
    mask = np.zeros((120, 160), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    fields = {"state": TrackState.TRACKING, "score": 0.9, **fields}
    return Track(
        track_id, "the mug", mask_value=value, mask=mask, box=box, area=int(mask.sum()), **fields
    )


def test_drawing_tints_the_mask_and_leaves_the_rest_and_the_input() -> None:
    rgb = np.full((120, 160, 3), 128, np.uint8)
    before = rgb.copy()
    drawn = draw_overlay(rgb, result(blob("a", 1, (60, 60, 100, 100))))
    assert (rgb == before).all()
    assert drawn.dtype == np.uint8
    inside = drawn[80, 80].astype(int) - 128
    assert (np.sign(inside) == np.sign(np.array(PALETTE[0]) - 128)).all()
    assert (drawn[110:, :40] == 128).all()
    assert (drawn[30:58, 50:110] != 128).any()  # the label


@pytest.mark.parametrize("background", [0, 255, 128])
def test_labels_are_legible_on_any_background(background: int) -> None:
    rgb = np.full((120, 160, 3), background, np.uint8)
    drawn = draw_overlay(rgb, result(blob("a", 1, (60, 60, 100, 100))))
    plate = drawn[40:58, 60:100].reshape(-1, 3).mean(1)
    assert plate.max() - plate.min() > 80  # text on its plate


def test_two_tracks_differ_and_keep_their_colour() -> None:
    rgb = np.zeros((120, 160, 3), np.uint8)
    one, two = blob("a", 1, (10, 70, 40, 100)), blob("b", 2, (100, 70, 140, 100))
    both, alone = draw_overlay(rgb, result(one, two)), draw_overlay(rgb, result(two))
    assert (both[85, 25] != both[85, 120]).any()
    assert (both[85, 120] == alone[85, 120]).all()


def test_what_is_not_seen_is_listed_and_what_stopped_is_not() -> None:
    rgb = np.full((120, 160, 3), 200, np.uint8)
    lost = Track("a", "the mug", TrackState.LOST)
    assert (draw_overlay(rgb, result(lost)) != 200).any()
    assert (draw_overlay(rgb, result(Track("a", "the mug", TrackState.STOPPED))) == 200).all()
    assert caption(lost) == "the mug  lost"
    assert caption(blob("a", 1, (1, 1, 9, 9))) == "the mug  0.90"
    assert caption(Track("a", "", TrackState.NOT_FOUND)) == "a  not found"
    assert caption(Track("a", "the mug", TrackState.TRACKING)) == "the mug  not seen"


@pytest.mark.parametrize("size", [(8, 8), (33, 500), (500, 20), (121, 161)])
def test_drawing_takes_any_size_and_text(size: tuple[int, int]) -> None:
    mask = np.ones(size, bool)
    tracks = [
        Track(str(i), "蓝色的杯子 " * 20, TrackState.TRACKING, i + 1, mask, area=mask.size)
        for i in range(15)
    ]
    tracks += [Track(f"lost{i}", "x" * 200, TrackState.LOST) for i in range(15)]
    assert draw_overlay(np.zeros((*size, 3), np.uint8), result(*tracks, size=size)).shape == (
        *size,
        3,
    )


def test_json_records_are_whole_after_every_record(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    records = JsonRecords(path, '{"frames": [', "]}")
    for count in range(4):
        assert json.loads(path.read_text()) == {"frames": [{"n": i} for i in range(count)]}
        records.add({"n": np.int64(count)})
    records.close()
    assert len(path.read_text().splitlines()) == 6


def test_json_has_no_nan_and_no_numpy(tmp_path: Path) -> None:
    assert plain({"a": [float("nan"), np.float32(0.5), (1, np.bool_(True))]}) == {
        "a": [None, 0.5, [1, True]]
    }
    write_json(tmp_path / "new" / "x.json", {"ü": 1})
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == {"ü": 1}
    with pytest.raises(InputError, match="expected a file that can be written"):
        write_json(tmp_path / "new" / "x.json" / "y.json", {})


def test_video_keeps_the_times_of_its_frames(tmp_path: Path, frames) -> None:
    writer = VideoWriter(tmp_path / "v.mp4", 30.0)
    stamps = [0.0, 0.04, 0.5, 0.5, 0.2]  # a gap, a clock that stands still, one that jumps back
    for rgb, stamp in zip(frames, stamps, strict=False):
        writer.add(rgb[:95, :127], stamp)
    writer.close()
    got = list(VideoFile(tmp_path / "v.mp4"))
    assert got[0].rgb.shape == (96, 128, 3)  # odd sides are padded
    assert [frame.stamp for frame in got] == pytest.approx(
        [0.0, 0.04, 0.5, 0.5 + 1 / 30, 0.5 + 2 / 30], abs=1e-3
    )


def test_slope_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(200, 900)
    y = 3.25 + 0.017 * x + rng.normal(size=x.size)
    slope = Slope()
    for point in zip(x, y, strict=True):
        slope.add(*point)
    assert slope.value() == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-6)
    assert Slope().value() is None


def test_measurements_do_not_grow(monkeypatch) -> None:
    monkeypatch.setattr("sa2va_cli.measure.resident_mb", lambda: 100.0)
    memory, times = Memory(), Times()
    for index in range(3000):
        memory.frame(index)
        times.add(float(index % 100))
    report = memory.report()
    assert report["rss_slope_kb_per_frame"] == 0.0
    assert report["rss_slope_frames"] == 2800
    assert len(report["rss_mb"]) <= 17
    assert times.percentiles() == {"p50": 49.5, "p95": 94.05}
    assert Times().median() is None


def test_prompts_scale_with_the_image() -> None:
    assert box_prompt("10,20,30,40").scaled(0.5).box == (5, 10, 15, 20)
    prompt = point_prompt("10,20;30,40,0").scaled(0.5)
    assert (prompt.points, prompt.labels) == (((5, 10), (15, 20)), (1, 0))


def test_red_stays_red_in_videos_and_pictures(tmp_path: Path) -> None:
    drawn = draw_overlay(np.full((120, 160, 3), (220, 30, 60), np.uint8), result())
    video = VideoWriter(tmp_path / "v.mp4", 30.0)
    video.add(drawn, 0.0)
    video.close()
    write_png(tmp_path / "p.png", drawn)
    (frame,) = VideoFile(tmp_path / "v.mp4")
    assert frame.rgb[60, 80] == pytest.approx((220, 30, 60), abs=6)
    assert cv2.imread(str(tmp_path / "p.png"))[60, 80].tolist() == [60, 30, 220]
