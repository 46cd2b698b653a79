# SPDX-License-Identifier: Apache-2.0
"""Data that does not fit: tar files in WebDataset's layout, of which a few are open, or here, at a time.

ROOT/00000.tar          KEY.json (a record of the simple folder, masks in it) and KEY.jpg, or KEY.0000.jpg … of a clip
ROOT/00000.index.json   where each sample lies in it, so that any one can be read without the others
ROOT/shards.json        {"00000.tar": URL, …}: where tar files come from that are not here

Which samples make up which batch is a function of (seed, batch) as for any dataset (`mixture.py`); `blocks` tells the
mixture to go through a few shards at a time.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json
from sa2va_model.io.pictures import decode_image
from sa2va_training.data.masks import encode_mask
from sa2va_training.data.pictures import Picture
from sa2va_training.data.readers.records import Record
from sa2va_training.data.readers.simple import (
    RecordScene,
    SimpleFolder,
    record_id,
    recording_id,
)
from sa2va_training.data.sample import Dataset, Sample

INDEX, SOURCES = ".index.json", "shards.json"
_PLACES = ("image", "clip", "video", "frames", "every", "labels")
Entry = dict[str, Any]
"""Of an index: `key`, `parts` and `files`, each a name's ending with where its bytes begin and how many they are."""


def open_shards(root: Path, name: str, *, keep: int = 8) -> Dataset:
    """Opens a folder of shards.

    Args:
        keep: tar files that are kept here of those that have to be fetched.
    """
    return Shards(root, name, sorted(root.glob(f"*{INDEX}")), keep)


class Shards:
    """Samples in tar files.

    Attributes:
        blocks: how many samples each of them has.
    """

    def __init__(self, root: Path, name: str, indexes: Sequence[Path], keep: int) -> None:
        if not indexes:
            raise InputError(f"{root}: has no *{INDEX}; expected shards of `sa2va data export`")
        self.root, self.name, self.keep = root, name, keep
        self._indexes = tuple(indexes)
        self._entries = [read_json(file, list) for file in indexes]
        self._places = [
            (shard, entry, part)
            for shard, entries in enumerate(self._entries)
            for entry in entries
            for part in entry["parts"]
        ]
        self.blocks = tuple(sum(len(e["parts"]) for e in entries) for entries in self._entries)
        sources = root / SOURCES
        self._urls: dict[str, str] = read_json(sources, dict) if sources.is_file() else {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        shard, entry, (field, number) = self._places[index]
        file = self._file(shard)
        files = {end: (int(at), int(size)) for end, (at, size) in entry["files"].items()}
        record = Record(json.loads(read_bytes(file, *files["json"])), f"{file}: {entry['key']}")
        frames = tuple(
            TarPicture(self, shard, f"{entry['key']}.{end}", *files[end])
            for end in sorted(files)
            if end != "json"
        )
        scene = RecordScene(record, frames, clip="clip" in record)
        if field == "expressions":
            return scene.expressions(self.name)
        made = scene.question if field == "questions" else scene.caption
        return made(self.name, int(number))

    def cut(self, share: float) -> tuple[Shards, Shards | None]:
        """Without the last tar files, and these: a share of them, at least one where there are two."""
        count = min(max(1, round(share * len(self._indexes))), len(self._indexes) - 1)
        if share <= 0 or count < 1:
            return self, None
        parts = self._indexes[:-count], self._indexes[-count:]
        train, held = (Shards(self.root, self.name, part, self.keep) for part in parts)
        return train, held

    def _file(self, shard: int) -> Path:
        """The tar file, fetched if it is not here."""
        index = self._indexes[shard]
        path = index.with_name(index.name.removesuffix(INDEX) + ".tar")
        with self._lock:
            if path.is_file():
                if path.name in self._urls:
                    path.touch()
                return path
            url = self._urls.get(path.name)
            if url is None:
                raise InputError(
                    f"{path}: no such file, and {SOURCES} does not say where it is from"
                )
            self._make_room()
            part = path.with_suffix(".part")
            try:
                with urlopen(url, timeout=60) as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except (URLError, OSError) as error:
                raise InputError(f"{path}: cannot be fetched from {url} ({error})") from error
            part.replace(path)
            return path

    def _make_room(self) -> None:
        """Removes the fetched tar files that were not used for longest."""
        here = [self.root / n for n in self._urls if (self.root / n).is_file()]
        here.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in here[: max(len(here) - self.keep + 1, 0)]:
            path.unlink()

    def bytes_of(self, shard: int, at: int, size: int) -> bytes:
        """Some bytes of a tar file."""
        return read_bytes(self._file(shard), at, size)


@dataclass(frozen=True)
class TarPicture:
    """A picture in a tar file."""

    shards: Shards
    shard: int
    key: str
    at: int
    length: int

    @property
    def name(self) -> str:
        """Shard and key."""
        return f"{self.shards.root}/{self.shard}/{self.key}"

    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.read().shape[:2]
        return height, width

    def read(self) -> np.ndarray:
        """Decode."""
        return decode_image(self.shards.bytes_of(self.shard, self.at, self.length), self.name)


def folder_records(folder: SimpleFolder) -> Iterator[tuple[str, Entry, Sequence[Picture]]]:
    """The records of a simple folder as `write_shards` takes them; their masks move into them."""
    for number, (record, sample, found) in enumerate(folder.marked()):
        size = sample.size()
        objects: Entry = {}
        for key, entry in (record.data.get("objects") or {}).items():
            masks = [
                None
                if m is None
                else encode_mask(pixels)
                if (pixels := m.read(*size)).any()
                else []
                for m in found[key].masks
            ]
            objects[key] = {**entry, "masks": masks if sample.clip else masks[0]}
        kept = {k: v for k, v in record.data.items() if k not in _PLACES}
        made = {**kept, "id": record_id(record), "objects": objects}
        made |= {"recording": recording_id(record) or record_id(record)}
        if sample.clip:
            made["clip"] = True
        if _parts(made):
            yield f"{number:07d}", made, sample.frames


def read_bytes(file: Path, at: int, size: int) -> bytes:
    """Some bytes of a file."""
    try:
        with file.open("rb") as opened:
            opened.seek(at)
            data = opened.read(size)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}, expected a tar file") from error
    if len(data) != size:
        raise InputError(f"{file}: ends early; expected {size} bytes at {at}")
    return data


