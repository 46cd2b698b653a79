# SPDX-License-Identifier: Apache-2.0
"""Topics of video packets: foxglove's CompressedVideo and ffmpeg_image_transport's FFMPEGPacket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from sa2va_model.errors import InputError

VIDEO_TYPES = {
    "foxglove_msgs/msg/CompressedVideo": (
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format"
    ),
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\n"
        "bool is_bigendian\nuint8[] data"
    ),
}
"""Type and definition; neither package comes with ROS."""
_CODECS = {"264": "h264", "265": "hevc", "hevc": "hevc", "vp8": "vp8", "vp9": "vp9", "av1": "av1"}


class TopicDecoder:
    """Decodes the packets of one topic in order; a picture comes with what was given with its packet."""

    def __init__(self) -> None:
        self._codec: av.VideoCodecContext | None = None
        self._given: dict[int, Any] = {}
        self._count = 0

    def add(self, message: Any, given: Any) -> Iterator[tuple[np.ndarray, Any]]:
        """One packet; none, one or several pictures as uint8 [H, W, 3] RGB.

        Raises:
            InputError: an unknown codec, or a packet that cannot be decoded (as before the first keyframe).
        """
        name = str(getattr(message, "format", "") or getattr(message, "encoding", ""))
        codec = next((c for key, c in _CODECS.items() if key in name.lower()), None)
        if codec is None:
            raise InputError(
                f"video packet '{name}'; expected one of {', '.join(sorted(set(_CODECS.values())))}"
            )
        if self._codec is None:
            created = av.CodecContext.create(codec, "r")
            assert isinstance(created, av.VideoCodecContext)
            created.thread_count = 1  # more threads hold back a picture each
            self._codec = created
        packet = av.Packet(bytes(message.data))
        packet.pts = packet.dts = self._count
        self._given[self._count] = given
        self._count += 1
        yield from self._pictures(packet)

    def finish(self) -> Iterator[tuple[np.ndarray, Any]]:
        """The pictures that are still held back."""
        if self._codec is not None:
            yield from self._pictures(None)

    def _pictures(self, packet: av.Packet | None) -> Iterator[tuple[np.ndarray, Any]]:
        assert self._codec is not None
        try:
            for frame in self._codec.decode(packet):
                given = self._given.pop(frame.pts if frame.pts is not None else -1, None)
                if given is not None:
                    yield frame.to_ndarray(format="rgb24"), given
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"video packet cannot be decoded ({error})") from error
