# SPDX-License-Identifier: Apache-2.0
"""Looks in the stream for what an example shows: the things on a frame, each compared with the example's look.

As long as it is not found the track is LOST, which is searched for with growing pauses, and has no mask. What is found
is prompted on that frame; the example's own pictures are conditioning frames of its memory before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import ImageFeatures, Prompt
from sa2va_model.tracking.by_example.example import ObjectExample
from sa2va_model.tracking.by_example.likeness import Likeness
from sa2va_model.tracking.config import LiveConfig
from sa2va_model.tracking.frame_ring import RingFrame
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.track_record import TrackRecord
from sa2va_model.tracking.track_table import TrackTable
from sa2va_model.tracking.visibility_test import VisibilityTest
from sa2va_model.tracks import EventKind, Reason

Begin = Callable[[TrackRecord, float, Frame, str], None]


@dataclass
class _Sought:
    """What is looked for on behalf of a track.

    Attributes:
        shown: features and mask of each view, once they were needed.
        look_at: stamp of the next look; `pause`: seconds behind it.
    """

    example: ObjectExample
    shown: list[tuple[ImageFeatures, Tensor]] | None = None
    look: Tensor | None = None
    look_at: float = float("-inf")
    pause: float = 0.0


class ExampleSearch:
    """Looks for examples, from the thread of the frames.

    Args:
        begin: begins the life of a track that was prompted.
    """

    def __init__(
        self,
        config: LiveConfig,
        table: TrackTable,
        *,
        vision: Vision,
        tracker: OnlineTracker,
        visibility: VisibilityTest,
        begin: Begin,
    ) -> None:
        self._config, self._table, self._begin = config, table, begin
        self._vision, self._tracker, self._visibility = vision, tracker, visibility
        self._likeness = Likeness(vision)
        self._sought: dict[str, _Sought] = {}

    def reconfigure(self, config: LiveConfig) -> None:
        """Use other periods from now on."""
        self._config = config

    def start(self, name: str, example: ObjectExample, frame: Frame) -> None:
        """Look for an example from this frame on; a track of that name looks for this one now."""
        record = self._table.get(name)
        record = record or self._table.add(name, example.name, frame, from_text=False)
        if record is not None:
            self._sought[name] = _Sought(example)

    def forget(self, name: str | None = None) -> None:
        """Look no more for one, or all."""
        for each in [key for key in self._sought if name in (None, key)]:
            del self._sought[each]

    def look_due(self, newest: RingFrame) -> None:
        """Look for what is not in view where the time has come, before the frame is stepped."""
        for name, sought in list(self._sought.items()):
            record = self._table.get(name)
            if record is None or record.ended:
                self.forget(name)
            elif newest.frame.stamp >= sought.look_at and (record.life is None or record.lost):
                try:
                    self._look(record, sought, newest)
                except Exception as error:  # noqa: BLE001  the track fails, whatever it is; the others live on
                    why = f"{type(error).__name__}: {error}"
                    self._table.fail(record, newest.frame, Reason.MODEL, why)
                    self.forget(name)

    def _look(self, record: TrackRecord, sought: _Sought, newest: RingFrame) -> None:
        frame, config = newest.frame, self._config
        shown = sought.shown = sought.shown or self._views(sought.example)
        if sought.look is None:
            sought.look = self._likeness.of_views(shown)
        mask = self._likeness.find(sought.look, newest.features)
        if mask is None:
            sought.pause = min(max(sought.pause * 1.5, config.search_period), config.search_limit)
            sought.look_at = frame.stamp + sought.pause
            if record.searched_for(frame.stamp):
                why = "nothing here looks like the example; it is searched for"
                self._table.tell(EventKind.LOST, record, frame, Reason.ABSENT, why)
            return
        sought.pause = 0.0
        if record.life is None:
            self._remember(record.id, shown)
        self._tracker.add(record.id, Prompt(mask=mask))
        record.grounded(None, frame.stamp)
        self._begin(record, frame.stamp, frame, sought.example.name)
        record.returning(Reason.EXAMPLE)

    def _views(self, example: ObjectExample) -> list[tuple[ImageFeatures, Tensor]]:
        """Features of the example's pictures, and the object's mask on each, bool [H, W]."""
        out = []
        for view in example.views:
            features = self._vision.encode(view.rgb)
            prompt = view.region.prompt(view.rgb.shape)
            mask = prompt.mask
            if mask is None:
                decoded = self._vision.decode(prompt, features)
                height, width = view.rgb.shape[:2]
                mask = torch.from_numpy(self._visibility.masks([decoded.logits], height, width)[0])
            out.append((features, mask))
        return out

    def _remember(self, name: str, shown: list[tuple[ImageFeatures, Tensor]]) -> None:
        """Make the example's pictures conditioning frames of the track's memory."""
        for features, mask in shown:
            self._tracker.add(name, Prompt(mask=mask))
            self._tracker.step(features, only=[name])