def write_shards(
    samples: Iterator[tuple[str, Entry, Sequence[Picture]]], root: Path, *, per: int = 1000
) -> int:
    """Writes records with their pictures as tar files with indexes; how many files.

    Args:
        samples: key, record (masks in it, without paths) and pictures of each.
        per: samples of a file.

    Raises:
        InputError: the folder holds shards, or a picture cannot be read.
    """
    if any(root.glob(f"*{INDEX}")):
        raise InputError(f"{root}: holds shards; expected a new folder")
    root.mkdir(parents=True, exist_ok=True)
    count, rest = 0, iter(samples)
    while rows := list(islice(rest, per)):
        with tarfile.open(root / f"{count:05d}.tar", "w") as archive:
            for key, record, pictures in rows:
                _add(archive, f"{key}.json", json.dumps(record).encode())
                for t, picture in enumerate(pictures):
                    path = Path(picture.name)
                    whole = path.is_file()
                    data, suffix = (path.read_bytes(), path.suffix) if whole else _coded(picture)
                    ending = f"{t:04d}{suffix}" if "clip" in record else suffix[1:]
                    _add(archive, f"{key}.{ending}", data)
        _write_index(root, count, [(key, record) for key, record, _ in rows])
        count += 1
    if not count:
        raise InputError(f"{root}: nothing to write; expected records with something said")
    return count


def _coded(picture: Picture) -> tuple[bytes, str]:
    """A frame of a video as a file of its own."""
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture.read()[:, :, ::-1]))
    return data.tobytes(), ".jpg"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _write_index(root: Path, number: int, rows: Sequence[tuple[str, Entry]]) -> None:
    """Reads off the finished tar file where everything lies."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(root / f"{number:05d}.tar") as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            found.setdefault(key, {})[ending] = member.offset_data, member.size
    index = [{"key": key, "parts": _parts(record), "files": found[key]} for key, record in rows]
    file = root / f"{number:05d}{INDEX}"
    file.write_text(json.dumps(index) + "\n", encoding="utf-8")


def _parts(record: Entry) -> list[tuple[str, int]]:
    """The samples of a record, as the simple folder has them."""
    parts = [("expressions", 0)] if record.get("expressions") else []
    for field in ("questions", "captions"):
        parts += [(field, i) for i in range(len(record.get(field) or ()))]
    return parts
