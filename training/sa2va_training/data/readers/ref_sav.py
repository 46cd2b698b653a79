# SPDX-License-Identifier: Apache-2.0
"""Ref-SAV, the paper's own training set: captions of objects in SA-V videos, with SA-V's masklets.

`Ref-SAV.json` names a video, its annotation file and, per object, a long caption (and short ones). A masklet file holds
RLEs for every fourth frame of the video (6 of 24 a second): `masklet[frame][object]`.
"""

from __future__ import annotations

import re
from pathlib import Path

from sa2va_model.errors import InputError
from sa2va_training.data.masks import CodedMask, EmptyMask
from sa2va_training.data.pictures import VideoFrame
from sa2va_training.data.readers.records import Record, Records, read_json_object
from sa2va_training.data.sample import Dataset, ObjectMasks, Referring, Sample

STRIDE = 4


def open_ref_sav(
    root: Path,
    name: str,
    *,
    annotations: str = "Ref-SAV.json",
    videos: str = "sam_v_full",
    captions: str = "long",
) -> Dataset:
    """Opens Ref-SAV.

    Args:
        annotations: the captions, below `root`.
        videos: folder of SA-V, below `root`; the paths in the captions file start from it.
        captions: "long", "short" or "both".
    """
    if captions not in ("long", "short", "both"):
        raise InputError(f"{name}: captions is {captions!r}, expected long, short or both")
    path = root / annotations
    whole = read_json_object(path)
    order = sorted(whole.data)

    def build(index: int) -> Sample:
        record = whole.record(order[index])
        video = _place(root / videos, record, "video_path")
        masklets = Masklets(_place(root / videos, record, "anno_path"))
        found = []
        objects = record.record("objects")
        for key in sorted(objects.data, key=lambda k: (len(k), k)):
            entry = objects.record(key)
            for i, (text, kind) in enumerate(_captions(entry, captions)):
                target = masklets.target(key, entry.where)
                found.append(Referring(text, target, kind, f"{key}.{i}"))
        return Sample(
            name,
            record.where,
            order[index],
            tuple(VideoFrame(video, i * STRIDE, masklets.size) for i in range(masklets.frames)),
            clip=True,
            referrings=tuple(found),
        )

    return Records(name, len(order), build)


class Masklets:
    """One SA-V annotation file, manual or automatic.

    Attributes:
        frames: number of annotated frames.
        size: (H, W) of the video.
        ids: number of masklets.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            InputError: missing fields, or not the number of masks that the video's length asks for.
        """
        record = read_json_object(path)
        self._path = path
        self._masks = record.entries("masklet")
        self.frames = len(self._masks)
        self.size = (
            _whole(record, "video_height"),
            _whole(record, "video_width"),
        )
        self.ids = len(record.entries("masklet_id"))
        expected = -(-_whole(record, "video_frame_count") // STRIDE)
        if self.frames != expected:
            raise InputError(
                f"{path}: 'masklet' has {self.frames} frames, expected {expected} for a video of "
                f"{_whole(record, 'video_frame_count')} frames with a mask for every fourth"
            )

    def target(self, key: str, where: str) -> ObjectMasks:
        """The masks of one object: its place in the inner lists."""
        if not key.isdigit() or int(key) >= self.ids:
            raise InputError(
                f"{where}: object '{key}' is not in {self._path}, expected a number below {self.ids}"
            )
        number = int(key)
        masks = []
        for t, row in enumerate(self._masks):
            if not isinstance(row, list) or number >= len(row):
                raise InputError(f"{self._path}: masklet [{t}] has no object {number}")
            coded = row[number]
            empty = coded is None
            masks.append(
                EmptyMask() if empty else CodedMask(coded, f"{self._path}: masklet [{t}][{number}]")
            )
        return ObjectMasks(tuple(masks))


def _whole(record: Record, key: str) -> int:
    """A number that SA-V writes as 848 or as 848.0."""
    value = record.raw(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise InputError(f"{record.where}: field '{key}' is {value!r}, expected a whole number")
    return int(value)


def _place(root: Path, record: Record, key: str) -> Path:
    """A path of the captions file; some hold a doubled part (`sav_000/sav_train/sav_000/…`)."""
    path = root / record.text(key)
    if path.is_file():
        return path
    shorter = re.sub(r"(sav_\d+)/sav_train/\1/", r"\1/", record.text(key))
    for candidate in (root / shorter, root / "sav_train" / shorter, root / Path(shorter).name):
        if candidate.is_file():
            return candidate
    raise InputError(f"{record.where}: {key} '{record.text(key)}' is no file below {root}")


def _captions(entry: Record, which: str) -> list[tuple[str, str]]:
    """(text, kind) of an object."""
    found = []
    if which in ("long", "both"):
        found.append((entry.text("formated"), "long"))  # the published spelling
    if which in ("short", "both") and ("short_caps" in entry or which == "short"):
        found += [(text, "short") for text in entry.texts("short_caps")]
    return found
