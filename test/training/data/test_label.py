# SPDX-License-Identifier: Apache-2.0
"""Drafts by words: what is kept, what is denied, what is left to a person, and what is never touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sa2va_cli.main import main
from sa2va_training.data.clip_masks import Clip, Masks
from sa2va_training.data.drafts import label
from sa2va_training.data.drafts.looks import DoubleLook, second_window
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.readers.simple import SimpleFolder

H, W, T = 24, 40, 14
WORDS = "the mug"


def at(x: int, side: int = 8) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[8 : 8 + side, x : x + side] = side > 0
    return mask


GONE = at(0, 0)


@dataclass
class World:
    """What words and memory say of a clip whose mug goes right and is hidden on frames 5 to 8.

    Attributes:
        first, second: answers that differ from the truth, by frame.
    """

    first: dict[int, np.ndarray] = field(default_factory=dict)
    second: dict[int, np.ndarray] = field(default_factory=dict)

    def truth(self, t: int) -> np.ndarray:
        return GONE if 5 <= t <= 8 else at(t)

    def look(self, t: int) -> DoubleLook:
        first = self.first.get(t, self.truth(t))
        return DoubleLook(first, self.second.get(t, first))

    def memory(self, drawn: Mapping[int, np.ndarray], order: Iterable[int]) -> dict[int, Masks]:
        """Follows what it was shown until that is hidden."""
        out: dict[int, Masks] = {}
        shown: int | None = None  # how far right of the mug it is
        for t in order:
            out[t] = {}
            if t in drawn:
                columns = np.flatnonzero(drawn[t].any(0))
                shown = int(columns[0]) - t if len(columns) else None
            elif shown is not None:
                hidden = not self.truth(t).any()
                out[t][1] = None if hidden else at(t + shown)
                shown = None if hidden else shown
        return out


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    frames: list[int] = []

    def carry(
        _: Any,
        __: Clip,
        drawn: Mapping[int, np.ndarray],
        order: Iterable[int],
        ___: Callable[[], None],
    ) -> dict[int, Masks]:
        return made.memory(drawn, order)

    def look_twice(_: Any, rgb: np.ndarray, words: Sequence[str]) -> list[DoubleLook]:
        frames.append(int(rgb[0, 0, 0]) // 16)  # the pictures say which frame they are
        return [made.look(frames[-1]) for _ in words]

    monkeypatch.setattr(label, "carry", carry)
    monkeypatch.setattr(label, "look_twice", look_twice)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with FolderWriter(tmp_path / "data", quality=0) as writer:
        frames = [np.full((H, W, 3), 16 * t + 4, np.uint8) for t in range(T)]
        writer.add_clip("run", frames, [None] * T, {})
    return tmp_path / "data"


def drafts(folder: Path, every: int = 2) -> tuple[label.Drafted, dict[str, Any]]:
    (done,) = label.label_folder(None, folder, [WORDS], every=every)  # type: ignore[arg-type]
    return done, json.loads((folder / "annotations.jsonl").read_text())


def masks_of(folder: Path) -> list[np.ndarray | None]:
    ((_, sample, found),) = SimpleFolder(folder).marked()
    (target,) = found.values()
    shown = target.read(*sample.size())
    return [shown[t] if t in target.annotated else None for t in range(T)]


def test_what_all_three_say_is_kept_and_the_rest_filled_in(world: World, folder: Path) -> None:
    done, record = drafts(folder)
    assert (done.looked, done.kept, done.open, done.number) == (7, 7, (), "1")
    assert record["expressions"] == [{"text": WORDS, "objects": ["1"]}]
    assert record["notes"]["drafts"] == {
        "1": ["00000", "00002", "00004", "00006", "00008", "00010", "00012"]
    }
    masks = masks_of(folder)
    known = [t for t, mask in enumerate(masks) if mask is not None]
    assert known == [
        0,
        1,
        2,
        3,
        4,
        6,
        8,
        10,
        11,
        12,
        13,
    ]  # what lies between seen and hidden nobody knows
    assert all(np.array_equal(masks[t], world.truth(t)) for t in known)
    assert done.filled == 4
    assert (folder / "label" / "open.jsonl").read_text() == ""
    assert main(["data", "check", str(folder)]) == 0


def test_each_of_the_three_can_leave_a_frame_open(world: World, folder: Path) -> None:
    world.second = {2: at(20)}
    world.first = {4: at(20), 10: GONE}
    done, _ = drafts(folder, every=1)
    reasons = {one.file.stem: one.reason for one in done.open}
    assert reasons == {
        "00002": "a second look says something else",
        "00004": "memory is elsewhere",
        "00010": "words deny it, memory sees it",
    }
    lines = [
        json.loads(line) for line in (folder / "label" / "open.jsonl").read_text().splitlines()
    ]
    assert {line["file"] for line in lines} == {f"images/run/{stem}.png" for stem in reasons}
    assert all((folder / "label" / line["picture"]).is_file() for line in lines)
    masks = masks_of(folder)
    assert np.array_equal(masks[2], at(2))  # filled in from both sides, where both agree


def test_most_of_what_memory_reaches_has_to_confirm(world: World, folder: Path) -> None:
    world.first = {t: at((11 * t) % 31) for t in range(T)}  # words see something else each time
    done, record = drafts(folder)
    assert (done.kept, done.number) == (0, "1")
    assert record["objects"] == {
        "1": {"name": WORDS, "masks": [None] * T}
    }  # nothing is denied either
    assert len(done.open) == 7


def test_what_is_never_found_is_one_line_and_no_denial(world: World, folder: Path) -> None:
    world.first = dict.fromkeys(range(T), GONE)
    done, record = drafts(folder)
    assert [one.reason for one in done.open] == ["not found in the whole clip"]
    assert not record.get("objects")
    assert not record.get("expressions")


def test_what_people_drew_is_believed_and_kept(world: World, folder: Path) -> None:
    world.first = dict.fromkeys(range(T), GONE) | {0: at(0), 4: at(20)}
    done, _ = drafts(folder)
    assert (done.kept, done.number) == (0, "1")  # who is to draw has to know a number
    mine = at(4, 9)
    file = folder / "masks" / "run" / "00004.png"
    file.parent.mkdir(parents=True)
    cv2.imwrite(str(file), mine.astype(np.uint8))
    before = file.read_bytes()
    done, record = drafts(folder)
    assert file.read_bytes() == before
    assert record["notes"]["drawn"] == ["00004"]
    assert np.array_equal(masks_of(folder)[4], mine)
    assert record["notes"]["drafts"]["1"] == ["00000", "00006", "00008", "00010", "00012"]
    assert not any(one.file.stem == "00004" for one in done.open)


def test_masks_from_elsewhere_are_left_as_they_are(world: World, folder: Path) -> None:
    record = json.loads((folder / "annotations.jsonl").read_text())
    record["objects"] = {"3": {"name": WORDS, "masks": [None] * T}}
    (folder / "annotations.jsonl").write_text(json.dumps(record) + "\n")
    assert label.label_folder(None, folder, [WORDS], every=2) == []  # type: ignore[arg-type]
    assert json.loads((folder / "annotations.jsonl").read_text()) == record


def test_the_second_view_keeps_what_was_found() -> None:
    mask = np.zeros((80, 160), bool)
    mask[30:60, 2:40] = True
    rows, columns = second_window(mask)
    assert (rows, columns) == (slice(10, 70), slice(2, 140))
    assert mask[rows, columns].sum() == mask.sum()
    assert second_window(GONE) == (slice(0, H), slice(0, W))


def test_wrong_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "label", str(folder)]) == 2
    assert "such as -e" in capsys.readouterr().err
    assert main(["data", "label", str(folder), "-e", WORDS, "--clip", "images/x"]) == 2
    assert "has no clip 'images/x'" in capsys.readouterr().err
