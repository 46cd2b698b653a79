# SPDX-License-Identifier: Apache-2.0
"""What a robot saw while it worked becomes drafts: `tracks`, `mask` and the corrections in `prompt` of a bag.

A clip that `sa2va data from-bag` made knows the stamps of its images, and tracks carry the stamp of the image they are
of. A track that was seen and sure of itself gives its mask; everything else stays open, because a robot that sees
nothing does not know that nothing is there. Where a person corrected a track by a drawn mask that mask is taken, and
what the track showed shortly before is not: it is what was wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.data.clip_masks import Clip, read_records, write_records
from sa2va_training.data.masks import encode_mask

SCORE = 0.5
"""Of a track, below which its mask is not believed."""
DOUBT = 1.0
"""Seconds before a correction in which a track's masks are not believed."""
TRACKING = 1  # Track.STATE_TRACKING
MASK = 2  # VisualPrompt.MASK

Messages = Mapping[str, Iterator[tuple[int, Any]]]


@dataclass(frozen=True)
class SeenTrack:
    """One track on one image.

    Attributes:
        mask: bool [H, W].
    """

    track: str
    name: str
    mask: np.ndarray


@dataclass(frozen=True)
class Harvested:
    """What a clip got: objects and masks, and how many images had tracks at all."""

    clip: str
    objects: int
    masks: int
    matched: int


def harvest(root: Path, seen: Mapping[int, list[SeenTrack]]) -> list[Harvested]:
    """Puts what was seen into the clips of a simple folder; masks that are there stay.

    Args:
        seen: by the image's stamp in nanoseconds, as `collected` gives it.

    Raises:
        InputError: no image of the folder has one of the stamps, or a mask has another size than its image.
    """
    records = read_records(root)
    done = []
    for number, record in enumerate(records):
        stamps = (record.get("notes") or {}).get("nanoseconds", ())
        places = {int(stamp): t for t, stamp in enumerate(stamps) if int(stamp) in seen}
        if "clip" not in record or not places:
            continue
        clip = Clip(root, record, number)
        found = {t: seen[stamp] for stamp, t in places.items()}
        objects, masks = _put(clip, found)
        done.append(Harvested(clip.name, objects, masks, len(found)))
    if not done:
        raise InputError(
            f"{root}: no image has the stamp of a track; expected clips of `sa2va data from-bag` and tracks of the "
            "same recording"
        )
    write_records(root, records)
    return done


def _put(clip: Clip, found: Mapping[int, list[SeenTrack]]) -> tuple[int, int]:
    """Masks of one clip into its record; new objects and masks."""
    record, count = clip.record, len(clip.files)
    objects = record.setdefault("objects", {})
    used = [int(n) for n in objects if n.isdigit()]
    used += [int(v) for labels in clip.drawn().values() for v in np.unique(labels)]
    tracks = dict.fromkeys((one.track, one.name) for shown in found.values() for one in shown)
    size = clip.read(0).shape[:2]
    added = 0
    for track, name in tracks:
        number = str(max(used, default=0) + 1)
        masks: list[Any] = [None] * count
        for t, shown in found.items():
            for one in shown:
                if one.track != track:
                    continue
                if one.mask.shape != size:
                    height, width = one.mask.shape
                    raise InputError(
                        f"{clip.files[t]}: the mask of track {track} is {width}x{height}; expected {size[1]}x{size[0]}"
                    )
                masks[t] = encode_mask(one.mask)
        used.append(int(number))
        added += sum(mask is not None for mask in masks)
        objects[number] = {"name": name, "masks": masks} if name else {"masks": masks}
        if name:
            record.setdefault("expressions", []).append({"text": name, "objects": [number]})
        notes = record.setdefault("notes", {})
        stems = [clip.files[t].stem for t, mask in enumerate(masks) if mask is not None]
        notes.setdefault("drafts", {})[number] = stems
    return len(tracks), added


def collected(messages: Messages) -> dict[int, list[SeenTrack]]:
    """What tracks saw, by the stamp of the image in nanoseconds.

    Args:
        messages: of the topics `tracks` and `mask`, and of `prompt` where it was recorded; with the time of recording.

    Raises:
        InputError: a label image is not mono8.
    """
    corrected: dict[str, dict[int, np.ndarray | None]] = {}
    for _, prompt in messages.get("prompt", iter(())):
        if prompt.track_id and (stamp := _stamp(prompt.header.stamp)):
            given = _pixels(prompt.mask) > 0 if prompt.type == MASK else None
            corrected.setdefault(prompt.track_id, {})[stamp] = given
    labels = {_stamp(image.header.stamp): image for _, image in messages["mask"]}
    out: dict[int, list[SeenTrack]] = {}
    for _, array in messages["tracks"]:
        stamp = _stamp(array.header.stamp)
        image = labels.get(stamp)
        if image is None:
            continue
        values = _pixels(image)
        shown = out.setdefault(stamp, [])
        for track in array.tracks:
            name = track.expression or track.label
            corrections = corrected.get(track.id, {})
            drawn = corrections.get(stamp)
            if drawn is not None:
                shown.append(SeenTrack(track.id, name, drawn))
            elif _believed(track, stamp, corrections):
                shown.append(SeenTrack(track.id, name, values == track.mask_value))
    return out


def _believed(track: Any, stamp: int, corrections: Mapping[int, Any]) -> bool:
    """Whether a track's own mask is taken."""
    doubted = any(0 <= later - stamp <= DOUBT * 1e9 for later in corrections)
    sure = track.state == TRACKING and track.mask_value and track.score >= SCORE
    return bool(sure) and not doubted


def _stamp(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def _pixels(image: Any) -> np.ndarray:
    """A mono8 image as uint8 [H, W]."""
    if image.encoding not in ("mono8", "8UC1"):
        raise InputError(f"mask: encoding is {image.encoding!r}; expected mono8")
    rows = np.frombuffer(bytes(image.data), np.uint8).reshape(image.height, image.step)
    return rows[:, : image.width]
