# SPDX-License-Identifier: Apache-2.0
"""`sa2va data`: frames from a bag, masks carried between drawn frames, scenes, and what `check` finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_cli.main import main
from sa2va_sim.painted.scene import flat_clip
from sa2va_training.data.clip_masks import agreed
from sa2va_training.data.folder import ANNOTATIONS, FolderWriter
from sa2va_training.data.readers.simple import SimpleFolder


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """A drawn clip as an image folder's dataset, and its true label images."""
    frames = flat_clip(np.random.default_rng(5_000_000), 192, 8)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for t, frame in enumerate(frames):
        cv2.imwrite(str(pictures / f"{t}.png"), frame.rgb[:, :, ::-1])
    folder = tmp_path / "data"
    assert main(["data", "from-bag", str(pictures), "-o", str(folder), "--name", "run1"]) == 0
    return folder, [frame.instances for frame in frames]


def draw(folder: Path, t: int, labels: np.ndarray) -> Path:
    file = folder / "masks" / "run1" / f"{t:05d}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), labels.astype(np.uint8))
    return file


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "annotations.jsonl").read_text())


def test_a_bag_becomes_a_clip_with_stamps(tmp_path: Path, make, frames: list[np.ndarray]) -> None:
    bag = make.bag(tmp_path / "bag", frames)
    folder = tmp_path / "data"
    assert main(["data", "from-bag", str(bag), "-o", str(folder), "--fps", "5"]) == 0
    record = record_of(folder)
    files = sorted((folder / record["clip"]).iterdir())
    stamps = record["notes"]["stamps"]
    exact = record["notes"]["nanoseconds"]  # the bag's own time, in whole numbers
    assert exact[0] > 1e9
    assert (np.diff(exact) / 1e9 == pytest.approx(np.diff(stamps), abs=2e-6)) or len(exact) < 2
    assert record["recording"] == "bag"
    assert len(files) == len(stamps) < len(frames)
    assert np.diff(stamps).min() >= 0.2 - 1e-6
    first = cv2.imread(str(files[0]))[:, :, ::-1]
    assert np.abs(first.astype(int) - frames[0]).mean() < 12  # JPEG
    assert main(["data", "from-bag", str(bag), "-o", str(folder)]) == 2  # the clip is there already
    assert (
        main(
            [
                "data",
                "from-bag",
                str(bag),
                "-o",
                str(folder),
                "--stills",
                "--name",
                "s",
                "--limit",
                "3",
            ]
        )
        == 0
    )
    lines = (folder / "annotations.jsonl").read_text().splitlines()
    assert [json.loads(line).get("image") for line in lines[1:]] == [
        f"images/s/{n:05d}.jpg" for n in range(3)
    ]


def test_drawn_frames_stay_and_the_others_follow(clip: tuple[Path, list[np.ndarray]]) -> None:
    folder, truth = clip
    drawn = {t: draw(folder, t, truth[t]) for t in (0, 7)}
    before = {t: file.read_bytes() for t, file in drawn.items()}
    report = folder.parent / "filled.json"
    words = ["--name", "1=the first thing", "--json", str(report)]
    assert main(["data", "propagate", str(folder), *words]) == 0
    assert {t: file.read_bytes() for t, file in drawn.items()} == before
    assert sorted(f.name for f in (folder / "masks" / "run1").iterdir()) == [
        "00000.png",
        "00007.png",
    ]
    record = record_of(folder)
    assert record["expressions"] == [{"text": "the first thing", "objects": ["1"]}]
    (sample,) = [SimpleFolder(folder)[0]]
    (referring,) = sample.referrings
    assert referring.target is not None
    shown = referring.target.read(192, 192)
    assert set(referring.target.annotated) >= {0, 7}
    for t in (0, 7):
        assert np.array_equal(shown[t], truth[t] == 1)
    filled = json.loads(report.read_text())["clips"][0]
    objects = len(np.unique(np.concatenate([truth[0], truth[7]]))) - 1
    assert filled["propagated"] + filled["open"] == 6 * objects
    assert filled["propagated"] > 0
    assert main(["data", "check", str(folder)]) == 0


