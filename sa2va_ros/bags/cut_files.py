# SPDX-License-Identifier: Apache-2.0
"""Storage files of a recorder that was killed: every message up to the cut.

rosbags and the `mcap` package want a file's end, or at least whole chunks; a recorder writes one chunk for seconds of
camera images. So records are walked from the front here, into the chunk that is cut, too. SQLite reads row by row
until a page is missing.
"""

from __future__ import annotations

import io
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backports import zstd
from lz4.frame import LZ4FrameDecompressor

MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_LARGEST = 2**31  # bytes of one record that are believed
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Found:
    """One message of a damaged file."""

    topic: str
    kind: str
    recorded: int
    data: bytes


def messages_until_cut(file: Path) -> Iterator[Found]:
    """The messages of a .mcap or .db3 file, in the order of the file, for as long as they are whole."""
    return _from_mcap(file) if file.suffix == ".mcap" else _from_sqlite(file)


def unpacked(raw: bytes) -> bytes:
    """A message that was compressed by itself, as metadata.yaml would say; others as they are."""
    return zstd.decompress(raw) if raw.startswith(_ZSTD) else raw


def _from_mcap(file: Path) -> Iterator[Found]:
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            return
        for code, record in _records(stream):
            if code == _DATA_END:
                return
            inner = _records(_inside(record)) if code == _CHUNK else iter([(code, record)])
            for kind, content in inner:
                # What is cut in the middle of its fields is the end.
                with suppress(struct.error, UnicodeDecodeError):
                    if kind == _SCHEMA:
                        schemas[_number(content)] = _text(content, 2)[0]
                    elif kind == _CHANNEL:
                        number, schema = struct.unpack_from("<HH", content)
                        channels[number] = (_text(content, 4)[0], schemas.get(schema, ""))
                    elif kind == _MESSAGE and len(content) > 22:
                        number, _, recorded, _ = struct.unpack_from("<HIQQ", content)
                        if number in channels:
                            yield Found(*channels[number], recorded, content[22:])


def _records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Whole records; of a chunk that is cut, what there is."""
    while len(head := stream.read(9)) == 9:
        code, length = struct.unpack("<BQ", head)
        if not 0 < code < 0x80 or length > _LARGEST:
            return
        content = stream.read(length)
        if len(content) == length or code == _CHUNK:
            yield code, content


def _inside(chunk: bytes) -> BinaryIO:
    """The records of a chunk, decompressed as far as that goes."""
    try:
        name, at = _text(chunk, 28)
    except (struct.error, UnicodeDecodeError):
        return io.BytesIO()
    data = chunk[at + 8 :]
    with suppress(zstd.ZstdError, RuntimeError, EOFError):
        if name == "zstd":
            return io.BytesIO(zstd.ZstdDecompressor().decompress(data))
        if name == "lz4":
            return io.BytesIO(LZ4FrameDecompressor().decompress(data))
    return io.BytesIO(b"" if name else data)


def _number(content: bytes) -> int:
    return int(struct.unpack_from("<H", content)[0])


def _text(content: bytes, at: int) -> tuple[str, int]:
    """A string and the offset behind it."""
    (length,) = struct.unpack_from("<I", content, at)
    end = at + 4 + length
    if end > len(content):
        raise struct.error("cut")
    return content[at + 4 : end].decode(), end


def _from_sqlite(file: Path) -> Iterator[Found]:
    query = (
        "SELECT topics.name, topics.type, messages.timestamp, messages.data "
        "FROM messages JOIN topics ON topics.id = messages.topic_id ORDER BY messages.id"
    )
    name = f"file:{file}?immutable=1"
    with suppress(sqlite3.Error), closing(sqlite3.connect(name, uri=True)) as base:
        # Without this, a file that is shorter than its head says is not opened.
        base.execute("PRAGMA writable_schema=ON")
        for topic, kind, recorded, data in base.execute(query):
            yield Found(topic, kind, recorded, unpacked(bytes(data)))
