# SPDX-License-Identifier: Apache-2.0
"""The tracks that a robot recorded, to be measured in place of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_training.evaluation.recorded import RecordedTracks, Recording


def recorded_tracks(bags: Mapping[str, Path], folder: Path, topic: str = "") -> RecordedTracks:
    """What the tracker published in recordings.

    Args:
        bags: by name of the recording; `folder`: what was made of them (`folder_of_bags`).
        topic: of the tracks; "" = the only one there is. Label images are on `mask` beside it.

    Raises:
        InputError: no bags, or one without tracks or masks.
    """
    from sa2va_training.evaluation.recorded import RecordedTracks

    if not bags:
        raise InputError(
            "tracking is 'recorded', which measures what a robot recorded; expected rosbag2 with tracks and truth"
        )
    return RecordedTracks(folder, {name: _read(bag, topic) for name, bag in bags.items()})


def _read(bag: Path, topic: str) -> Recording:
    from sa2va_ros.bags.bag import IMAGE, TRACKS, read_messages, topics_of
    from sa2va_training.evaluation.recorded import read_recording

    types = topics_of(bag)
    found = [name for name, kind in types.items() if kind == TRACKS]
    if topic:
        name = topic if topic in types else "/" + topic.lstrip("/")
        found = [one for one in found if one == name]
    if len(found) != 1:
        there = (
            f"{' and '.join(found)} are tracks" if found else f"has no topic {topic or 'tracks'}"
        )
        raise InputError(f"{bag}: {there} of type {TRACKS}; expected one (tracks=TOPIC names it)")
    mask = f"{found[0].rpartition('/')[0]}/mask"
    masks = read_messages(bag, mask) if types.get(mask) == IMAGE else iter(())
    read = read_recording((m for _, m in read_messages(bag, found[0])), (m for _, m in masks))
    marked = [i for i in read.values() if any(track.mask_value for track in i.tracks)]
    if marked and not any(
        i.labels is not None or any(len(t.mask_png.data) for t in i.tracks) for i in marked
    ):
        raise InputError(
            f"{bag}: {found[0]} has no masks; expected {mask} beside it, or masks in tracks (publish_masks_in_tracks)"
        )
    return read
