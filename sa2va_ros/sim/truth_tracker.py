# SPDX-License-Identifier: Apache-2.0
"""The tracker node with the simulator's own masks in place of the model's: it cannot be wrong about what is where.

For measuring what comes after the masks (3D, grasping, following) alone, and for tests without torch. Topics, services
and actions are those of `tracker_node`, because all of it but the session is that node. It needs what the simulators
publish as truth: `truth` (label images), `truth_names` and `truth_target`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import rclpy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.tracking.track_names import TrackNames
from sa2va_model.tracks import Event, EventKind, FrameResult, Track, TrackState
from sa2va_ros.messages.images import array_from_image, nanoseconds
from sa2va_ros.node.model_session import EngineSettings, ModelSession
from sa2va_ros.support.qos import SENSOR_QUEUE, reliable
from sa2va_ros.support.spinning import context
from sa2va_ros.tracker_node import TrackerNode, run

MIN_PIXELS = 20  # of a mask; fewer are not seen
OCCLUDED_SECONDS = 1.0  # after which an object out of sight is lost
UNKNOWN_SECONDS = 1.0  # after which a sentence that the truth does not name means nothing; the truth may be on its way
WAIT = 2.0  # seconds for a label image that is on its way


@dataclass(frozen=True)
class _Known:
    """One object that is followed: its value in the label images, the track as it was last, and its first image."""

    value: int
    track: Track
    since: float | None = None


class TruthLive:
    """What the node needs of a live tracker, from label images.

    Args:
        stamp: turns a frame's seconds into the stamp of its message, nanoseconds.
    """

    def __init__(self, stamp: Callable[[float], int]) -> None:
        self._stamp = stamp
        self._changed = threading.Condition()
        self._labels: deque[tuple[int, Image]] = deque(maxlen=20)
        self._names: dict[str, int] = {}
        self._meant: dict[str, int] = {}
        self._tracks: dict[str, _Known] = {}
        self._events: list[Event] = []
        self._given = TrackNames()

    # --- the simulator's truth --------------------------------------------------------------------

    def add_labels(self, message: Image) -> None:
        """Keep a label image."""
        with self._changed:
            self._labels.append((nanoseconds(message.header.stamp), message))
            self._changed.notify_all()

    def add_names(self, message: String) -> None:
        """What is on the table: {"1": "red mug"}."""
        self._names = {name: int(value) for value, name in json.loads(message.data).items()}

    def add_meant(self, message: String) -> None:
        """What the episode's sentence means."""
        meant = json.loads(message.data)
        self._meant = {meant["expression"]: int(meant["value"])}

    def value_of(self, expression: str) -> int:
        """The label of what is meant; 0 if there is none."""
        bare = expression.removeprefix("the ")
        return self._meant.get(expression) or self._names.get(bare, 0)

    # --- what commands need -----------------------------------------------------------------------

    def track(self, expression: str, *, track_id: str | None = None, replace: bool = False) -> str:
        """Start a track and return its id."""
        with self._changed:
            if replace:
                self._stop_all()
            name = self._given.give(track_id or expression)
            used = {known.track.mask_value for known in self._tracks.values()}
            value = next(k for k in range(1, 255) if k not in used)
            track = Track(name, expression, TrackState.PENDING, mask_value=value)
            self._tracks[name] = _Known(self.value_of(expression), track)
            self._tell(EventKind.STARTED, track)
        return name

    def prompt(self, **arguments: Any) -> str:
        """Not here.

        Raises:
            InputError: always.
        """
        raise InputError("truth_tracker follows sentences only; expected an expression")

    def close(self, timeout: float) -> bool:
        """Nothing to end."""
        return True

    def stop(self, track_id: str | None = None) -> int:
        """Stop one track, or all; return how many."""
        with self._changed:
            if track_id is None:
                return self._stop_all()
            known = self._tracks.pop(track_id, None)
            if known is not None:
                self._tell(EventKind.STOPPED, known.track)
            return int(known is not None)

    def _stop_all(self) -> int:
        count = len(self._tracks)
        for known in self._tracks.values():
            self._tell(EventKind.STOPPED, known.track)
        self._tracks.clear()
        return count

    def reset(self, reason: str) -> None:
        """Forget all tracks."""
        with self._changed:
            self._tracks.clear()
            self._events.append(Event(EventKind.MEMORY_RESET, "", "", 0.0, 0, detail=reason))

    def reconfigure(self, config: Any) -> None:
        """Nothing here has thresholds."""

    def _tell(self, kind: EventKind, track: Track, detail: str = "") -> None:
        event = Event(kind, track.id, track.expression, 0.0, 0, track.score, detail=detail)
        self._events.append(event)

    # --- one frame --------------------------------------------------------------------------------

    def encode_ahead(self, frame: Frame) -> Frame:
        """Nothing here is encoded."""
        return frame

    def process(self, frame: Frame) -> FrameResult:
        """All tracks on one frame.

        Raises:
            InputError: there is no label image of that stamp.
        """
        height, width = frame.rgb.shape[:2]
        labels = self._labels_at(self._stamp(frame.stamp)) if self._tracks else None
        with self._changed:
            if labels is not None:
                for name, known in list(self._tracks.items()):
                    meant = self._named(known, frame.stamp)
                    self._tracks[name] = replace(meant, track=self._see(meant, labels, frame.stamp))
            tracks = tuple(known.track for known in self._tracks.values())
            for track in [t for t in tracks if t.state is TrackState.NOT_FOUND]:
                del self._tracks[track.id]
            events = [replace(e, stamp=frame.stamp, frame_index=frame.index) for e in self._events]
            self._events = []
        return FrameResult(
            frame.stamp,
            frame.index,
            height,
            width,
            tracks,
            tuple(events),
            companion=frame.companion,
        )

    def _labels_at(self, stamp: int) -> np.ndarray:
        end = time.monotonic() + WAIT
        with self._changed:
            while True:
                found = next((m for kept, m in self._labels if kept == stamp), None)
                if found is not None:
                    return array_from_image(found)
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise InputError("no label image on `truth` with the stamp of the image")

    def _named(self, known: _Known, stamp: float) -> _Known:
        """The same with its label, if that is known by now."""
        value = known.value or self.value_of(known.track.expression)
        return replace(known, value=value, since=stamp if known.since is None else known.since)

    def _see(self, known: _Known, labels: np.ndarray, stamp: float) -> Track:
        track = replace(known.track, age=known.track.age + 1)
        if not known.value and known.since is not None and stamp - known.since < UNKNOWN_SECONDS:
            return track
        if not known.value:
            self._tell(EventKind.NOT_FOUND, track, "there is no such object")
            return replace(track, state=TrackState.NOT_FOUND)
        mask = labels == known.value
        area = int(np.count_nonzero(mask))
        if area < MIN_PIXELS:
            return self._miss(track, stamp)
        if track.first_seen is None:
            self._tell(EventKind.FOUND, replace(track, score=1.0))
        elif track.state in (TrackState.OCCLUDED, TrackState.LOST):
            self._tell(EventKind.REACQUIRED, replace(track, score=1.0))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        return replace(
            track,
            state=TrackState.TRACKING,
            mask=mask,
            box=box,
            area=area,
            score=1.0,
            first_seen=stamp if track.first_seen is None else track.first_seen,
            last_seen=stamp,
        )

    def _miss(self, track: Track, stamp: float) -> Track:
        unseen = replace(track, mask=None, box=None, area=0, score=0.0)
        if track.last_seen is None:
            return unseen
        if stamp - track.last_seen < OCCLUDED_SECONDS:
            return replace(unseen, state=TrackState.OCCLUDED)
        if track.state is not TrackState.LOST:
            self._tell(EventKind.LOST, unseen)
        return replace(unseen, state=TrackState.LOST)


