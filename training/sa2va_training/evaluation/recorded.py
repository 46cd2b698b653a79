# SPDX-License-Identifier: Apache-2.0
"""What a robot marked while a recording was made, in place of a model: its topics `tracks` and `mask`.

Tracks carry the stamp of the image they are of. An expression is measured on the images whose tracks name it: before,
nobody had asked, and an image without tracks was not processed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.tracks import TrackState
from sa2va_training.data.clip_masks import Clip, read_records
from sa2va_training.data.sample import Dataset, Sample
from sa2va_training.evaluation.predictor import FollowedClip, Prediction

_ARTICLES = ("the ", "a ", "an ")


@dataclass(frozen=True)
class TrackedImage:
    """What was said of one image.

    Attributes:
        latency: seconds from the image's stamp to the answer.
        tracks: sa2va_ros/msg/Track.
        labels: the label image as PNG; None = it was not recorded.
    """

    latency: float
    tracks: Sequence[Any]
    labels: bytes | None

    def of(self, name: str) -> list[Any]:
        """The tracks that are called so."""
        alive = (track for track in self.tracks if track.state != TrackState.STOPPED)
        return [track for track in alive if plain(track.expression or track.label) == name]

    def mask(self, tracks: Sequence[Any], size: tuple[int, int]) -> np.ndarray | None:
        """What some of the tracks mark together, bool [H, W]; None = it was not recorded.

        Raises:
            InputError: the label image has another size.
        """
        out = np.zeros(size, bool)
        marking = [track for track in tracks if track.mask_value]
        if marking and self.labels is not None:
            labels = _decoded(self.labels)
            if labels.shape != size:
                raise InputError(
                    f"mask: is {labels.shape[1]}x{labels.shape[0]}; expected {size[1]}x{size[0]} as the image"
                )
            return np.isin(labels, [track.mask_value for track in marking])
        for track in marking:
            if not len(track.mask_png.data):
                return None
            cut = _decoded(bytes(track.mask_png.data)) > 0
            y, x = track.roi.y_offset, track.roi.x_offset
            out[y : y + cut.shape[0], x : x + cut.shape[1]] |= cut
        return out


Recording = Mapping[int, TrackedImage]
"""By the stamp of the image, nanoseconds."""


def read_recording(tracks: Iterable[Any], masks: Iterable[Any]) -> Recording:
    """What was said of a recording's images.

    Args:
        tracks: sa2va_ros/msg/TrackArray.
        masks: sensor_msgs/Image, mono8; may be none, if tracks have masks of their own.
    """
    labels = {_stamp(image): _packed(image) for image in masks}
    return {
        _stamp(array): TrackedImage(
            float(array.latency), tuple(array.tracks), labels.get(_stamp(array))
        )
        for array in tracks
    }


def plain(words: str) -> str:
    """Words without an article, a full stop or capitals: `the red mug` is the truth's `Red mug`."""
    text = " ".join(words.lower().split()).rstrip(".")
    return next((text[len(a) :] for a in _ARTICLES if text.startswith(a)), text)


class RecordedTracks:
    """Gives, for each sample of a folder that was made of recordings, what their robots marked.

    Args:
        root: the folder.
        recordings: by name, as `Sample.recording` has it.
    """

    def __init__(self, root: Path, recordings: Mapping[str, Recording]) -> None:
        self._recordings = recordings
        self._stamps: dict[str, int] = {}
        for number, record in enumerate(read_records(root)):
            stamps = (record.get("notes") or {}).get("nanoseconds", ())
            if "clip" in record:
                files = Clip(root, record, number).files
                self._stamps |= dict(zip(map(str, files), map(int, stamps), strict=False))

    def check(self, dataset: Dataset) -> None:
        """Refuse recordings in which nothing was asked that the truth knows.

        Raises:
            InputError: that; names what was asked and what is known.
        """
        known = {r.text for i in range(len(dataset)) for r in dataset[i].referrings}
        asked = {
            track.expression or track.label
            for recording in self._recordings.values()
            for image in recording.values()
            for track in image.tracks
        }
        if not {plain(words) for words in asked} & {plain(words) for words in known}:
            raise InputError(
                f"tracks: name {', '.join(sorted(asked)) or 'nothing'}; expected one of the truth's sentences: "
                f"{', '.join(sorted(known))}"
            )

    def __call__(self, sample: Sample) -> RecordedClip:
        """What was marked on one sample."""
        images = self._recordings.get(sample.recording, {})
        stamps = [self._stamps.get(picture.name) for picture in sample.frames]
        return RecordedClip([None if s is None else images.get(s) for s in stamps])


class RecordedClip:
    """A predictor that repeats what was recorded of one clip.

    Args:
        images: [T]; None = nothing was said of that frame.
    """

    def __init__(self, images: Sequence[TrackedImage | None]) -> None:
        self._images = images

    def follow_clip(
        self, frames: Sequence[np.ndarray], expressions: Sequence[str], stamps: Sequence[float]
    ) -> list[FollowedClip]:
        """See `Predictor`."""
        return [self._follow(frames, plain(text)) for text in expressions]

    def _follow(self, frames: Sequence[np.ndarray], name: str) -> FollowedClip:
        count, size = len(frames), frames[0].shape[:2]
        masks = np.zeros((count, *size), bool)
        known, tracking = np.zeros(count, bool), np.zeros(count, bool)
        steps = []
        for t, image in enumerate(self._images):
            tracks = [] if image is None else image.of(name)
            if image is None or not tracks:
                continue
            mask = image.mask(tracks, size)
            if mask is None:
                continue
            masks[t], known[t] = mask, True
            tracking[t] = any(track.state == TrackState.TRACKING for track in tracks)
            steps.append(image.latency)
        return FollowedClip(masks, tuple(steps), known, tracking)

    def refer_image(self, image: np.ndarray, expressions: Sequence[str]) -> list[np.ndarray]:
        """See `Predictor`."""
        raise _only_clips()

    def refer_clip(
        self, frames: Sequence[np.ndarray], expressions: Sequence[str]
    ) -> list[np.ndarray]:
        """See `Predictor`."""
        raise _only_clips()

    def answer(
        self, frames: Sequence[np.ndarray], question: str, regions: Sequence[np.ndarray] = ()
    ) -> Prediction:
        """See `Predictor`."""
        raise _only_clips()


def _only_clips() -> InputError:
    return InputError("tracking is 'recorded', which has masks on clips; expected recordings alone")


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def _packed(image: Any) -> bytes:
    """A mono8 image as PNG: those of minutes stay in memory."""
    if image.encoding not in ("mono8", "8UC1"):
        raise InputError(f"mask: encoding is {image.encoding!r}; expected mono8")
    rows = np.frombuffer(bytes(image.data), np.uint8).reshape(image.height, image.step)
    pixels = np.ascontiguousarray(rows[:, : image.width])
    return bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])


def _decoded(data: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if found is None:
        raise InputError("mask_png: cannot be read; expected PNG")
    return np.asarray(found)
