# SPDX-License-Identifier: Apache-2.0
"""Recordings with the truth that some bags hold, as `sa2va data from-bag` and `sa2va evaluate` take them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.inputs import open_input
from sa2va_model.errors import InputError
from sa2va_model.io.frames import looks_like_bag

if TYPE_CHECKING:
    from sa2va_model.io.frames import FrameSource
    from sa2va_training.data.recording import Known

CLIP_FRAMES = 600
"""Of a clip that is followed live: a minute at 10 Hz."""


def with_truth(path: str, topic: str | None, truth: str = "") -> tuple[FrameSource, Known | None]:
    """A recording, and the masks and words that come with it.

    Args:
        truth: topic of label images; "" = one that is called so.

    Raises:
        InputError: as `open_input`, or `truth` for what is no bag.
    """
    if not looks_like_bag(path):
        if truth:
            raise InputError(f"--truth {truth}: {path} is no rosbag2, expected one")
        return open_input(path, topic=topic), None
    from sa2va_ros.bags.truth import picture_topics, read_truth
    from sa2va_ros.messages.images import nanoseconds
    from sa2va_training.data.recording import Known

    known = read_truth(path, truth)
    if known is None:
        return open_input(path, topic=topic), None
    others = picture_topics(path, known.topic)
    chosen = topic or (others[0] if len(others) == 1 else None)

    def labels(frame: Any) -> Any:
        return known.at(nanoseconds(frame.header.stamp))

    return open_input(path, topic=chosen), Known(labels, known.names, known.sentences)


def bags_of(path: Path) -> list[Path]:
    """The bags that a path names: itself, or those in a folder that is none and no dataset."""
    if looks_like_bag(path):
        return [path]
    if not path.is_dir() or any(path.glob("annotations.json*")):
        return []
    return [entry for entry in sorted(path.iterdir()) if looks_like_bag(entry)]


def folder_of_bags(
    bags: Iterable[Path], folder: Path, *, topic: str | None, truth: str
) -> dict[str, Path]:
    """Bags with truth as one dataset folder, a clip or more of each; those that are in it already stay.

    Returns:
        The bags by the name of their recording.

    Raises:
        InputError: a bag cannot be read or has no truth.
    """
    from sa2va_training.data.recording import UNFINISHED, RecordingImport

    listed = list(bags)
    stems = [bag.stem for bag in listed]
    named = {
        stem if stems.count(stem) == 1 else f"{bag.parent.name}_{stem}": bag
        for bag, stem in zip(listed, stems, strict=True)
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".bags.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # shards wait for the first of them
        for name, bag in named.items():
            place = folder / "images" / name
            if place.is_dir() and not (place / UNFINISHED).exists():
                continue
            source, known = with_truth(str(bag), topic, truth)
            if known is None or not known.sentences:
                raise InputError(
                    f"{bag}: has no truth to measure against; expected label images on a topic `truth` "
                    "(or truth=TOPIC) and their names on `truth_names`"
                )
            run = RecordingImport(folder, name, source.name, known=known, clip_frames=CLIP_FRAMES)
            run.write(source, fps=None, limit=None)
            print(f"{bag}: {run.kept} frames, {len(known.sentences)} sentences")
    return named
