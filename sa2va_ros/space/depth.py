# SPDX-License-Identifier: Apache-2.0
"""Depth images and camera_info, pinned to the colour image they belong to. No ROS.

An image gets its `PinnedDepth` when it is taken from the camera and keeps it through the mailbox, the tracker's step
and the keyframe ring, however long that takes. A depth image that comes later still joins it. Messages are kept as they
came and decoded once, when somebody asks. Depth must be aligned to colour: same size, same frame. Nothing here ever
stops the 2D side.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_ros.messages.images import depth_from_message, nanoseconds
from sa2va_ros.space.cameras import Camera, camera_from_info

RECENT = 1.0  # seconds without a depth image after which nobody waits for one any more
WAITING_SECONDS = 2.0  # for which a depth image waits for its colour image
PINNED_SECONDS = 60.0  # for which an image that is kept keeps its depth
LIMIT = 256 << 20  # bytes of depth images that are kept at once, waiting or pinned
NEWEST = 3  # images that keep their depth whatever it weighs: waiting, in work, published
JUMP_BACK = 500_000_000  # nanoseconds; a stamp that is earlier by more begins another stream
INFOS = 8  # changes of calibration that are remembered


@dataclass(frozen=True)
class DepthFrame:
    """What belongs to one colour image.

    Attributes:
        metres: float32 [H, W], NaN = not measured.
    """

    metres: np.ndarray
    camera: Camera


class PinnedDepth:
    """The depth image of one colour image, from the moment on at which both have come.

    Made by `DepthBuffer.pin`; may be asked from any thread.

    Attributes:
        message: the depth image as it came; None = none yet.
    """

    def __init__(self, buffer: DepthBuffer, header: Any, slop: float) -> None:
        self.stamp, self.slop = nanoseconds(header.stamp), round(slop * 1e9)
        self.arrived = time.monotonic()
        self.message: Any = None
        self.released = False  # its depth was let go because others need the room
        self._buffer, self._header = buffer, header
        self._decoding = threading.Lock()
        self._metres: weakref.ref[_Metres] | None = None

    def frame(
        self,
        size: tuple[int, int],
        *,
        wait: float = 0.0,
        rectified: bool = False,
        scale: float = 0.0,
    ) -> DepthFrame:
        """The depth in metres and the camera, for an image of that size (height, width).

        Args:
            wait: seconds to wait for a depth image that is on its way.
            rectified: the images are; see `camera_from_info`.
            scale: metres for one unit of depth; 0 = by the encoding.

        Raises:
            InputError: there is none, it is of another size or frame, or it cannot be decoded.
        """
        message = self._buffer.wait_for(self, wait)
        info = self._buffer.info_at(self.stamp)
        _check_frames(self._header, message, info.message)
        camera = info.camera(rectified=rectified, size=size)
        metres = self._decoded(message, scale)
        if metres.shape != size:
            raise InputError(
                f"depth is {metres.shape[1]}x{metres.shape[0]}; expected {size[1]}x{size[0]} as the image "
                "(depth aligned to colour)"
            )
        return DepthFrame(metres, camera)

    def offer(self, message: Any, stamp: int) -> None:
        """Take a depth image if it belongs to this image and fits no worse than the one that is here."""
        apart = abs(stamp - self.stamp)
        if apart > self.slop or self._metres is not None:
            return
        if self.message is None or apart < abs(_stamp(self.message) - self.stamp):
            self.message, self.released = message, False

    def release(self) -> None:
        """Let the depth go."""
        self.message, self.released = None, True

    def _decoded(self, message: Any, scale: float) -> np.ndarray:
        with self._decoding:
            kept = self._metres() if self._metres is not None else None
            if kept is None:
                kept = _Metres(depth_from_message(message, scale))
                self._metres = weakref.ref(kept)
                self._buffer.newest = kept
            return kept.array


@dataclass(frozen=True)
class _Metres:
    """A decoded depth image; the newest one lives, those before it are decoded again if somebody asks."""

    array: np.ndarray


class _Info:
    """One camera_info from a stamp on, and what it says."""

    def __init__(self, message: Any) -> None:
        self.message, self.since = message, _stamp(message)
        self._cameras: dict[tuple[bool, tuple[int, int]], Camera] = {}  # by how images are

    def camera(self, *, rectified: bool, size: tuple[int, int]) -> Camera:
        """The camera of images of that size; raises InputError with the reason if the message is not one's."""
        key = (rectified, size)
        if key not in self._cameras:
            self._cameras = {key: camera_from_info(self.message, rectified=rectified, size=size)}
        return self._cameras[key]


