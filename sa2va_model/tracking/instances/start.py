# SPDX-License-Identifier: Apache-2.0
"""InstanceStart: prompts the memory of one of several alike, on the frame on which it was found."""

from __future__ import annotations

import torch

from sa2va_model.io.frames import Frame
from sa2va_model.segmentation.object_check import CheckedThing
from sa2va_model.segmentation.object_search import ALIKE, overlap
from sa2va_model.segmentation.types import Prompt
from sa2va_model.tracking.frame_ring import FrameRing, RingFrame
from sa2va_model.tracking.grounding_worker import GroundingQuestion
from sa2va_model.tracking.handover import Vision
from sa2va_model.tracking.judgement.visibility_test import VisibilityTest
from sa2va_model.tracking.replay import Replay
from sa2va_model.tracking.track_record import TrackRecord


class InstanceStart:
    """Lets tracks follow instances from the frame of a question on.

    Args:
        agreement: IoU of an embedding's mask with a thing from which on both mean the same.
    """

    def __init__(
        self,
        *,
        vision: Vision,
        visibility: VisibilityTest,
        ring: FrameRing,
        replay: Replay,
        agreement: float,
    ) -> None:
        self._vision, self._visibility = vision, visibility
        self._ring, self._replay, self._agreement = ring, replay, agreement

    def follow(
        self,
        record: TrackRecord,
        thing: CheckedThing,
        question: GroundingQuestion,
        original: RingFrame | None,
        frame: Frame,
    ) -> None:
        """Let a track follow a thing that was seen on the frame of a question, up to the newest one.

        Args:
            original: that frame, in case that it has left the ring.
        """
        asked_about = self._ring.at(question.frame_index)
        prompt = self.prompt(thing, asked_about or original)
        if asked_about is None and original is not None:
            self._replay.leap(record.id, prompt, original)
        else:
            self._replay.catch_up(record.id, prompt, question, frame.index)
        record.grounded(None, question.stamp)

    def prompt(self, thing: CheckedThing, seen: RingFrame | None) -> Prompt:
        """What begins the memory of a thing: what pointed at it if that shows it among the others, too, or its mask.

        Memory that begins with an embedding holds longer.
        """
        if thing.embedding is not None and seen is not None:
            decoded = self._vision.decode(thing.embedding, seen.features)
            [mask] = self._visibility.masks([decoded.logits], seen.frame.rgb)
            same = overlap(mask, thing.mask) >= ALIKE
            if same and self._visibility.passes(decoded):
                return Prompt(embedding=thing.embedding)
        return Prompt(mask=torch.from_numpy(thing.mask))
