# SPDX-License-Identifier: Apache-2.0
"""The live tracker on the hard clips: losing, finding, and saying so."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from events import RIGHT, EventTally, Told
from start import ASKED, TruthfulWords, fit_embedding

from sa2va_model.io.frames import Frame
from sa2va_model.sa2va import Sa2VA
from sa2va_model.tracking.live import LiveConfig, LiveTracker
from sa2va_model.tracks import EventKind, FrameResult
from sa2va_sim.hard_clips import RATE, HardClip
from sa2va_training.metrics.jf import frame_jf

SEEN = 0.05


@dataclass
class LiveScore:
    """Figures over clips.

    Attributes:
        named: whether the words led to the right object at first; only those clips count for `tally`.
        visible: J&F of frames that show the target, of all clips.
        log: one line per clip, for people.
    """

    tally: EventTally = field(default_factory=EventTally)
    named: list[bool] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """All of them."""
        return {
            "named rightly": float(np.mean(self.named)),
            "J&F": float(np.mean(self.visible)),
            **self.tally.figures(),
        }


def run_clip(
    model: Sa2VA, clip: HardClip, score: LiveScore, *, start: str, config: LiveConfig
) -> None:
    """Adds one clip to the score."""
    if start == "embedding":
        truth = clip.instances[0] == clip.target
        embedding = fit_embedding(model, model.encode_image(clip.rgb[0]), truth)
        model.ground = TruthfulWords(model, clip, embedding)  # type: ignore[method-assign]
    try:
        results, first = _follow(model, clip, start, config)
    finally:
        if start == "embedding":
            del model.ground
    _score(clip, results, first, score, config)


def _follow(
    model: Sa2VA, clip: HardClip, start: str, config: LiveConfig
) -> tuple[list[FrameResult], int | None]:
    """The results of all frames, and the frame of the first mask."""
    live = LiveTracker(model, config)
    results, first = [], None
    for number, rgb in enumerate(clip.rgb):
        if start == "mask" and number == 0:
            live.prompt(mask=clip.instances[0] == clip.target)
        elif start != "mask" and first is None and number in ASKED:
            live.track(clip.expression)
        result = live.process(Frame(rgb, number / RATE, number))
        if first is None and any(e.kind == EventKind.FOUND for e in result.events):
            first = number
        results.append(result)
    live.close()
    return results, first


def _score(
    clip: HardClip,
    results: list[FrameResult],
    first: int | None,
    score: LiveScore,
    config: LiveConfig,
) -> None:
    shown, right, events = [], [], []
    nothing = np.zeros(clip.rgb.shape[1:3], bool)
    for number, result in enumerate(results):
        track = result.tracks[0] if result.tracks else None
        mask = None if track is None else track.mask
        truth = clip.instances[number] == clip.target
        if number and clip.visible[number] >= SEEN:
            score.visible.append(frame_jf(nothing if mask is None else mask, truth).j_and_f)
        common = 0.0 if mask is None else (mask & truth).sum() / max((mask | truth).sum(), 1)
        shown.append(mask is not None)
        right.append(bool(common >= RIGHT))
        events += [(number, event.kind.name) for event in result.events]
    named = first is not None and right[first]
    score.named.append(named)
    score.log.append(_line(clip, shown, right, events))
    if first is None or not named:
        return
    told = Told(shown[first:], right[first:], [(t - first, kind) for t, kind in events])
    score.tally.add(clip.visible[first:], told, rate=RATE, lost_after=config.lifecycle.lost_after)


def _line(
    clip: HardClip, shown: list[bool], right: list[bool], events: list[tuple[int, str]]
) -> str:
    """Truth above, masks below: # seen and right, x wrong, . none."""
    there = "".join("#" if v >= 0.35 else "+" if v >= SEEN else "." for v in clip.visible)
    masks = "".join("#" if r else "x" if s else "." for s, r in zip(shown, right, strict=True))
    said = " ".join(f"{t}:{kind}" for t, kind in events)
    return f"{clip.name} {clip.expression}\n  {there}\n  {masks}  {said}"