class DepthBuffer:
    """Pairs depth images and camera_info with colour images; filled and asked from different threads.

    Args:
        limit: bytes of depth images kept at once; the oldest go first.

    Attributes:
        received: depth images so far.
        newest: the depth image that was decoded last.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._changed = threading.Condition()
        self._limit = limit
        self._depths: deque[tuple[float, Any]] = deque()  # when it came, monotonic; the message
        self._pins: deque[weakref.ref[PinnedDepth]] = deque()  # in the order of the images
        self._infos: deque[_Info] = deque(maxlen=INFOS)
        self.received = 0
        self.newest: _Metres | None = None

    # --- what the camera sends --------------------------------------------------------------------

    def pin(self, header: Any, slop: float = 0.0) -> PinnedDepth:
        """What belongs to the colour image of that header, now or later.

        Args:
            slop: seconds by which stamps may differ; the nearest is taken.
        """
        pinned = PinnedDepth(self, header, slop)
        with self._changed:
            for _, message in self._depths:
                pinned.offer(message, _stamp(message))
            self._pins.append(weakref.ref(pinned))
            self._trim()
        return pinned

    def add_depth(self, message: Any) -> None:
        """Keep a depth image, and give it to the images that it belongs to."""
        stamp = _stamp(message)
        with self._changed:
            self.received += 1
            if self._depths and stamp < _stamp(self._depths[-1][1]) - JUMP_BACK:
                self._depths.clear()  # another stream, whose stamps may be the same
            self._depths.append((time.monotonic(), message))
            for pinned in self._alive():
                pinned.offer(message, stamp)
            self._trim()
            self._changed.notify_all()

    def add_info(self, message: Any) -> None:
        """Keep a camera_info; a camera repeats the same one with every image."""
        with self._changed:
            if self._infos and _stamp(message) < self._infos[-1].since - JUMP_BACK:
                self._infos.clear()
            if not self._infos or _content(message) != _content(self._infos[-1].message):
                self._infos.append(_Info(message))

    def clear(self) -> None:
        """Forget everything, as when the node is cleaned up."""
        with self._changed:
            self._depths.clear()
            self._infos.clear()
            self.newest = None

    @property
    def median(self) -> float:
        """Median of the depth image that was decoded last, metres; NaN = nothing was measured."""
        newest = self.newest
        sample = newest.array[::8, ::8] if newest is not None else np.zeros(0)
        sample = sample[np.isfinite(sample)]
        return float(np.median(sample)) if sample.size else float("nan")

    @property
    def kept_bytes(self) -> int:
        """Bytes of depth images that are kept."""
        with self._changed:
            return sum(len(message.data) for message in self._kept())

    # --- what an image asks -----------------------------------------------------------------------

    def wait_for(self, pinned: PinnedDepth, seconds: float) -> Any:
        """The depth message of an image, waited for while it may still come.

        Raises:
            InputError: it did not come.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while pinned.message is None and self._expected(pinned.stamp):
                if not self._changed.wait(end - time.monotonic()):
                    break
            if pinned.message is None:
                raise InputError(self._missing(pinned))
            return pinned.message

    def info_at(self, stamp: int) -> _Info:
        """The camera_info that held at a stamp; one that came late holds for the images before it.

        Raises:
            InputError: none has come.
        """
        with self._changed:
            if not self._infos:
                raise InputError("no camera_info yet; expected one on the camera_info topic")
            held = [info for info in self._infos if info.since <= stamp]
            return held[-1] if held else self._infos[0]

    def _expected(self, stamp: int) -> bool:
        """Whether the depth of that stamp may still come: depth flows, and has not passed it."""
        if not self._depths or time.monotonic() - self._depths[-1][0] >= RECENT:
            return False
        return all(_stamp(kept) < stamp for _, kept in self._depths)

    def _missing(self, pinned: PinnedDepth) -> str:
        if pinned.released:
            return f"the image's depth was let go: more than {self._limit >> 20} MiB were kept"
        if not self._depths:
            return "no depth image; expected one on the depth topic"
        apart = min((_stamp(kept) - pinned.stamp for _, kept in self._depths), key=abs)
        return (
            f"no depth image of the image's stamp; the nearest is {apart / 1e9:+.3f} s away, "
            f"sync_slop is {pinned.slop / 1e9:g} s"
        )

    # --- bounds -----------------------------------------------------------------------------------

    def _alive(self) -> list[PinnedDepth]:
        return [pinned for kept in self._pins if (pinned := kept()) is not None]

    def _kept(self) -> list[Any]:
        """All depth messages that are kept, each once."""
        pinned = [pinned.message for pinned in self._alive() if pinned.message is not None]
        return list({id(m): m for m in (*pinned, *(m for _, m in self._depths))}.values())

    def _trim(self) -> None:
        """Keep to the bounds in seconds and bytes: what waits goes before what is pinned, old before new."""
        now = time.monotonic()
        self._pins = deque(kept for kept in self._pins if kept() is not None)
        while len(self._depths) > 1 and now - self._depths[0][0] > WAITING_SECONDS:
            self._depths.popleft()
        old = self._alive()[:-NEWEST]
        for pinned in old:
            if pinned.message is not None and now - pinned.arrived > PINNED_SECONDS:
                pinned.release()
        sizes = {id(message): len(message.data) for message in self._kept()}
        over = sum(sizes.values()) - self._limit
        if over <= 0:
            return
        held = {id(pinned.message) for pinned in self._alive()}
        while over > 0 and len(self._depths) > 1:
            _, message = self._depths.popleft()
            over -= 0 if id(message) in held else sizes[id(message)]
        for pinned in old:
            if over <= 0:
                return
            if pinned.message is not None:
                over -= sizes[id(pinned.message)]
                pinned.release()


def _stamp(message: Any) -> int:
    return nanoseconds(message.header.stamp)


def _content(info: Any) -> tuple[Any, ...]:
    numbers = (tuple(info.k), tuple(info.d), tuple(info.p), tuple(getattr(info, "r", ())))
    window = [getattr(info, name, 0) for name in ("binning_x", "binning_y")]
    if (roi := getattr(info, "roi", None)) is not None:
        window += [roi.x_offset, roi.y_offset, roi.height, roi.width, roi.do_rectify]
    return info.header.frame_id, info.height, info.width, info.distortion_model, *numbers, *window


def _check_frames(header: Any, depth: Any, info: Any) -> None:
    """An empty frame says nothing and passes."""
    for what, other in (("depth", depth), ("camera_info", info)):
        frame = other.header.frame_id.lstrip("/")  # as ROS 1 drivers still begin them
        if frame and header.frame_id and frame != header.frame_id.lstrip("/"):
            raise InputError(
                f"{what} is in frame '{frame}'; expected '{header.frame_id}' as the image "
                "(depth aligned to colour)"
            )
