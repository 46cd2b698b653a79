# SPDX-License-Identifier: Apache-2.0
"""What was seen of the tracks lately, so that one of them can be saved as an example after it went out of sight."""

from __future__ import annotations

from sa2va_model.io.frames import Frame
from sa2va_model.regions import Region
from sa2va_model.tracking.by_example.example import MAX_VIEWS, ObjectView
from sa2va_model.tracks import Track, TrackState

PERIOD = 1.0  # seconds of the frames' stamps between two views of one track
SURE = 0.5  # score of a mask that is worth keeping, at least


class SeenViews:
    """A few views of each track: the first, and the newest ones, some time apart. Frames are kept, not copied."""

    def __init__(self) -> None:
        self._views: dict[str, list[tuple[float, ObjectView]]] = {}

    def update(self, frame: Frame, tracks: tuple[Track, ...]) -> None:
        """Take one frame; tracks that are no longer there are forgotten."""
        for gone in self._views.keys() - {track.id for track in tracks}:
            del self._views[gone]
        for track in tracks:
            if track.state != TrackState.TRACKING or track.mask is None or track.score < SURE:
                continue
            views = self._views.setdefault(track.id, [])
            if views and frame.stamp < views[-1][0] + PERIOD:
                continue
            views.append((frame.stamp, ObjectView(frame.rgb, Region(mask=track.mask))))
            if len(views) > MAX_VIEWS:
                del views[1]

    def of(self, track_id: str) -> tuple[ObjectView, ...]:
        """Return the views of a track, the newest last; none if it was never seen well."""
        kept = tuple(self._views.get(track_id, ()))  # whole, whatever the frames' thread does
        return tuple(view for _, view in kept)

    def clear(self) -> None:
        """Forget all."""
        self._views.clear()
