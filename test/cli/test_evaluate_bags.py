# SPDX-License-Identifier: Apache-2.0
"""Recordings with truth topics: a dataset folder, and figures by the stamps of their images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from sa2va_cli.main import main
from sa2va_ros.bags.bag import IMAGE, TRACKS, fresh, typestore
from sa2va_ros.messages.images import fill_image
from sa2va_training.data.readers.simple import SimpleFolder
from sa2va_training.evaluation.predictor import FollowedClip
from sa2va_training.evaluation.scoring import score_sample

STRING = "std_msgs/msg/String"
START, STEP = 1_700_000_000_000_000_000, 250_000_000
NAMES = {"1": "red ball", "2": "blue cube", "3": "blue cube"}


def labels(t: int, size: tuple[int, int]) -> np.ndarray:
    out = np.zeros(size, np.uint8)
    out[30:60, 10 + 3 * t : 40 + 3 * t] = 1
    out[:10, :10], out[:10, 20:30] = 2, 3
    return out


def marked(t: int, size: tuple[int, int]) -> np.ndarray:
    """What the robot marked: from the fourth image on the ball, once nothing, and once something else."""
    out = labels(t, size) == 1
    if t < 3 or t == 5:
        out[:] = False
    return np.roll(out, 45, 1) if t == 7 else out


def tracks(t: int, *, words: str = "Red ball.", crop: bool = False) -> list[Any]:
    """Asked on the second image, found on the fourth, lost for one image."""
    store = typestore()
    track, mask = fresh(store, "sa2va_ros/msg/Track"), marked(t, (96, 128))
    track.expression, track.state = words, 0 if t < 3 else 3 if t == 5 else 1
    track.mask_value = 7 if mask.any() else 0
    if crop and mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        track.roi.y_offset, track.roi.x_offset = int(rows[0]), int(columns[0])
        cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        track.mask_png.data = cv2.imencode(".png", cut * np.uint8(255))[1].ravel()
    stopped = fresh(store, "sa2va_ros/msg/Track")
    stopped.expression, stopped.state, stopped.mask_value = words, 5, 9
    return [track, stopped]


def recording(
    path: Path,
    frames: list[np.ndarray],
    *,
    names: bool = True,
    truth: str = "/camera/truth",
    said: Mapping[int, list[Any]] | None = None,
    masks: bool = True,
) -> Path:
    """Images, label images of all but the second, and empty topics of depth and masks; four images a second."""
    store = typestore()
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        pictures, marks = (
            writer.add_connection(name, IMAGE, typestore=store)
            for name in ("/camera/image_raw", truth)
        )
        writer.add_connection("/camera/depth/image_raw", IMAGE, typestore=store)
        answers = writer.add_connection("/sa2va/mask", IMAGE, typestore=store)
        if said is not None:
            tracked = writer.add_connection("/sa2va/tracks", TRACKS, typestore=store)
        if names:
            told = {"_names": NAMES, "_target": {"expression": "the ball that moves", "value": 1}}
            for ending, value in told.items():
                link = writer.add_connection(truth + ending, STRING, typestore=store)
                message = fresh(store, STRING)
                message.data = json.dumps(value)
                writer.write(link, START, store.serialize_cdr(message, STRING))
        for t, rgb in enumerate(frames):
            stamp = START + t * STEP
            if said is not None and t in said:
                message = fresh(store, TRACKS)
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
                message.tracks, message.latency = said[t], 0.1 + t / 100
                writer.write(tracked, stamp, store.serialize_cdr(message, TRACKS))
            for link, pixels, encoding in (
                (pictures, rgb, "rgb8"),
                (marks, labels(t, rgb.shape[:2]), "mono8"),
                (answers, marked(t, rgb.shape[:2]) * np.uint8(7), "mono8"),
            ):
                if link is marks and t == 1:
                    continue
                if link is answers and (not masks or said is None or t not in said):
                    continue
                message = fresh(store, IMAGE)
                fill_image(message, pixels, encoding, message.header)
                message.data = np.frombuffer(message.data, np.uint8)
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
                writer.write(link, stamp, store.serialize_cdr(message, IMAGE))
    return path


def test_a_recording_with_truth_becomes_a_dataset(tmp_path: Path, frames: list[np.ndarray]) -> None:
    bag, folder = recording(tmp_path / "run", frames[:5]), tmp_path / "data"
    assert main(["data", "from-bag", str(bag), "-o", str(folder)]) == 0
    ((record, sample, found),) = SimpleFolder(folder).marked()
    assert found["1"].annotated == (0, 2, 3, 4)
    assert found["1"].name == "red ball"
    assert np.array_equal(found["1"].read(96, 128)[3], labels(3, (96, 128)) == 1)
    said = {e["text"]: e["objects"] for e in record.data["expressions"]}
    assert said == {
        "the red ball": ["1"],
        "the ball that moves": ["1"],
    }  # two blue cubes have no name of their own
    asked = SimpleFolder(folder)[0]
    assert asked.stamps == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert asked.with_frames([0, 3]).stamps == (0.0, 0.75)
    assert sample.clip
    assert main(["data", "check", str(folder)]) == 0
    single = tmp_path / "single"
    assert main(["data", "from-bag", str(bag), "-o", str(single), "--stills"]) == 0
    marked = [found["1"].annotated for _, _, found in SimpleFolder(single).marked() if found]
    assert marked == [(0,)] * 4
    assert main(["data", "check", str(single)]) == 0


class Late:
    """Follows what it should from half a second on, and a frame takes it 20 ms."""

    def follow_clip(self, frames, expressions, stamps) -> list[FollowedClip]:
        masks = np.stack([labels(t, f.shape[:2]) == 1 for t, f in enumerate(frames)])
        masks[np.array(stamps) < 0.5] = False
        return [FollowedClip(masks, (0.02,) * len(frames)) for _ in expressions]


def test_events_are_told_by_stamps(tmp_path: Path, frames: list[np.ndarray]) -> None:
    bag, folder = recording(tmp_path / "run", frames[:5]), tmp_path / "data"
    assert main(["data", "from-bag", str(bag), "-o", str(folder)]) == 0
    events = [s.record["events"] for s in score_sample(SimpleFolder(folder)[0], Late(), live=10.0)]
    assert [e["wait"] for e in events] == [0.5, 0.5]
    assert [(e["missed"], e["lost"], e["latency"]) for e in events] == [(0.0, 0.0, 0.02)] * 2


def test_many_recordings_are_measured_live_by_their_stamps(
    tmp_path: Path, frames: list[np.ndarray], nano_folder: Path, blind_folder: Path
) -> None:
    for name, part in (("one", frames[:6]), ("two", frames[6:])):
        recording(tmp_path / "bags" / name, part)
    out = tmp_path / "out"
    words = ["evaluate", str(tmp_path / "bags"), "tracking=live", "-o", str(out)]
    assert main([*words, "--model", str(nano_folder)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert (results["dataset"], results["samples"], results["measured"]) == ("bags", 2, 2)
    row = results["figures"]["referring, clips"]["all"]
    assert row["n"] == 4
    assert 0 < row["latency, s"] <= row["latency p95, s"]
    assert {"lost", "regained", "switched", "wrong", "missed"} <= set(row)
    lines = [json.loads(x) for x in (out / "records.jsonl").read_text().splitlines()]
    assert [x["frames"] for x in lines if "frames" in x] == [5] * 4  # the second has no truth
    assert (out / "report.html").is_file()
    # Again: the folder is there and what was measured stands; further recordings on the command line.
    assert main([*words, "--model", str(nano_folder)]) == 0
    two = [str(tmp_path / "bags" / name) for name in ("one", "two")]
    words = ["evaluate", *two, "tracking=live", "--model", str(blind_folder)]
    assert main([*words, "-o", str(tmp_path / "blind")]) == 0
    row = json.loads((tmp_path / "blind/results.json").read_text())["figures"]["referring, clips"][
        "all"
    ]
    assert (row["n"], row["missed"], row["marked"]) == (4, 1.0, 0.0)
    assert "wait, s" not in row


@pytest.mark.parametrize("crop", [False, True])
def test_what_a_robot_recorded_is_measured_without_a_model(
    tmp_path: Path, frames: list[np.ndarray], crop: bool
) -> None:
    said = {t: tracks(t, crop=crop) for t in range(1, 10) if t != 8} | {0: []}
    bag = recording(tmp_path / "run", frames[:10], said=said, masks=not crop)
    out = tmp_path / "out"
    words = ["evaluate", str(bag), "tracking=recorded", "-o", str(out), "--model", "no such model"]
    assert main(words) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["model"] == "recorded tracks"
    row = results["figures"]["referring, clips"]["all"]
    assert row["n"] == 1  # of two sentences that the truth knows one was asked
    assert row["J"] == pytest.approx(
        4 / 7, abs=1e-4
    )  # images 2 to 7 and 9; the eighth was not processed
    assert (row["wait, s"], row["missed"]) == (0.25, 0.0)
    assert (row["lost"], row["regained"], row["switched"]) == (2.0, 2.0, 1.0)
    assert row["wrong"] == pytest.approx(1 / 7)
    assert row["told"] == pytest.approx(
        5 / 7
    )  # it waited on one image and lost the ball on another
    assert row["skipped"] == pytest.approx(1 / 9)
    assert row["latency, s"] == pytest.approx(np.median([0.1 + t / 100 for t in (*range(1, 8), 9)]))
    assert (out / "report.html").is_file()


def test_recorded_tracks_that_cannot_be_measured_are_told(
    tmp_path: Path, frames: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    other = {t: tracks(t, words="the green mug") for t in range(4)}
    bags = {
        "none": (None, True, "has no topic tracks of type"),
        "other": (other, True, "tracks: name the green mug; expected one of the truth's sentences"),
        "maskless": ({3: tracks(3)}, False, "has no masks; expected /sa2va/mask beside it"),
    }
    for name, (said, masks, words) in bags.items():
        bag = recording(tmp_path / name, frames[:4], said=said, masks=masks)
        assert (
            main(["evaluate", str(bag), "tracking=recorded", "-o", str(tmp_path / f"o-{name}")])
            == 2
        )
        assert words in capsys.readouterr().err, name
    folder = str(tmp_path / "o-none" / "dataset")
    assert main(["evaluate", folder, "tracking=recorded", "-o", str(tmp_path / "p")]) == 2
    assert "expected rosbag2 with tracks and truth" in capsys.readouterr().err


def test_a_recording_without_truth_is_told(
    tmp_path: Path, frames: list[np.ndarray], make, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make.bag(tmp_path / "plain", frames[:2])
    assert main(["evaluate", str(plain), "-o", str(tmp_path / "o")]) == 2
    assert (
        "has no truth to measure against; expected label images on a topic `truth`"
        in capsys.readouterr().err
    )
    nameless = recording(tmp_path / "nameless", frames[:2], names=False)
    assert main(["evaluate", str(nameless), "-o", str(tmp_path / "p")]) == 2
    assert "their names on `truth_names`" in capsys.readouterr().err
    other = recording(tmp_path / "other", frames[:2], truth="/seg/labels")
    words = ["evaluate", str(other), "-o", str(tmp_path / "q"), "truth=/seg/nothing"]
    assert main(words) == 2
    assert "truth is topic '/seg/nothing', which is not in it" in capsys.readouterr().err
    assert main(["evaluate", str(other), "beside.txt", "-o", str(tmp_path / "r")]) == 2
    assert "beside.txt: is no rosbag2" in capsys.readouterr().err
