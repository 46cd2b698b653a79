"""What goes over the wire: as the .proto file says, readable by older and newer sides, no more than asked for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import Phrase
from sa2va_model.mllm.types import Generated
from sa2va_model.mllm.word_probes import Likeness
from sa2va_model.results import GroundingResult
from sa2va_serve.wire import codec
from sa2va_serve.wire import grounding_pb2 as pb

PROTO = Path(pb.__file__).with_name("grounding.proto")


def test_the_generated_code_is_that_of_the_proto_file() -> None:
    text = re.sub(r"//[^\n]*", "", PROTO.read_text(encoding="utf-8"))
    written = {
        name: {field: int(number) for field, number in re.findall(r"(\w+) = (\d+);", body)}
        for name, body in re.findall(r"message (\w+) \{([^}]*)\}", text)
    }
    generated = {
        name: {field.name: field.number for field in message.fields}
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }
    assert written == generated
    calls = re.findall(r"rpc (\w+)", text)
    service = pb.DESCRIPTOR.services_by_name["Grounding"]
    assert calls == [method.name for method in service.methods]
    assert service.full_name == "sa2va.grounding.v1.Grounding"


def test_fields_of_a_newer_version_survive() -> None:
    newer = pb.Phrase(text="the mug", begin=1, end=8).SerializeToString() + b"\xa2\x06\x03new"
    known = pb.Phrase.FromString(newer)
    assert known.text == "the mug"
    assert known.SerializeToString() == newer


def test_an_answer_comes_back_as_it_was() -> None:
    embeddings = torch.randn(2, 8)
    said = GroundingResult(
        "a mug and a can", "raw", (Phrase("a mug", 0, 5, 0),), embeddings, Generated.nothing(4),
        ("xylophone",), "I do not know the word 'xylophone'.",
    )  # fmt: skip
    message = pb.Meaning.FromString(codec.to_meaning(said, [0.5, float("nan")]).SerializeToString())
    back = codec.from_meaning(message)
    assert torch.equal(back.embeddings, embeddings.half().float())
    assert (back.text, back.phrases, back.unknown, back.note) == (
        said.text, said.phrases, said.unknown, said.note,
    )  # fmt: skip
    assert list(message.scores) == [0.5, 0.0]
    assert back.likeness is None, "an older server has none"


def test_what_a_mask_is_held_against_comes_back_as_it_was() -> None:
    cells = 8 * torch.randn(2, 3, 3)
    likeness = Likeness("wine bottle", cells, floor=1.25)
    said = GroundingResult("", "", (), torch.zeros(1, 8), Generated.nothing(4), likeness=likeness)
    back = codec.from_meaning(pb.Meaning.FromString(codec.to_meaning(said).SerializeToString()))
    assert back.likeness is not None
    assert (back.likeness.word, back.likeness.floor) == ("wine bottle", 1.25)
    assert torch.equal(back.likeness.cells, cells.half().float())
    assert back.likeness.rivals is None
    rivals = 8 * torch.randn(4, 3, 3)
    said = replace(said, likeness=replace(likeness, rivals=rivals, odds=-4.5))
    again = codec.from_meaning(pb.Meaning.FromString(codec.to_meaning(said).SerializeToString()))
    assert again.likeness is not None
    assert again.likeness.rivals is not None
    assert again.likeness.odds == -4.5
    assert torch.equal(again.likeness.cells, cells.half().float())
    assert torch.equal(again.likeness.rivals, rivals.half().float())
    older = codec.to_meaning(said).likeness
    older.ClearField("rivals")
    assert len(older.fp16) == cells.numel() * 2, "who knows of no rivals reads the rest as before"


def test_png_is_exact_and_jpeg_is_small(frame: np.ndarray) -> None:
    smooth = cv2.GaussianBlur(frame, (0, 0), 4)
    assert np.array_equal(codec.decode_image(codec.encode_image(smooth, "png")), smooth)
    data = codec.encode_image(smooth, "jpeg")
    assert len(data) < smooth.size / 4
    assert np.abs(codec.decode_image(data).astype(int) - smooth).mean() < 3


def huge_png() -> bytes:
    """30,000 x 30,000 pixels in a hundred bytes: what would unpack to 2.7 GB."""
    data = bytearray(codec.encode_image(np.zeros((1, 1, 3), np.uint8), "png"))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no JPEG or PNG"),
        (b"GIF89a" + bytes(40), "no JPEG or PNG"),
        (codec.encode_image(np.zeros((8, 8, 3), np.uint8), "png")[:50], "broken"),
        (huge_png(), "30000x30000|no JPEG or PNG"),
    ],
)
def test_pictures_of_others_are_not_trusted(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        codec.decode_image(data)


@pytest.mark.parametrize(
    "message",
    [
        pb.Embeddings(count=1, width=4, fp16=b"1234567"),
        pb.Embeddings(count=1 << 30, width=1 << 30),
        pb.Embeddings(count=1, width=1, fp16=b"\x00\x7e"),  # NaN
    ],
)
def test_embeddings_of_others_are_not_trusted(message: pb.Embeddings) -> None:
    with pytest.raises(InputError, match="embeddings"):
        codec.decode_embeddings(message)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (pb.Likeness(), "0 maps of side 0"),
        (pb.Likeness(kinds=1), "1 maps of side 0"),
        (
            pb.Likeness(kinds=65, side=1, fp16=bytes(2 * 65)),
            "65 maps of side 1; expected 1 to 64",
        ),
        (pb.Likeness(kinds=1, side=65, fp16=bytes(2 * 65**2)), "of side 65"),
        (pb.Likeness(kinds=1 << 30, side=1 << 30), "expected 1 to 64"),
        (
            pb.Likeness(kinds=1, side=1, fp16=bytes(2), rivals=bytes(130)),
            r"130 bytes for \[64, 1, 1\]",
        ),
        (
            pb.Likeness(kinds=1, side=2, fp16=bytes(8), rivals=bytes(9)),
            r"rivals.*9 bytes for \[1, 2, 2\]",
        ),
        (pb.Likeness(kinds=1, side=2, fp16=bytes(7)), r"7 bytes for \[1, 2, 2\]; expected 8"),
        (pb.Likeness(kinds=1, side=1, fp16=b"\x00\x7e"), "NaN or infinity"),
        (pb.Likeness(kinds=1, side=1, fp16=bytes(2), floor=float("nan")), "floor is nan"),
        (pb.Likeness(kinds=1, side=1, fp16=bytes(2), floor=float("inf")), "floor is inf"),
        (pb.Likeness(kinds=1, side=1, fp16=bytes(2), odds=float("-inf")), "odds is -inf"),
    ],
)
def test_maps_of_others_are_not_trusted(message: pb.Likeness, why: str) -> None:
    with pytest.raises(InputError, match=f"likeness: .*{why}"):
        codec.from_meaning(pb.Meaning(likeness=message))
