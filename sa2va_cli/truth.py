# SPDX-License-Identifier: Apache-2.0
"""True masks to measure against: PNG files named by frame number, for any subset of the frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.frames import natural_key
from sa2va_model.io.pictures import decode_pixels
from sa2va_model.tracks import Track
from sa2va_training.metrics.jf import Scores


class Truth:
    """Scores tracks against a folder of masks: for the first track, or with one folder per track for each.

    Folders are named like the tracks; if none is, they belong to the tracks in the order of the command line.
    """

    def __init__(self, folder: Path | str) -> None:
        """Find the masks; InputError if there are none."""
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise InputError(
                f"--gt {folder}: no such folder, expected PNG masks named by frame number"
            )
        below = sorted(
            (entry for entry in self._folder.iterdir() if entry.is_dir()),
            key=lambda entry: natural_key(entry.name),
        )
        self._per_track = bool(below)
        self._masks = {entry.name: _numbered(entry) for entry in below} or {
            "": _numbered(self._folder)
        }
        self._names: dict[str, str] = {}  # track id -> folder name
        self._scores: dict[str, Scores] = {}

    def bind(self, track_ids: Sequence[str]) -> None:
        """Say which tracks there are, in the order of the command line."""
        if not self._per_track:
            self._names = {track_ids[0]: ""}
        elif any(name in track_ids for name in self._masks):
            self._names = {name: name for name in self._masks}
            if unknown := sorted(set(self._masks) - set(track_ids)):
                raise InputError(
                    f"--gt {self._folder}: folder '{unknown[0]}' is no track, "
                    f"expected some of: {', '.join(track_ids)}"
                )
        elif len(self._masks) > len(track_ids):
            raise InputError(
                f"--gt {self._folder}: {len(self._masks)} folders for {len(track_ids)} tracks, "
                "expected at most one for each"
            )
        else:
            self._names = dict(zip(track_ids, self._masks, strict=False))
        self._scores = {track: Scores() for track in self._names}

    def score(self, index: int, tracks: Sequence[Track], height: int, width: int) -> None:
        """Compare one frame with its true masks, if it has any; a track without a mask counts as empty.

        Args:
            index: frame number.
            tracks: all tracks of the frame; masks of another size (`--size`) are scaled to the truth's.
            height: of the input's frames, which the true masks must have.
            width: of the input's frames.
        """
        by_id = {track.id: track for track in tracks}
        for track_id, name in self._names.items():
            path = self._masks[name].get(index)
            if path is None:
                continue
            truth = read_mask(path)
            if truth.shape != (height, width):
                raise InputError(
                    f"{path}: is {truth.shape[1]}x{truth.shape[0]}, "
                    f"expected {width}x{height} like the frame"
                )
            track = by_id.get(track_id)
            mask = track.mask if track is not None else None
            self._scores[track_id].add(_at_size(mask, truth.shape), truth)

    def report(self) -> dict[str, object]:
        """J, F, J_and_F (of the one track, or the mean over tracks), and the scores of each track."""
        tracks = {}
        for track, scores in self._scores.items():
            mean = scores.mean()
            tracks[track] = {
                "J": mean.j,
                "F": mean.f,
                "J_and_F": mean.j_and_f,
                "gt_frames": len(scores),
                "gt_frames_missed": len(self._masks[self._names[track]]) - len(scores),
            }
        report: dict[str, object] = {
            key: float(np.mean([values[key] for values in tracks.values()])) if tracks else None
            for key in ("J", "F", "J_and_F")
        }
        return report | {"gt": tracks}


def _numbered(folder: Path) -> dict[int, Path]:
    """The PNG files of a folder by frame number: the last number in the name."""
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*.png")):
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            raise InputError(
                f"{path}: no number in the name, expected PNG masks named by frame number"
            )
        if other := found.get(int(numbers[-1])):
            raise InputError(
                f"{path}: same frame number as {other.name}, expected one mask a frame"
            )
        found[int(numbers[-1])] = path
    if not found:
        raise InputError(f"--gt {folder}: no .png file, expected masks named by frame number")
    return found


def read_mask(path: Path | str) -> np.ndarray:
    """A mask file as bool [H, W]: every pixel that is not black."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected a PNG mask") from error
    pixels = decode_pixels(data, str(path))
    return np.asarray(pixels.any(2) if pixels.ndim == 3 else pixels > 0)


def _at_size(mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if mask is None:
        return np.zeros(shape, bool)
    if mask.shape == shape:
        return mask
    scaled = cv2.resize(
        mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST
    )
    return scaled.astype(bool)
