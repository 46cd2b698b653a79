# SPDX-License-Identifier: Apache-2.0
"""What is kept for measuring: whole recordings where there are five or more, else the end of each.

Neighbouring frames are nearly one picture. A frame that is measured on must not stand between two that are trained on,
so pictures of one recording (a clip, or the running frames of one camera) are cut at one place or not at all.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.frames import natural_key
from sa2va_model.io.json_files import read_json
from sa2va_training.data.sample import Dataset, Sample

HELD_OUT = "held_out.json"
RECORDINGS = 5
"""From so many recordings on some are held out whole."""


class Subset:
    """Some samples of a dataset, and of some clips only some frames.

    Args:
        places: index of each sample, and which of its frames (None = all).
    """

    def __init__(
        self, dataset: Dataset, places: Sequence[tuple[int, tuple[int, ...] | None]]
    ) -> None:
        self.name = dataset.name
        self._dataset, self._places = dataset, tuple(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        place, frames = self._places[index]
        sample = self._dataset[place]
        return sample if frames is None else sample.with_frames(frames)


@dataclass(frozen=True)
class Division:
    """A dataset in two parts.

    Attributes:
        held: None where there is too little to hold anything out.
        pictures: names of the pictures that are held out.
    """

    train: Dataset
    held: Dataset | None
    pictures: frozenset[str]


def divide(dataset: Dataset, share: float) -> Division:
    """Cut a dataset into what is trained on and what is measured.

    Args:
        share: of the recordings, or of each recording's annotated pictures, that is held out; 0 = nothing.
    """
    if share <= 0:
        return Division(dataset, None, frozenset())
    chosen = _chosen(_recordings(dataset), share)
    kept: list[tuple[int, tuple[int, ...] | None]] = []
    held: list[tuple[int, tuple[int, ...] | None]] = []
    for index in range(len(dataset)):
        names = picture_names(dataset[index])
        inside = [t for t, name in enumerate(names) if name in chosen]
        if len(inside) in (0, len(names)):
            (held if inside else kept).append((index, None))
            continue
        # Of a clip whose end is held out, nothing after the cut is trained on.
        held.append((index, tuple(inside)))
        kept.append((index, tuple(range(inside[0]))))
    if not kept or not held:
        return Division(dataset, None, frozenset())
    return Division(Subset(dataset, kept), Subset(dataset, held), chosen)


def among(dataset: Dataset, pictures: Collection[str]) -> Dataset:
    """The samples of a dataset that show some pictures, and of clips only those frames.

    Raises:
        InputError: there are none.
    """
    places: list[tuple[int, tuple[int, ...] | None]] = []
    for index in range(len(dataset)):
        names = picture_names(dataset[index])
        inside = [t for t, name in enumerate(names) if name in pictures]
        if inside:
            places.append((index, None if len(inside) == len(names) else tuple(inside)))
    if not places:
        raise InputError(f"{dataset.name}: has none of the pictures that were held out")
    return Subset(dataset, places)


def all_pictures(dataset: Dataset) -> frozenset[str]:
    """Names of all pictures of a dataset."""
    return frozenset(n for i in range(len(dataset)) for n in picture_names(dataset[i]))


def picture_names(sample: Sample) -> list[str]:
    """One name for each frame; a sample without pictures is its own."""
    return [picture.name for picture in sample.frames] or [sample.id]


def recording_of(sample: Sample) -> str:
    """Which recording a sample is of: its own word for it, its clip, or the one picture that it is."""
    if sample.recording or not sample.frames:
        return sample.recording or sample.id
    name = sample.frames[0].name
    if not sample.clip:
        return name
    path, number, _ = name.partition("#")  # a frame of a video file
    return path if number else str(Path(path).parent)


def _recordings(dataset: Dataset) -> dict[str, list[str]]:
    """The annotated pictures of each recording, in order."""
    found: dict[str, dict[str, None]] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        names = picture_names(sample)
        known = [n for t, n in enumerate(names) if not sample.clip or annotated(sample, t)]
        found.setdefault(recording_of(sample), {}).update(dict.fromkeys(known))
    return {key: sorted(names, key=natural_key) for key, names in found.items() if names}


def annotated(sample: Sample, frame: int) -> bool:
    """Whether anything is known about a frame."""
    targets = (*sample.targets, *(r.target for r in sample.referrings if r.target))
    return not targets or any(target.masks[frame] is not None for target in targets)


def _chosen(recordings: Mapping[str, Sequence[str]], share: float) -> frozenset[str]:
    """The pictures that are held out."""
    if len(recordings) < RECORDINGS and any(len(names) > 1 for names in recordings.values()):
        ends = (
            names[-min(max(1, round(share * len(names))), len(names) - 1) :]
            for names in recordings.values()
            if len(names) > 1
        )
        return frozenset(name for names in ends for name in names)
    # Which ones is a matter of their names alone, wherever the folder lies.
    order = sorted(recordings, key=_number)
    count = min(max(1, round(share * len(order))), len(order) - 1)
    return frozenset(name for key in order[:count] for name in recordings[key])


def _number(recording: str) -> int:
    return zlib.crc32("/".join(Path(recording).parts[-2:]).encode())


def save_held_out(file: Path, parts: Iterable[tuple[str, Path, Iterable[str]]]) -> None:
    """Write which pictures were held out.

    Args:
        parts: name and root of each dataset, and the names of its pictures.
    """
    values = {
        name: {
            "root": str(root.resolve()),
            "pictures": sorted(_relative(p, root) for p in pictures),
        }
        for name, root, pictures in parts
    }
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read_held_out(run: Path, name: str, root: Path) -> frozenset[str]:
    """Which pictures of a dataset a run has held out.

    Args:
        run: its folder.
        name, root: of the dataset.

    Raises:
        InputError: the run has no such list, or none for this dataset.
    """
    file = run / HELD_OUT
    values: dict[str, Any] = read_json(file, dict)
    try:
        same = [v for v in values.values() if v["root"] == str(root.resolve())]
        found = same or [v for key, v in values.items() if key == name]
        pictures = [str(root / picture) for picture in found[0]["pictures"]] if found else []
    except (TypeError, KeyError) as error:
        raise InputError(f"{file}: expected the root and the pictures of each dataset") from error
    if not found:
        raise InputError(f"{file}: knows {', '.join(values)}; expected {name} among them")
    return frozenset(pictures)


def _relative(picture: str, root: Path) -> str:
    path = Path(picture)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else picture