class TruthEngine(ModelSession):
    """The session's verbs without a model."""

    def __init__(self, live: TruthLive) -> None:
        super().__init__()
        self._truth: Any = live

    def load(self, settings: EngineSettings) -> None:
        """Nothing to load."""
        self.model, self.live = self._truth, self._truth

    def unload(self) -> bool:
        """Forget the tracks."""
        self._truth.stop()
        self.model = self.live = None
        return True

    def check_adapter(self, path: str) -> None:
        """There is nothing to put an adapter on.

        Raises:
            InputError: always.
        """
        raise InputError("truth_tracker has no model; expected tracker_node")


class TruthTracker(TrackerNode):
    """`tracker_node` with that session."""

    def __init__(self, stop_requested: threading.Event | None = None) -> None:
        self._truth_topics: list[Any] = []
        self._truth = TruthLive(lambda seconds: self._pipeline.clock.nanoseconds(seconds))
        super().__init__(stop_requested)

    def _make_engine(self) -> ModelSession:
        return TruthEngine(self._truth)

    def _subscribe(self) -> None:
        super()._subscribe()
        latched = reliable(1, latched=True)
        self._truth_topics = [
            self.create_subscription(Image, "truth", self._truth.add_labels, SENSOR_QUEUE),
            self.create_subscription(String, "truth_names", self._truth.add_names, latched),
            self.create_subscription(String, "truth_target", self._truth.add_meant, latched),
        ]

    def _unsubscribe(self) -> None:
        super()._unsubscribe()
        for subscription in self._truth_topics:
            self.destroy_subscription(subscription)
        self._truth_topics = []


def main(args: list[str] | None = None) -> int:
    """Run the node until it is asked to stop; the exit status is 2 if it could not start."""
    try:
        with context(args) as stop_requested:
            return run(TruthTracker(stop_requested), stop_requested)
    except (InputError, rclpy.exceptions.ParameterException) as error:
        print(f"truth_tracker: {error}", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
