# SPDX-License-Identifier: Apache-2.0
"""What the demo's recording says: outcome, overlap with the truth and speed of each command. No
ROS, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sa2va_model.tracks import EventKind, Track, TrackState

MIN_AREA = 40  # pixels; less of the object is no view of it
RIGHT = 0.3  # mean IoU from which on the mask is on the object that was meant
_EXPECTED = (EventKind.STARTED, EventKind.STOPPED)  # the user's own doing, no outcome
UNSEEN = (TrackState.OCCLUDED, TrackState.LOST)


class ImageResult(Protocol):
    """One camera image and what came back for it; see `sa2va_ros.bags.recorder.RecordedImage`."""

    stamp: int
    rgb: Any
    truth: Any
    labels: Any
    tracks: Any
    received: float


@dataclass(frozen=True)
class Act:
    """One thing the user of the demo does.

    Attributes:
        at: seconds since the camera started.
        say: the command.
        expects: found, returns (found; leaves the picture and comes back), absent, or stopped.
        target: value of the object in the truth image; 0 = none.
    """

    at: float
    say: str
    expects: str
    target: int = 0

    @property
    def expression(self) -> str:
        """The words that name the object."""
        return self.say.lstrip("+ ")


@dataclass(frozen=True)
class Row:
    """The result of one act.

    Attributes:
        outcome: the track's events, in order.
        problem: what is not as it should be; "" = all is well.
        iou: mean over the images on which the object is to be seen, from its first mask on; NaN
            without any.
        first_mask: seconds from the command to the first tracks message with a mask; NaN without
            one.
        fps: images per second that the node processed meanwhile.
        images: how many went into `iou`.
    """

    command: str
    outcome: str
    problem: str
    iou: float
    first_mask: float
    fps: float
    images: int


def track_of(shot: ImageResult, expression: str) -> Any:
    """The live track message of an expression on one image, or None."""
    alive = [
        track
        for track in shot.tracks.tracks
        if track.expression == expression and track.state != TrackState.STOPPED
    ]
    return alive[-1] if alive else None


def mask_of(shot: ImageResult, track: Any) -> np.ndarray | None:
    """The track's pixels in the label image, bool [H, W]; None without any."""
    if track is None or not track.mask_value:
        return None
    mask: np.ndarray = shot.labels == track.mask_value
    return mask if mask.any() else None


def overlap(mask: np.ndarray | None, truth: np.ndarray) -> float:
    """Intersection over union; no mask has none."""
    if mask is None:
        return 0.0
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def score(
    act: Act,
    said: tuple[float, float],
    shots: Sequence[ImageResult],
    events: Sequence[tuple[float, Any]],
) -> Row:
    """Judge one act.

    Args:
        said: monotonic seconds at which it was said, and at which the next one was.
        shots: all complete ones, in order.
        events: all (monotonic seconds, TrackEvent), in order.
    """
    begin, end = said
    during = [shot for shot in shots if begin <= shot.received < end]
    span = min(end, during[-1].received) - begin if during else 0.0
    fps = len(during) / span if span > 0 else 0.0
    if act.expects == "stopped":
        outcome, problem = _stopped(during, events, begin, end)
        return Row(act.say, outcome, problem, float("nan"), float("nan"), fps, 0)
    # A track lives on after the next command unless that replaces it.
    lived = [(s, t) for s in shots if s.received >= begin and (t := track_of(s, act.expression))]
    masked = [(s, m) for s, t in lived if (m := mask_of(s, t)) is not None]
    first = masked[0][0] if masked else None
    ious = [
        overlap(mask_of(shot, track), shot.truth == act.target)
        for shot, track in lived
        if first is not None
        and shot.stamp >= first.stamp
        and shot.truth is not None
        and (shot.truth == act.target).sum() >= MIN_AREA
    ]
    told = [
        EventKind(event.type)
        for time, event in events
        if time >= begin and event.expression == act.expression
    ]
    iou = float(np.mean(ious)) if ious and act.target else float("nan")
    return Row(
        command=act.say,
        outcome=" → ".join(kind.name for kind in told if kind not in _EXPECTED) or "nothing",
        problem=_problem(act, told, iou, lived, first),
        iou=iou,
        first_mask=first.received - begin if first is not None else float("nan"),
        fps=fps,
        images=len(ious),
    )


def _problem(
    act: Act,
    told: list[EventKind],
    iou: float,
    lived: list[tuple[ImageResult, Any]],
    first: ImageResult | None,
) -> str:
    if act.expects == "absent":
        if first is not None:
            return "a mask was published for what is not there"
        return "" if EventKind.NOT_FOUND in told else "NOT_FOUND was not reported"
    if EventKind.FOUND not in told or first is None:
        return "not found"
    if not iou >= RIGHT:
        return f"another object than the one meant (IoU {iou:.2f})"
    if act.expects == "returns":
        return _did_not_return(act, told, [pair for pair in lived if pair[0].stamp >= first.stamp])
    return ""


def _did_not_return(act: Act, told: list[EventKind], lived: list[tuple[ImageResult, Any]]) -> str:
    """What is wrong with how a leaving and returning object was reported; "" = nothing."""
    areas = [(s.truth == act.target).sum() if s.truth is not None else MIN_AREA for s, _ in lived]
    away = [
        TrackState(track.state) for (_, track), area in zip(lived, areas, strict=True) if not area
    ]
    if not away:
        return "it never left the picture while it was tracked"
    if away[-1] not in UNSEEN:
        return f"reported {away[-1].name} while it was away"
    if EventKind.REACQUIRED not in told:
        return "REACQUIRED was not reported after its return"
    return ""


def _stopped(
    during: Sequence[ImageResult], events: Sequence[tuple[float, Any]], begin: float, end: float
) -> tuple[str, str]:
    ended = [e for time, e in events if begin <= time < end and e.type == EventKind.STOPPED]
    alive = [
        t
        for t in (during[-1].tracks.tracks if during else ())
        if t.state not in (TrackState.STOPPED, TrackState.NOT_FOUND)
    ]
    outcome = f"STOPPED ×{len(ended)}" if ended else "nothing"
    if not ended:
        return outcome, "STOPPED was not reported"
    if alive:
        return outcome, f"{len(alive)} tracks go on"
    return outcome, "" if during else "no image came after it"


def track_from(message: Any, labels: np.ndarray) -> Track:
    """A `Track` message and its label image as the tracker's own value, for drawing."""
    mask = labels == message.mask_value if message.mask_value else None
    roi = message.roi
    box = (roi.x_offset, roi.y_offset, roi.x_offset + roi.width, roi.y_offset + roi.height)
    return Track(
        id=message.id,
        expression=message.expression,
        state=TrackState(message.state),
        mask_value=message.mask_value,
        mask=mask,
        box=box if roi.width else None,
        area=message.area,
        score=message.score,
        label=message.label,
    )
