# SPDX-License-Identifier: Apache-2.0
"""`sa2va track` on real files with a nano model: what it writes, that the files agree, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from sa2va_cli.main import main
from sa2va_model.io.frames import VideoFile
from sa2va_model.tracking.by_example.example import read_example
from sa2va_model.tracking.by_example.finder import ExampleFinder, Sighting
from sa2va_ros.bags.bag import BagImages, read_messages


@pytest.fixture
def track(nano_folder: Path, tmp_path: Path, capsys):
    """Run `sa2va track`; returns (exit status, stderr, output folder)."""

    def run(*words: object) -> tuple[int, str, Path]:
        out = tmp_path / "out"
        status = main(
            [
                "track",
                *map(str, words),
                "-o",
                str(out),
                "--model",
                str(nano_folder),
                "--device",
                "cpu",
            ]
        )
        return status, capsys.readouterr().err, out

    return run


def load(path: Path):
    return json.loads(path.read_text())


def mask_of(out: Path, track_id: str, frame: int) -> np.ndarray:
    return cv2.imread(str(out / "masks" / track_id / f"{frame:05d}.png"), cv2.IMREAD_UNCHANGED)


def check_agreement(out: Path, frames: int) -> None:
    """Masks, tracks.json, overlay.mp4 and summary.json tell the same story."""
    records = load(out / "tracks.json")["frames"]
    summary = load(out / "summary.json")
    assert [record["frame"] for record in records] == list(range(frames))
    assert summary["frames"] == frames
    seen: dict[str, int] = {track["id"]: 0 for track in summary["tracks"]}
    written = {str(path.relative_to(out / "masks")) for path in out.glob("masks/*/*.png")}
    for record in records:
        for track in record["tracks"]:
            name = f"{track['id']}/{record['frame']:05d}.png"
            assert name in written
            written.discard(name)
            mask = mask_of(out, track["id"], record["frame"])
            assert mask.shape == (summary["height"], summary["width"])
            assert set(np.unique(mask)) <= {0, 255}
            assert int((mask > 0).sum()) == track["area"]
            seen[track["id"]] += track["area"] > 0
            if track["area"]:
                ys, xs = np.nonzero(mask)
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                assert [int(value) for value in box] == track["box"]
            else:
                assert track["box"] is None
    assert not written  # no mask that no record knows
    assert seen == {track["id"]: track["frames_seen"] for track in summary["tracks"]}
    overlay = list(VideoFile(out / "overlay.mp4"))
    assert len(overlay) == frames
    assert overlay[0].rgb.shape[0] - summary["height"] in (0, 1)


def test_video_with_words_a_box_and_clicks(track, video, frames) -> None:
    status, stderr, out = track(
        video, "-e", "the red ball", "--box", "8,36,32,60", "--point", "20,48;100,10,0"
    )
    assert status == 0, stderr
    check_agreement(out, 12)
    summary = load(out / "summary.json")
    assert [entry["prompt"] for entry in summary["tracks"]] == [
        "-e 'the red ball'",
        "--box 8,36,32,60",
        "--point 20,48;100,10,0",
    ]
    assert summary["complete"] is True
    assert summary["grounding_ms"] > 0
    assert summary["fps"] > 0
    assert summary["step_ms"]["p95"] >= summary["step_ms"]["p50"] > 0
    assert summary["peak_memory_mb"] > 50
    assert "J" not in summary
    events = load(out / "events.json")
    assert {event["track"] for event in events} == {entry["id"] for entry in summary["tracks"]}
    assert any(event["kind"] == "STARTED" and event["frame"] == 0 for event in events)
    overlay = [frame.rgb for frame in VideoFile(out / "overlay.mp4")]
    assert np.abs(overlay[3].astype(int) - frames[3]).max() > 60  # something is drawn


def test_what_a_picture_shows_is_looked_for_and_what_was_seen_is_saved(
    track, video, make, tmp_path, monkeypatch
) -> None:
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    cv2.imwrite(str(photo), make.picture(0, 64, 80))
    cv2.imwrite(str(mask), np.pad(np.full((20, 20), 255, np.uint8), ((20, 24), (20, 40))))
    status, stderr, out = track(
        *(video, "--example", photo, "--mask", mask, "--box", "8,36,32,60", "--save-objects")
    )
    assert status == 0, stderr
    check_agreement(out, 12)
    shown, boxed = load(out / "summary.json")["tracks"]
    assert shown["prompt"] == f"--example {photo} --mask {mask}"
    assert (shown["id"], shown["state"]) == ("photo", "LOST"), "nothing random looks like it"
    assert "was not seen well" in shown["not_saved"]
    assert boxed["object"] == "objects/object.object"
    example = read_example(out / boxed["object"])
    assert example.views[0].rgb.shape == (96, 128, 3)
    saved = (out / boxed["object"]).rename(tmp_path / "it.object")
    here = np.pad(np.full((24, 24), True), ((36, 36), (8, 96)))
    monkeypatch.setattr(ExampleFinder, "find", lambda *_: Sighting(here, None, 1.0))
    status, stderr, out = track(video, "--object", saved)
    assert status == 0, stderr
    assert load(out / "summary.json")["tracks"][0]["state"] == "TRACKING"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--example", "p.png"), "expected --box, --point or --mask behind it"),
        (("--example", "p.png", "-e", "x"), "-e x: follows --example p.png, expected --box"),
        (("--example", "none.png", "--box", "1,1,9,9"), "none.png"),
        (("--example", "p.png", "--box", "90,1,99,9"), "box: [90.0, 1.0, 99.0, 9.0] is outside"),
        (("--object", "none.object"), "none.object: No such file or directory"),
        (("--object", "p.png"), "p.png: "),
        (("--mask", "p.png"), "is 80x64, expected the size of the 128x96 image"),
    ],
)
def test_examples_that_show_nothing(track, video, make, tmp_path, monkeypatch, words, says) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), make.picture(0, 64, 80))
    monkeypatch.chdir(tmp_path)
    assert says in refused(track(video, *words))


def test_image_folder_odd_size_frames_and_size(make, track, tmp_path) -> None:
    place = tmp_path / "odd"
    place.mkdir()
    for index in range(5):
        cv2.imwrite(str(place / f"{index}.png"), make.picture(index, 95, 127))
    status, stderr, out = track(place, "--box", "8,36,32,60", "--frames", 3, "--fps", 10)
    assert status == 0, stderr
    check_agreement(out, 3)
    assert [record["stamp"] for record in load(out / "tracks.json")["frames"]] == [0.0, 0.1, 0.2]
    stamps = [frame.stamp for frame in VideoFile(out / "overlay.mp4")]
    assert stamps == pytest.approx([0.0, 0.1, 0.2], abs=1e-3)
    status, stderr, out = track(
        place, "--box", "8,36,32,60", "--size", 64
    )  # replaces the first run
    assert status == 0, stderr
    check_agreement(out, 5)
    assert (load(out / "summary.json")["width"], load(out / "summary.json")["height"]) == (64, 48)


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_bag_in_bag_out(make, track, tmp_path, frames, storage: str) -> None:
    path = make.bag(tmp_path / "in", frames, storage=storage)
    status, stderr, out = track(path, "-e", "the red ball")
    assert status == 0, stderr
    check_agreement(out, 12)
    source = list(BagImages(path))
    records = load(out / "tracks.json")["frames"]
    arrays = [message for _, message in read_messages(out / "bag", "/sa2va/tracks")]
    masks = [message for _, message in read_messages(out / "bag", "/sa2va/mask")]
    assert len(arrays) == len(masks) == 12
    for frame, record, array, mask in zip(source, records, arrays, masks, strict=True):
        assert array.header == mask.header == frame.header
        assert record["stamp_ns"] == array.header.stamp.sec * 10**9 + array.header.stamp.nanosec
        assert [track.id for track in array.tracks] == [t["id"] for t in record["tracks"]]
        for track, entry in zip(array.tracks, record["tracks"], strict=True):
            assert track.area == entry["area"]
            assert int((mask.data == track.mask_value).sum()) == (entry["area"] or mask.data.size)
    assert load(out / "summary.json")["topic"] == "/camera/image_raw"


def test_scores_against_truth(track, video, tmp_path, frames) -> None:
    status, _, out = track(video, "-e", "the red ball")
    truth = tmp_path / "truth"
    truth.mkdir()
    for index in (0, 4, 9):  # its own masks are the truth: J and F must be 1
        cv2.imwrite(str(truth / f"frame_{index:04d}.png"), mask_of(out, "red_ball", index))
    cv2.imwrite(str(truth / "frame_0099.png"), np.zeros((96, 128), np.uint8))  # never reached
    status, stderr, out = track(video, "-e", "the red ball", "--box", "60,5,90,20", "--gt", truth)
    assert status == 0, stderr
    summary = load(out / "summary.json")
    assert (summary["J"], summary["F"], summary["J_and_F"]) == (1.0, 1.0, 1.0)
    assert summary["gt"]["red_ball"]["gt_frames"] == 3
    assert summary["gt"]["red_ball"]["gt_frames_missed"] == 1
    assert list(summary["gt"]) == ["red_ball"]


def test_truth_of_several_tracks(track, video, tmp_path) -> None:
    status, _, out = track(video, "-e", "the red ball", "--box", "60,5,90,20")
    for name, source in (("red_ball", "red_ball"), ("object", "red_ball")):
        (tmp_path / "truth" / name).mkdir(parents=True)
        mask = mask_of(out, source, 2)
        cv2.imwrite(str(tmp_path / "truth" / name / "00002.png"), mask if name == source else ~mask)
    status, stderr, out = track(
        video, "-e", "the red ball", "--box", "60,5,90,20", "--gt", tmp_path / "truth"
    )
    assert status == 0, stderr
    summary = load(out / "summary.json")
    assert summary["gt"]["red_ball"]["J"] == 1.0
    assert summary["J"] == pytest.approx((1.0 + summary["gt"]["object"]["J"]) / 2)
    (tmp_path / "truth" / "stranger").mkdir()
    cv2.imwrite(str(tmp_path / "truth" / "stranger" / "1.png"), mask)
    status, stderr, _ = track(video, "-e", "the red ball", "--gt", tmp_path / "truth")
    assert status == 2
    assert "folder 'object' is no track, expected some of: red_ball" in stderr


def test_what_is_not_found_is_looked_for_again(video, tmp_path, blind_folder) -> None:
    def not_found(retry: str) -> list[int]:
        words = ["track", str(video), "-e", "the red ball", "-o", str(tmp_path / "out")]
        assert main([*words, "--model", str(blind_folder), "--retry", retry]) == 0
        check_agreement(tmp_path / "out", 12)
        events = load(tmp_path / "out" / "events.json")
        return [event["frame"] for event in events if event["kind"] == "NOT_FOUND"]

    assert not_found("0") == [0]
    assert not_found("0.15") == [0, 5, 10]  # 30 frames a second
    summary = load(tmp_path / "out" / "summary.json")
    assert [(t["id"], t["state"], t["frames_seen"]) for t in summary["tracks"]] == [
        ("red_ball", "NOT_FOUND", 0)
    ]


def test_json_file_is_the_summary(track, video, tmp_path) -> None:
    status, _, out = track(
        video, "--box", "8,36,32,60", "--frames", 2, "--json", tmp_path / "s.json"
    )
    assert status == 0
    assert load(tmp_path / "s.json") == load(out / "summary.json")


def test_nothing_is_lost_when_the_video_is_truncated(make, track, tmp_path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(30)]
    path = make.video(tmp_path / "cut.mp4", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 10])
    readable = 0
    for _ in _until_error(VideoFile(path)):
        readable += 1
    assert 5 < readable < 20
    status, stderr, out = track(path, "--box", "8,36,32,60")
    assert status == 2
    lines = stderr.strip().splitlines()
    assert lines[-1].startswith(f"sa2va track: error: {path}: the file is cut short")
    check_agreement(out, readable)
    summary = load(out / "summary.json")
    assert summary["complete"] is False
    assert "cut short" in summary["problem"]


def test_nothing_is_lost_when_a_bag_breaks(make, track, tmp_path, frames) -> None:
    path = make.bag(tmp_path / "in", [*frames[:5], *[make.picture(0, 60, 80)] * 6])
    status, stderr, out = track(path, "--box", "8,36,32,60")
    assert status == 2
    assert "image 9 is 80x60, expected 128x96 like the first frame" in stderr
    check_agreement(out, 5)
    assert len(list(read_messages(out / "bag", "/sa2va/tracks"))) == 5


def test_time_that_jumps_back_starts_again(make, track, tmp_path, frames) -> None:
    def loop(index: int, message) -> None:
        message.header.stamp.sec -= 100 * (index >= 6)

    status, stderr, out = track(
        make.bag(tmp_path / "in", frames, change=loop), "--box", "8,36,32,60"
    )
    assert status == 0, stderr
    # The first four may be a driver's mistake; the fifth in a row shows that the recording began anew.
    shown = [record["frame"] for record in load(out / "tracks.json")["frames"]]
    assert shown == [*range(6), 10, 11]
    assert load(out / "summary.json")["skipped"] == 4
    events = [(event["frame"], event["kind"]) for event in load(out / "events.json")]
    assert (10, "MEMORY_RESET") in events
    assert (10, "STARTED") in events


def _until_error(source):
    frames = iter(source)
    while True:
        try:
            yield next(frames)
        except (StopIteration, ValueError):
            return


def refused(result: tuple[int, str, Path]) -> str:
    """The one line of an exit with status 2, without output files."""
    status, stderr, out = result
    assert status == 2, stderr
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("sa2va track: error: ")
    assert not (out / "tracks.json").exists()
    return stderr


def test_wrong_arguments(track, video, capsys) -> None:
    assert "expected at least one -e, --box, --point or --object" in refused(track(video))
    assert "expected words" in refused(track(video, "-e", "  "))
    assert "three" not in refused(track(video, "--box", "1,2,3"))
    assert "--box 1,2,3: 3 numbers, expected four" in refused(track(video, "--box", "1,2,3"))
    assert "not made of numbers" in refused(track(video, "--box", "a,b,c,d"))
    assert "empty box, expected x0 < x1" in refused(track(video, "--box", "9,9,3,20"))
    assert "outside the 128x96 image" in refused(track(video, "--box", "200,10,220,30"))
    assert "300,5 is not inside the 128x96 image" in refused(track(video, "--point", "300,5"))
    assert "is no click" in refused(track(video, "--point", "1,2,7"))
    assert "no click on the object" in refused(track(video, "--point", "1,2,0"))
    assert "is no rosbag2, expected one for --topic" in refused(
        track(video, "-e", "x", "--topic", "/t")
    )
    assert "'0', expected a whole number above 0" in refused(track(video, "-e", "x", "--frames", 0))
    assert "expected seconds, 0 or more" in refused(track(video, "-e", "x", "--retry", "-1"))
    assert main(["track"]) == 2
    assert "arguments are required: INPUT" in capsys.readouterr().err


def test_wrong_inputs(track, tmp_path, video, folder, make, frames) -> None:
    words = ("-e", "the red ball")
    assert "no such file or folder" in refused(track(tmp_path / "none.mp4", *words))
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    assert "not readable as a video" in refused(track(tmp_path / "junk.mp4", *words))
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(track(tmp_path / "empty", *words))
    (folder / "frame_0.png").write_bytes(b"x")
    assert "frame_0.png begins like no picture" in refused(track(folder, *words))
    blind = make.bag(tmp_path / "blind", [], topic="/camera", encoding="rgb8")
    assert "holds no message" in refused(track(blind, *words))
    two = make.bag(tmp_path / "two", frames[:1], extra=[("/b", "sensor_msgs/msg/Image")])
    assert "expected --topic with one of: /b (sensor_msgs/msg/Image), /camera/image_raw" in refused(
        track(two, *words)
    )
    (tmp_path / "gt").mkdir()
    assert "no .png file, expected masks" in refused(track(video, *words, "--gt", tmp_path / "gt"))
    assert "no such folder" in refused(track(video, *words, "--gt", tmp_path / "none"))


def test_truth_of_another_size_names_the_file(track, video, tmp_path) -> None:
    (tmp_path / "gt").mkdir()
    cv2.imwrite(str(tmp_path / "gt" / "0.png"), np.zeros((10, 20), np.uint8))
    status, stderr, _ = track(video, "--box", "8,36,32,60", "--gt", tmp_path / "gt")
    assert status == 2
    assert f"{tmp_path / 'gt' / '0.png'}: is 20x10, expected 128x96 like the frame" in stderr


def test_wrong_models(video, tmp_path, nano_folder, capsys) -> None:
    def error(model: Path) -> str:
        words = ["track", str(video), "-e", "x", "-o", str(tmp_path / "out"), "--model", str(model)]
        assert main(words) == 2
        stderr = capsys.readouterr().err
        assert stderr.count("\n") == 1, stderr
        return stderr

    assert "no such folder" in error(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in error(tmp_path / "empty")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in nano_folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert f"{weights}: not a readable safetensors file" in error(broken)


def test_output_folder_of_someone_else_is_left_alone(track, video, tmp_path, capsys) -> None:
    (tmp_path / "out" / "masks").mkdir(parents=True)
    (tmp_path / "out" / "masks" / "precious.png").write_text("mine")
    status, stderr, _ = track(video, "--box", "8,36,32,60")
    assert status == 2
    assert "holds 'masks' and no earlier run" in stderr
    assert (tmp_path / "out" / "masks" / "precious.png").read_text() == "mine"
    (tmp_path / "file").write_text("x")
    assert main(["track", str(video), "-e", "x", "-o", str(tmp_path / "file" / "deep")]) == 2
    assert "expected a folder that can be written" in capsys.readouterr().err


def start(video: Path, out: Path, model: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sa2va_model", "track", str(video), "--box", "8,36,32,60"]
    return subprocess.Popen(
        [*command, "-o", str(out), "--model", str(model), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Test runs in the background of a shell ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_real_command(video, tmp_path, nano_folder) -> None:
    process = start(video, tmp_path / "out", nano_folder)
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    check_agreement(tmp_path / "out", 12)
    assert stdout.startswith("12 frames, ")
    assert f"results in {tmp_path / 'out'}" in stdout
    assert "STARTED" in stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_loses_nothing(make, tmp_path, nano_folder, number: int) -> None:
    path = make.video(tmp_path / "long.mp4", [make.picture(i % 30) for i in range(1500)])
    out = tmp_path / "out"
    process = start(path, out, nano_folder)
    deadline = time.monotonic() + 240
    while len(list(out.glob("masks/*/*.png"))) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    records = load(out / "tracks.json")["frames"]
    assert load(out / "events.json")
    assert len(records) >= 4
    if number == signal.SIGKILL:
        return
    assert process.returncode == 130
    assert stderr.strip().endswith("sa2va track: interrupted")
    summary = load(out / "summary.json")
    assert (summary["complete"], summary["problem"]) == (False, "interrupted")
    # a frame may have its masks and not yet its record, never the other way round
    assert abs(len(list(VideoFile(out / "overlay.mp4"))) - len(records)) <= 1


def test_a_track_that_failed_is_status_1(video, tmp_path, capsys) -> None:
    """Weights that are finite, and overflow while the words are understood."""
    import torch

    from sa2va_cli.main import main
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.testing import nano_model

    model = nano_model(0, answers=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("text_hidden_fcs."):
                weight.fill_(3e38)
    save_model(model, tmp_path / "model", dtype=None)
    out = tmp_path / "out"
    words = ["track", video, "-e", "the ball", "-o", out, "--model", tmp_path / "model"]
    assert main([*map(str, words), "--frames", "2", "--device", "cpu"]) == 1
    (track,) = json.loads((out / "summary.json").read_text())["tracks"]
    assert "not finite" in track["failed"]
