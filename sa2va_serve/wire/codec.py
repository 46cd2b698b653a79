# SPDX-License-Identifier: Apache-2.0
"""Pictures and meanings to messages and back.

Messages of others are checked, and no picture is unpacked before its size is known.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import Phrase
from sa2va_model.mllm.types import Generated
from sa2va_model.mllm.word_probes import Likeness
from sa2va_model.results import GroundingResult
from sa2va_serve.wire import grounding_pb2 as pb

ENCODINGS = ("jpeg", "png")
MAX_PIXELS = 1 << 24  # of a keyframe
MAX_KINDS = MAX_SIDE = 64  # of the maps that a mask is held against; half a MiB
JPEG_QUALITY = 90
PNG_EFFORT = 1  # zlib level: a frame has milliseconds


def encode_image(rgb: np.ndarray, encoding: str = "jpeg") -> bytes:
    """A uint8 [H, W, 3] image as a file.

    Raises:
        InputError: another array, or an unknown encoding.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"encoding is {encoding!r}; expected one of {', '.join(ENCODINGS)}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InputError(
            f"keyframe: {rgb.dtype} {list(rgb.shape)}; expected uint8 [height, width, 3]"
        )
    options = {
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, PNG_EFFORT],
    }
    _, data = cv2.imencode(f".{encoding}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options[encoding])
    return data.tobytes()


def decode_image(data: bytes, where: str = "keyframe") -> np.ndarray:
    """The picture in a JPEG or PNG file, uint8 [H, W, 3].

    Raises:
        InputError: neither, too large, or broken.
    """
    try:
        with (
            warnings.catch_warnings(),
            Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as file,
        ):
            warnings.simplefilter("ignore")
            width, height = file.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: no JPEG or PNG file ({len(data)} bytes)") from error
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: {width}x{height} pixels; expected at most {MAX_PIXELS} in all")
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise InputError(f"{where}: a broken {width}x{height} picture ({len(data)} bytes)")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def encode_embeddings(embeddings: Tensor) -> pb.Embeddings:
    """[K, d] of any float type."""
    count, width = embeddings.shape
    return pb.Embeddings(count=count, width=width, fp16=_halves(embeddings))


def decode_embeddings(message: pb.Embeddings) -> Tensor:
    """float32 [K, d].

    Raises:
        InputError: sizes that contradict each other, or values that are not finite.
    """
    return _numbers(message.fp16, (message.count, message.width), "embeddings")


def encode_likeness(likeness: Likeness) -> pb.Likeness:
    """What a mask is held against, as a message."""
    kinds, side, _ = likeness.cells.shape
    message = pb.Likeness(
        word=likeness.word,
        kinds=kinds,
        side=side,
        fp16=_halves(likeness.cells),
        floor=likeness.floor,
    )
    if likeness.rivals is not None and math.isfinite(likeness.odds):
        message.rivals, message.odds = _halves(likeness.rivals), likeness.odds
    return message


def decode_likeness(message: pb.Likeness, device: torch.device | str = "cpu") -> Likeness:
    """The same as on the server, its cells in float32.

    Raises:
        InputError: no map or too large ones, sizes that contradict each other, or values that are not finite.
    """
    kinds, side = message.kinds, message.side
    if not (1 <= kinds <= MAX_KINDS and 1 <= side <= MAX_SIDE):
        raise InputError(
            f"likeness: {kinds} maps of side {side}; expected 1 to {MAX_KINDS} of side 1 to {MAX_SIDE}"
        )
    cells = _numbers(message.fp16, (kinds, side, side), "likeness")
    for name in ("floor", "odds"):
        if not math.isfinite(value := getattr(message, name)):
            raise InputError(f"likeness: {name} is {value}; expected a number")
    own = Likeness(message.word, cells.to(device), message.floor)
    if not message.rivals:
        return own
    count = min(max(len(message.rivals) // (2 * side * side), 1), MAX_KINDS)
    rivals = _numbers(message.rivals, (count, side, side), "likeness: rivals")
    return replace(own, rivals=rivals.to(device), odds=message.odds)


def _halves(values: Tensor) -> bytes:
    """Numbers of any float type as float16, little endian."""
    return values.detach().to("cpu", torch.float16).numpy().astype("<f2").tobytes()


def _numbers(data: bytes, shape: tuple[int, ...], field: str) -> Tensor:
    """Float16 of others, as float32 of this shape."""
    size = 2 * math.prod(shape)
    if len(data) != size:
        raise InputError(f"{field}: {len(data)} bytes for {list(shape)}; expected {size}")
    values = np.frombuffer(data, "<f2").reshape(shape)
    if not np.isfinite(values).all():
        raise InputError(f"{field}: NaN or infinity; expected numbers")
    return torch.from_numpy(values.astype(np.float32))


def to_meaning(
    reply: GroundingResult, scores: Sequence[float] = (), written: str = ""
) -> pb.Meaning:
    """What a language model said, as a message."""
    return pb.Meaning(
        found=reply.found,
        text=reply.text,
        phrases=[
            pb.Phrase(text=p.text, begin=p.begin, end=p.end, mask=p.mask) for p in reply.phrases
        ],
        embeddings=encode_embeddings(reply.embeddings),
        scores=[score if math.isfinite(score) else 0.0 for score in scores],
        unknown=reply.unknown,
        note=reply.note,
        written=written,
        likeness=None if reply.likeness is None else encode_likeness(reply.likeness),
    )


def from_meaning(message: pb.Meaning, device: torch.device | str = "cpu") -> GroundingResult:
    """The same as the language model on board would give it, without the states behind it.

    Raises:
        InputError: as `decode_embeddings` and `decode_likeness`, or a phrase without an embedding.
    """
    embeddings = decode_embeddings(message.embeddings).to(device)
    phrases = tuple(Phrase(p.text, p.begin, p.end, p.mask) for p in message.phrases)
    for phrase in phrases:
        if phrase.mask >= len(embeddings):
            raise InputError(
                f"phrase {phrase.text!r} has mask {phrase.mask}; there are {len(embeddings)}"
            )
    likeness = decode_likeness(message.likeness, device) if message.HasField("likeness") else None
    return GroundingResult(
        message.text,
        message.written,
        phrases,
        embeddings,
        Generated.nothing(0),
        tuple(message.unknown),
        message.note,
        likeness=likeness,
    )
