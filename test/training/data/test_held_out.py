# SPDX-License-Identifier: Apache-2.0
"""What is measured on is never a neighbour of what is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.held_out import (
    HELD_OUT,
    among,
    divide,
    picture_names,
    read_held_out,
    save_held_out,
)
from sa2va_training.data.readers.simple import SimpleFolder
from sa2va_training.data.sample import Dataset
from sa2va_training.data.sources import open_sources


def folder_of(root: Path, clips: Sequence[int], *, stills: bool = False) -> Path:
    """Clips of so many frames, each with one square that is always there."""
    rgb, labels = np.zeros((24, 24, 3), np.uint8), np.zeros((24, 24), np.uint8)
    labels[4:12, 4:12] = 1
    said = {"expressions": [{"text": "the square", "objects": ["1"]}]}
    with FolderWriter(root) as writer:
        for n, frames in enumerate(clips):
            if stills:
                for t in range(frames):
                    writer.add_image(f"run{n}/{t:05d}", rgb, labels, {1: "square"}, **said)
            else:
                writer.add_clip(f"run{n}", [rgb] * frames, [labels] * frames, {1: "square"}, **said)
    return root


def shown(dataset: Dataset | None) -> dict[str, set[int]]:
    """The frames of each recording that a dataset shows."""
    assert dataset is not None
    found: dict[str, set[int]] = {}
    for index in range(len(dataset)):
        for name in picture_names(dataset[index]):
            path = Path(name)
            found.setdefault(path.parent.name, set()).add(int(path.stem))
    return found


@pytest.mark.parametrize("stills", [True, False])
def test_of_few_recordings_the_end_of_each_is_held_out(tmp_path: Path, stills: bool) -> None:
    root = folder_of(tmp_path, [20, 10], stills=stills)
    division = divide(SimpleFolder(root), 0.2)
    assert shown(division.held) == {"run0": {16, 17, 18, 19}, "run1": {8, 9}}
    assert shown(division.train) == {"run0": set(range(16)), "run1": set(range(8))}


@pytest.mark.parametrize("stills", [True, False])
def test_of_five_recordings_on_whole_ones_are_held_out(tmp_path: Path, stills: bool) -> None:
    root = folder_of(tmp_path, [4] * 6, stills=stills)
    division = divide(SimpleFolder(root), 0.3)
    held, kept = shown(division.held), shown(division.train)
    assert len(held) == 2
    assert len(kept) == 4
    assert not set(held) & set(kept)
    assert all(frames == set(range(4)) for frames in (*held.values(), *kept.values()))


@pytest.mark.parametrize("stills", [True, False])
def test_clips_have_something_to_measure(tmp_path: Path, stills: bool) -> None:
    """The first frame of every recording is called 00000.jpg; that must not make all of them one."""
    (source,) = open_sources(str(folder_of(tmp_path, [6] * 10)), held_out=0.1, stills=stills)
    assert source.validation is not None
    assert len(source.validation) == 6  # one recording, frame by frame
    assert len(source.train) == (54 if stills else 9)
    assert not set(shown(source.train)) & set(shown(source.validation))


def test_pictures_without_a_recording_stand_alone(tmp_path: Path) -> None:
    rgb, labels = np.zeros((24, 24, 3), np.uint8), np.ones((24, 24), np.uint8)
    said = {"expressions": [{"text": "it", "objects": ["1"]}]}
    with FolderWriter(tmp_path) as writer:
        for n in range(20):
            writer.add_image(f"mug_{n}", rgb, labels, {1: "mug"}, **said)
        writer.add_image("one", rgb, labels, {1: "mug"}, **said, recording="r")
        writer.add_image("other", rgb, labels, {1: "mug"}, **said, recording="r")
    division = divide(SimpleFolder(tmp_path), 0.1)
    assert division.held is not None
    assert len(division.pictures) >= 2
    assert len(division.held) + len(division.train) == 22
    ends = {Path(p).stem for p in division.pictures} & {"one", "other"}
    assert len(ends) in (0, 2)


def test_the_list_is_kept_and_found_again(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", [10])
    (source,) = open_sources(str(root), held_out=0.2, stills=False)
    save_held_out(tmp_path / HELD_OUT, [(source.name, source.root, source.held)])
    pictures = read_held_out(tmp_path, source.name, root)
    assert shown(among(SimpleFolder(root), pictures)) == {"run0": {8, 9}}
    with pytest.raises(InputError, match="expected other among them"):
        read_held_out(tmp_path, "other", tmp_path)


def test_a_list_of_datasets_and_repeats(tmp_path: Path) -> None:
    one, two = folder_of(tmp_path / "2026-11-27", [3]), folder_of(tmp_path / "b", [2])
    file = tmp_path / "all.yaml"
    file.write_text("- 2026-11-27\n- {root: b, repeats: 4}\n")
    sources = open_sources(str(file), held_out=0.0, stills=True)
    assert [(s.name, s.repeats, len(s.train)) for s in sources] == [
        (one.name, 1.0, 3),
        (two.name, 4.0, 2),
    ]
