# SPDX-License-Identifier: Apache-2.0
"""The inside of a video file, through PyAV: packets, decoded frames, and what is wrong with them.

`frames.VideoFile` reads files with it. A damaged or cut file is decoded as far as it goes, and `VideoDecoder`
remembers how it ended. Single frames are found by the times of their packets, and what lies between is jumped over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
import numpy as np

from sa2va_model.errors import InputError

_WORTH_A_JUMP = 48  # frames; a jump decodes from the keyframe before


def open_video(name: str) -> av.container.InputContainer:
    """Open a file for reading; InputError naming it if it is no video."""
    try:
        return av.open(name, mode="r", metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{name}: not readable as a video ({reason(error)}), "
            "expected a video file such as an H.264 .mp4"
        ) from error


def video_stream(container: av.container.InputContainer, name: str) -> av.video.stream.VideoStream:
    """The first video stream of a file; InputError naming the file if it has none."""
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no"
        raise InputError(f"{name}: holds {kinds} streams only, expected a video stream")
    return container.streams.video[0]


class VideoDecoder:
    """Decodes one stream to its end or to its first damage, and remembers how it ended."""

    def __init__(
        self, container: av.container.InputContainer, stream: av.video.stream.VideoStream
    ) -> None:
        self._container = container
        self._stream = stream
        self._packets = 0
        self._end: Fraction | None = None  # end of the latest packet, in the stream's time base
        self.fault = ""

    def __iter__(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    self.fault = "the file is cut short inside a frame"
                    break
                self._count(packet)
                yield from packet.decode()
            if self.fault:
                yield from self._stream.codec_context.decode(None)  # frames the decoder still holds
        except (av.FFmpegError, OSError) as error:
            self.fault = f"the video is damaged ({reason(error)})"

    def _count(self, packet: av.Packet[av.video.stream.VideoStream]) -> None:
        if not packet.size:
            return
        self._packets += 1
        if packet.pts is not None:
            end = Fraction(packet.pts + (packet.duration or 0))
            self._end = end if self._end is None else max(self._end, end)

    def shortfall(self) -> str:
        """Why the file is cut short, "" if it is whole as far as the file itself can tell."""
        declared, duration = self._stream.frames, _declared_duration(self._container, self._stream)
        if duration is None or self._end is None or (declared and self._packets >= declared):
            return ""
        # The time must be short too: edit lists make the declared count larger than what is shown.
        step = 1 / (self._stream.average_rate or Fraction(30))
        end = (self._end - (self._stream.start_time or 0)) * (self._stream.time_base or 1)
        if duration - end <= 2 * step:
            return ""
        return f"the file is cut short at {float(end):.2f} s of {float(duration):.2f} s"


def frames_near(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    wanted: Sequence[int],
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames with these ascending numbers, found by their times; the times are read first, without decoding."""
    packets = (packet for packet in container.demux(stream) if not packet.is_discard)
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    container.seek(times[0] if times else 0, stream=stream)
    stream.codec_context.thread_type = "AUTO"
    decoded, at = container.decode(stream), 0
    for index in wanted:
        if index >= len(times):
            return
        if index - at > _WORTH_A_JUMP:
            container.seek(times[index], stream=stream)  # to the keyframe before
            decoded = container.decode(stream)
        time = times[index]
        reached = next((f for f in decoded if f.pts is not None and f.pts >= time), None)
        if reached is None or reached.pts != time:
            return  # its times are not those of its packets
        yield index, reached
        at = index


def _declared_duration(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Fraction | None:
    """Seconds of video that the file says it holds; None if it does not say."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    if tag := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])  # Matroska, WebM
    if len(container.streams) == 1 and container.duration:
        return Fraction(container.duration, av.time_base)
    return None


def upright(decoded: av.VideoFrame) -> np.ndarray:
    """Pixels of a frame turned as the file asks for (phones store portrait videos lying)."""
    rgb = decoded.to_ndarray(format="rgb24")
    turns = round((decoded.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def reason(error: Exception) -> str:
    """What FFmpeg or the system says is wrong, without a full stop."""
    return (getattr(error, "strerror", None) or str(error)).strip().rstrip(".")
