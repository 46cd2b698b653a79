# SPDX-License-Identifier: Apache-2.0
"""Topics of video packets: foxglove's CompressedVideo and ffmpeg_image_transport's FFMPEGPacket."""

from __future__ import annotations

import re
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
_CODECS = {
    "264": "h264",
    "avc": "h264",
    "265": "hevc",
    "hevc": "hevc",
    "hvc1": "hevc",
    "vp8": "vp8",
    "vp9": "vp9",
    "av1": "libdav1d",  # FFmpeg's own "av1" wants a graphics card
    "mjpeg": "mjpeg",
    "mpeg4": "mpeg4",
}
"""What formats contain (libx264, h264_nvenc, "h264;nv12;rgb8;rgb8"), and the decoder."""
_SLICES = {"h264": (lambda head: 1 <= head & 31 <= 5), "hevc": (lambda head: head >> 1 & 63 < 32)}
"""Whether a NAL unit that begins with this byte holds a part of a picture."""
_START = re.compile(b"\0\0\1")


class TopicDecoder:
    """Decodes the packets of one topic in order; a picture comes with what was given with its packet.

    Packets may begin with start codes (Annex B) or lengths (as in MP4). After a damaged one, pictures that are made
    from it are left out, up to the next keyframe.
    """

    def __init__(self) -> None:
        self._codec: av.VideoCodecContext | None = None
        self._name = ""
        self._headers: list[bytes] = []  # packets of parameter sets alone, for the next picture
        self._given: dict[int, Any] = {}
        self._count = 0
        self._begun = self._damaged = False

    @property
    def missing(self) -> int:
        """Packets, after `finish`, that no picture and no error came of: the decoder waited for a keyframe."""
        return len(self._given) + len(self._headers)

    def add(self, message: Any, given: Any) -> Iterator[tuple[np.ndarray, Any]]:
        """One packet; none, one or several pictures as uint8 [H, W, 3] RGB.

        Raises:
            InputError: an unknown codec, or a packet that cannot be decoded (as before the first keyframe).
        """
        if self._codec is None:
            self._name, self._codec = _decoder(message)
        data = bytes(message.data)
        if not data:
            raise InputError("video packet is empty; expected a compressed picture")
        if self._name in _SLICES:
            data = _with_start_codes(data)
            starts = [match.end() for match in _START.finditer(data)]
            if starts and not any(_SLICES[self._name](data[n]) for n in starts if n < len(data)):
                self._headers.append(data)
                return
            data, self._headers = b"".join([*self._headers, data]), []
        packet = av.Packet(data)
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
                self._begun = True
                self._damaged = frame.is_corrupt or (self._damaged and not frame.key_frame)
                if self._damaged:
                    raise InputError("video packet is damaged, or follows one that is")
                if given is not None:
                    yield frame.to_ndarray(format="rgb24"), given
        except (av.FFmpegError, OSError) as error:
            if packet is not None and packet.pts is not None:
                self._given.pop(packet.pts, None)
            self._damaged = self._begun
            why = "" if self._begun else " before the first keyframe with its parameter sets"
            raise InputError(f"video packet cannot be decoded{why} ({error})") from error


def _decoder(message: Any) -> tuple[str, av.VideoCodecContext]:
    """The decoder of a message's packets, and its name."""
    told = str(getattr(message, "format", "") or getattr(message, "encoding", ""))
    name = next(
        (codec for key, codec in _CODECS.items() if key in told.lower().replace(".", "")), None
    )
    if name is None:
        raise InputError(f"video packet '{told}'; expected one of {', '.join(_CODECS)}")
    created = av.CodecContext.create(name, "r")
    assert isinstance(created, av.VideoCodecContext)
    created.thread_count = 1  # more threads hold back a picture each
    return name, created


def _with_start_codes(data: bytes) -> bytes:
    """NAL units with start codes before them; those with their lengths before them (as in MP4) are rewritten."""
    if data.startswith(b"\0\0\0\1"):
        return data  # shorter start codes may be a length as well; the other lengths tell
    at, units = 0, []
    while at + 4 < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        units.append(data[at + 4 : end])
        at = end
    return b"".join(b"\0\0\0\1" + unit for unit in units) if at == len(data) else data
