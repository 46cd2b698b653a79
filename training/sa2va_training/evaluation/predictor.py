# SPDX-License-Identifier: Apache-2.0
"""Who is measured: anything that marks what an expression names and answers questions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.sa2va import Sa2VA
from sa2va_model.ten_clips import SAMPLINGS, segment_clip
from sa2va_model.tracking.live import LiveConfig, LiveTracker

TRACKING = ("offline", "live", "ten_clips", "recorded")
OFFERED = tuple(name for name in SAMPLINGS if name != "q_frame")
_TOGETHER = 8  # expressions of a clip at once: its frames are encoded once for all of them


@dataclass(frozen=True)
class Prediction:
    """An answer.

    Attributes:
        text: without special tokens.
        masks: bool [K, T, H, W].
        phrases: [K], what each mask was called; "" = nothing.
    """

    text: str
    masks: np.ndarray
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class FollowedClip:
    """What was marked while a clip was followed.

    Attributes:
        masks: bool [T, H, W].
        steps: seconds that each frame took.
        known: bool [T], the frames of which something was said; None = all.
        tracking: bool [T], those on which the object was said to be seen; None = nothing was said but masks.
    """

    masks: np.ndarray
    steps: tuple[float, ...]
    known: np.ndarray | None = None
    tracking: np.ndarray | None = None


def joined(masks: np.ndarray) -> np.ndarray:
    """Several masks as one: bool [K, H, W] → bool [H, W]; empty for none."""
    out = np.zeros(masks.shape[1:], bool)
    for mask in masks:
        out |= mask.astype(bool)
    return out


class Predictor(Protocol):
    """Answers about one picture or clip at a time."""

    def refer_image(self, image: np.ndarray, expressions: Sequence[str]) -> list[np.ndarray]:
        """What each expression names in uint8 [H, W, 3]: bool [H, W] each, several objects joined."""
        ...

    def refer_clip(
        self, frames: Sequence[np.ndarray], expressions: Sequence[str]
    ) -> list[np.ndarray]:
        """What each expression names in a clip: bool [T, H, W] each."""
        ...

    def follow_clip(
        self, frames: Sequence[np.ndarray], expressions: Sequence[str], stamps: Sequence[float]
    ) -> list[FollowedClip]:
        """What is marked frame by frame, as on a robot; `stamps` [T] in seconds."""
        ...

    def answer(
        self, frames: Sequence[np.ndarray], question: str, regions: Sequence[np.ndarray] = ()
    ) -> Prediction:
        """Answer a question about pictures (none for plain chat) and regions, bool [H, W]."""
        ...


@dataclass(frozen=True)
class Asking:
    """How a model is asked about clips.

    Attributes:
        tracking: "offline" = as the paper evaluates: keyframes are prompted, the rest of the clip is tracked;
            "live" = frame by frame, as on a robot: found on the first frames, followed, checked; "ten_clips" = as
            SaSaSa2VA does; "recorded" = nobody is asked: what a robot marked when it was recorded.
        keyframes: "first" (published), "uniform" (better on long clips) or "mosaic", for "offline" and for questions.
        count: number of keyframes; 0 = as many as the model was trained with; of a mosaic: pictures, 0 = 2.
        sampling: of "ten_clips": one of `ten_clips.SAMPLINGS` but "q_frame", whose frames another model chooses.
        fps: of clips that do not say when their frames were taken; "live" needs to know how often to check.
        wording: what an expression on an image becomes before it is asked for; the published evaluation of RefCOCO
            says "Please segment {} in this image.", that of clips "Please segment {}.". Questions stay as they are.
    """

    tracking: str = "offline"
    keyframes: str = "first"
    count: int = 0
    fps: float = 10.0
    wording: str = "{}"
    sampling: str = "uniform"

    def __post_init__(self) -> None:
        if self.wording.count("{}") != 1:
            raise InputError(f"wording is {self.wording!r}, expected one {{}} for the expression")
        if self.tracking not in TRACKING:
            raise InputError(
                f"tracking is {self.tracking!r}, expected one of {', '.join(TRACKING)}"
            )
        if self.keyframes not in ("first", "uniform", "mosaic"):
            raise InputError(
                f"keyframes is {self.keyframes!r}, expected 'first', 'uniform' or 'mosaic'"
            )
        if self.sampling not in OFFERED:
            raise InputError(f"sampling is {self.sampling!r}, expected one of {', '.join(OFFERED)}")
        if not self.fps > 0:
            raise InputError(f"fps is {self.fps}, expected a number above 0")


class ModelPredictor:
    """A Sa2VA model, asked through the same functions that users call."""

    def __init__(self, model: Sa2VA, asking: Asking) -> None:
        self.model, self.asking = model, asking
        count = asking.count or (2 if asking.keyframes == "mosaic" else model.config.keyframes)
        self._keyframes = KeyframeChoice(asking.keyframes, count)

    def refer_image(self, image: np.ndarray, expressions: Sequence[str]) -> list[np.ndarray]:
        """See `Predictor`; the image is read once for all expressions."""
        wording = self.asking.wording
        asked = [text if "?" in text else wording.format(text.rstrip(".")) for text in expressions]
        found = self.model.segment_many(image, asked)
        return [joined(seen.masks) for seen in found]

    def refer_clip(
        self, frames: Sequence[np.ndarray], expressions: Sequence[str]
    ) -> list[np.ndarray]:
        """See `Predictor`."""
        if self.asking.tracking == "live":
            stamps = [t / self.asking.fps for t in range(len(frames))]
            return [seen.masks for seen in self.follow_clip(frames, expressions, stamps)]
        if self.asking.tracking == "ten_clips":
            sampling = self.asking.sampling
            return [segment_clip(self.model, frames, text, sampling)[1] for text in expressions]
        shape = (len(frames), *frames[0].shape[:2])
        out: list[np.ndarray] = []
        for first in range(0, len(expressions), _TOGETHER):
            part = list(expressions[first : first + _TOGETHER])
            for answer in self.model.segment_video_many(frames, part, keyframes=self._keyframes):
                # Sa2VA's evaluation takes the first [SEG] of a clip; an image's are joined
                masks = answer.masks
                out.append(masks[0].astype(bool) if len(masks) else np.zeros(shape, bool))
        return out

    def follow_clip(
        self, frames: Sequence[np.ndarray], expressions: Sequence[str], stamps: Sequence[float]
    ) -> list[FollowedClip]:
        """See `Predictor`; each expression has the tracker for itself."""
        return [self._follow(frames, text, stamps) for text in expressions]

    def _follow(
        self, frames: Sequence[np.ndarray], expression: str, stamps: Sequence[float]
    ) -> FollowedClip:
        tracker = LiveTracker(self.model, LiveConfig(background=False))
        name = tracker.track(expression)
        out = np.zeros((len(frames), *frames[0].shape[:2]), bool)
        steps = []
        for t, (rgb, stamp) in enumerate(zip(frames, stamps, strict=True)):
            begin = time.perf_counter()
            result = tracker.process(Frame(rgb, stamp, t))
            steps.append(time.perf_counter() - begin)
            for track in result.tracks:
                if track.id == name and track.mask is not None:
                    out[t] = track.mask
        tracker.close()
        return FollowedClip(out, tuple(steps))

    def answer(
        self, frames: Sequence[np.ndarray], question: str, regions: Sequence[np.ndarray] = ()
    ) -> Prediction:
        """See `Predictor`."""
        clip = self._keyframes if len(frames) > 1 else None
        answer = self.model.ask(frames, question, list(regions), keyframes=clip)
        named = {phrase.mask: phrase.text for phrase in answer.phrases}
        phrases = tuple(named.get(k, "") for k in range(len(answer.masks)))
        return Prediction(answer.text, answer.masks.astype(bool), phrases)