def test_a_box_is_a_drawing(clip: tuple[Path, list[np.ndarray]]) -> None:
    folder, truth = clip
    largest = int(np.bincount(truth[0].ravel())[1:].argmax()) + 1  # a small model needs to see it
    rows, columns = np.nonzero(truth[0] == largest)
    box = f"1=0:{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"
    assert main(["data", "propagate", str(folder), "--box", box, "--name", "1=it"]) == 0
    labels = cv2.imread(str(folder / "masks" / "run1" / "00000.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(labels)) == {0, 1}
    assert record_of(folder)["notes"]["drawn"] == ["00000"]
    assert len(record_of(folder)["objects"]["1"]["masks"]) == 8


def test_masks_are_kept_where_both_directions_agree() -> None:
    one = np.zeros((10, 10), bool)
    one[2:8, 2:8] = True
    near, far = one.copy(), one.copy()
    near[2, 2:8] = False
    far[2:5] = False
    drawn = {0: one, 9: one}
    assert agreed(4, drawn, one, near) is one  # the nearer drawing's direction
    assert agreed(6, drawn, one, near) is near
    assert agreed(4, drawn, one, far) is None
    assert agreed(4, drawn, one, None) is None
    assert agreed(12, drawn, far, None) is far  # beyond the last drawing there is one direction
    gone = np.zeros((10, 10), bool)
    assert agreed(4, drawn, gone, gone) is gone


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "no clip has an annotated frame"),
        (["--clip", "images/other"], "has no clip 'images/other'"),
        (["--name", "mug"], "expected LABEL="),
        (["--box", "1=0:5,5,90,90", "--name", "7=mug"], "nobody drew an object 7"),
        (["--name", "0=mug"], "LABEL a whole number from 1"),
        (["--box", "1=0:5,5,5,9"], "expected x0 < x1"),
        (["--box", "1=99:5,5,9,9"], "expected 0 to 7"),
        (["--box", "1=0:5,5,900,9"], "expected it inside 192x192"),
        (["--box", "1=0:5,5"], "LABEL=FRAME:x0,y0,x1,y1"),
    ],
)
def test_wrong_annotations_are_named(
    words: list[str],
    expected: str,
    clip: tuple[Path, list[np.ndarray]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["data", "propagate", str(clip[0]), *words]) == 2
    assert expected in capsys.readouterr().err


def test_a_drawing_of_another_size_is_named(
    clip: tuple[Path, list[np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, truth = clip
    draw(folder, 3, truth[3][:100])
    assert main(["data", "propagate", str(folder)]) == 2
    assert "00003.png: is 192x100; expected 192x192" in capsys.readouterr().err


def test_scenes_are_added_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "scenes")
    make = ["data", "synth", "-o", folder, "--kind", "flat", "--size", "96"]
    assert main([*make, "--count", "2"]) == 0
    assert main([*make, "--count", "1", "--first", "7", "--split", "val"]) == 0
    report = tmp_path / "check.json"
    assert main(["data", "check", folder, "--json", str(report)]) == 0
    assert json.loads(report.read_text())["pictures"] >= 3
    assert main([*make, "--kind", "unknown"]) == 2
    assert "expected one of sim, flat" in capsys.readouterr().err


def test_scenes_have_what_was_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = ["data", "synth", "--kind", "flat", "--size", "96", "--count", "3"]
    assert main([*make, "-o", str(tmp_path / "all")]) == 0
    assert main([*make, "-o", str(tmp_path / "told"), "--asked", "captions"]) == 0
    whole, told = (
        [json.loads(line) for line in (tmp_path / name / ANNOTATIONS).read_text().splitlines()]
        for name in ("all", "told")
    )
    parts = ("expressions", "questions", "captions")
    assert all(any(record.get(part) for record in whole) for part in parts)
    assert not any(record.get(part) for record in told for part in parts[:2])
    assert [r.get("captions") for r in told] == [r.get("captions") for r in whole]
    lists = [c["text"] for r in told for c in r["captions"] if not c["objects"]]
    assert lists  # what is there, without masks
    assert not any("<p>" in text for text in lists)
    assert main([*make, "-o", str(tmp_path / "no"), "--asked", "songs"]) == 2
    assert "asked is songs; expected some of expressions" in capsys.readouterr().err


def test_check_names_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgb, labels = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint8)
    labels[3:6, 3:6] = 1
    with FolderWriter(tmp_path) as writer:
        said = {
            "expressions": [{"text": "a dot", "objects": ["1"]}, {"text": "it", "objects": ["2"]}]
        }
        writer.add_image("good", rgb, labels, {1: "dot", 2: "nothing"}, **said)
        writer.add_image("bad", rgb, labels[:20], {1: "dot"}, expressions=said["expressions"][:1])
        writer.add_image("gone", rgb, labels, {1: "dot"}, expressions=said["expressions"][:1])
    (tmp_path / "images" / "gone.jpg").unlink()
    assert main(["data", "check", str(tmp_path)]) == 2
    out = capsys.readouterr()
    assert "its mask has 9 pixels" in out.out
    assert "its mask is empty" in out.out
    assert "bad.png: is 60x20, expected 60x40" in out.err
    assert "gone.jpg" in out.err


def black_and_white(folder: Path, mask: np.ndarray) -> None:
    draw(folder, 0, mask.astype(np.uint8) * 255)


def test_a_name_that_would_be_lost_is_refused(
    clip: tuple[Path, list[np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, truth = clip
    black_and_white(folder, truth[0] == 1)
    before = (folder / "annotations.jsonl").read_text()
    assert main(["data", "propagate", str(folder), "--name", "1=the mug"]) == 2
    error = capsys.readouterr().err
    assert "nobody drew an object 1; the drawings have 255 (a black and white PNG" in error
    assert (folder / "annotations.jsonl").read_text() == before
    assert main(["data", "propagate", str(folder), "--name", "255=the mug"]) == 0
    assert "object 255: the mug" in capsys.readouterr().out


def test_a_colour_drawing_is_refused(
    clip: tuple[Path, list[np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, truth = clip
    grey = np.repeat((truth[0] == 1).astype(np.uint8)[..., None], 3, 2)
    draw(folder, 0, grey)  # the channels are one: it is grey
    assert main(["data", "propagate", str(folder), "--name", "1=it"]) == 0
    draw(folder, 0, grey * np.array([0, 0, 200], np.uint8))
    assert main(["data", "propagate", str(folder)]) == 2
    assert (
        "is a colour picture (2 colours), expected a grey or palette PNG" in capsys.readouterr().err
    )


def test_one_name_for_several_clips_renames_nothing(
    clip: tuple[Path, list[np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, truth = clip
    with FolderWriter(folder) as writer:
        frames = [np.zeros((192, 192, 3), np.uint8)] * 2
        labels = [(truth[0] == 1).astype(np.uint8), None]
        writer.add_clip("run2", frames, labels, {1: "a red block"})
    draw(folder, 0, truth[0])
    assert main(["data", "propagate", str(folder), "--name", "1=the mug"]) == 2
    assert "object 1 of images/run2 is called 'a red block' already" in capsys.readouterr().err
    assert (
        main(["data", "propagate", str(folder), "--clip", "images/run1", "--name", "1=the mug"])
        == 0
    )


def test_a_look_shows_what_is_drawn_filled_in_and_asked(
    clip: tuple[Path, list[np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, truth = clip
    draw(folder, 0, truth[0])
    assert main(["data", "propagate", str(folder), "--name", "1=the <first> thing"]) == 0
    assert main(["data", "look", str(folder)]) == 0
    page = (folder / "look" / "index.html").read_text()
    assert "the &lt;first&gt; thing" in page
    assert "asked (drawn)" in page
    sheet = cv2.imread(str(folder / "look" / "sheet.png"))
    assert sheet is not None
    assert sheet.std() > 5
    assert len(list((folder / "look" / "pictures").glob("*.jpg"))) >= 2
    assert main(["data", "check", str(folder)]) == 0  # what was drawn beside it is no data
