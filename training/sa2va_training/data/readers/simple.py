# SPDX-License-Identifier: Apache-2.0
"""The simple folder: pictures, masks and what is said about them. The layout is described in docs/datasets.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from sa2va_model.errors import InputError
from sa2va_model.io.frames import VideoFile, natural_key
from sa2va_model.io.pictures import IMAGE_SUFFIXES
from sa2va_model.mllm.chat import PHRASE_END, PHRASE_START, SEG
from sa2va_training.batches.wording import DESCRIBE, DESCRIBE_GROUNDED, first_turn
from sa2va_training.data.masks import CodedMask, EmptyMask, LabelMask, Mask, all_of
from sa2va_training.data.pictures import ImageFile, Picture, VideoFrame
from sa2va_training.data.readers.records import Record, Records, read_json_lines, read_json_list
from sa2va_training.data.sample import Dataset, Message, ObjectMasks, Referring, Sample

FIELDS = (
    "id", "image", "clip", "video", "frames", "every", "labels", "objects", "expressions", "questions",
    "captions", "split", "notes", "recording",
)  # fmt: skip
SPLITS = ("train", "val", "test")


def open_simple(root: Path, name: str, *, split: str = "") -> Dataset:
    """Opens a simple folder.

    Args:
        split: "train", "val", "test", or "" for all records; a file without any `split` is all of each.
    """
    return SimpleFolder(root, name, split)


class SimpleFolder(Records):
    """A simple folder as samples.

    A record gives one sample with all its expressions, one for each question and one for each caption.
    """

    def __init__(self, root: Path, name: str = "simple", split: str = "") -> None:
        """Reads the annotations and checks them.

        Raises:
            InputError: a field is missing, wrong or unknown.
        """
        if split not in ("", *SPLITS):
            raise InputError(f"{name}: split is {split!r}, expected one of {', '.join(SPLITS)}")
        self.root = root
        self.records = _chosen(_read(root), split)
        self._parts: list[tuple[Record, str, int]] = []
        seen: set[str] = set()
        for record in self.records:
            _check(record)
            key = record_id(record)
            if key in seen:
                raise InputError(f"{record.where}: id '{key}' was used before, expected unique ids")
            seen.add(key)
            if record.entries("expressions", []):
                self._parts.append((record, "expressions", 0))
            for field in ("questions", "captions"):
                count = len(record.entries(field, []))
                self._parts += [(record, field, i) for i in range(count)]
        super().__init__(name, len(self._parts), self._sample)

    def marked(self) -> Iterator[tuple[Record, Sample, dict[str, ObjectMasks]]]:
        """Each record with its pictures and, by their keys, the masks of its objects; nothing need be said of it."""
        for record in self.records:
            scene = _Scene(self.root, record)
            masks = {
                key: scene.target([key], "objects") for key in record.data.get("objects") or {}
            }
            yield record, scene.bare(self.name), masks

    def _sample(self, index: int) -> Sample:
        record, field, number = self._parts[index]
        scene = _Scene(self.root, record)
        if field == "expressions":
            return scene.expressions(self.name)
        if field == "questions":
            return scene.question(self.name, number)
        return scene.caption(self.name, number)


def record_id(record: Record) -> str:
    """The id of a record: its own, or the path of its picture or clip."""
    if "id" in record:
        return str(record.data["id"])
    for key in ("image", "clip", "video"):
        if key in record:
            return record.text(key)
    frames = record.texts("frames")
    return frames[0] if frames else record.where


def recording_id(record: Record) -> str:
    """What was recorded in one go: its own word, or the folder that holds the running numbers of one camera."""
    if "recording" in record:
        return record.text("recording")
    if "image" not in record:
        return ""  # a clip is one
    path = Path(record.text("image"))
    numbered = len(path.parts) > 2 and path.stem[-1:].isdigit()
    return str(path.parent) if numbered else ""


class _Scene:
    """One record, opened: its pictures and where the masks of its objects are."""

    def __init__(self, root: Path, record: Record) -> None:
        self.root, self.record = root, record
        self.clip = "image" not in record
        self.frames = self._pictures()
        self.labels = self._label_files()

    def _pictures(self) -> tuple[Picture, ...]:
        record, root = self.record, self.root
        if "image" in record:
            return (ImageFile(root / record.text("image")),)
        if "frames" in record:
            return tuple(ImageFile(root / name) for name in record.texts("frames"))
        if "clip" in record:
            folder = root / record.text("clip")
            if not folder.is_dir():
                raise InputError(f"{record.where}: clip '{record.text('clip')}' is no folder")
            files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
            return tuple(ImageFile(f) for f in sorted(files, key=lambda f: natural_key(f.name)))
        path = root / record.text("video")
        source = VideoFile(path)
        count = source.frame_count or sum(1 for _ in source)
        return tuple(VideoFrame(path, i) for i in range(0, count, record.number("every", 1)))

    def _label_files(self) -> list[Path | None]:
        """The label image of each frame; None where there is none."""
        if "labels" not in self.record:
            return [None] * len(self.frames)
        place = self.root / self.record.text("labels")
        if not self.clip:
            return [place]
        if not place.is_dir():
            raise InputError(
                f"{self.record.where}: labels '{self.record.text('labels')}' is no folder, "
                "expected one with a PNG for each annotated frame"
            )
        if "video" in self.record:
            by_number = {int(n[-1]): f for f in place.glob("*.png") if (n := _numbers(f.stem))}
            return [by_number.get(f.index) for f in self.frames if isinstance(f, VideoFrame)]
        by_stem = {f.stem: f for f in place.glob("*.png")}
        return [by_stem.get(Path(f.name).stem) for f in self.frames]

    def bare(self, source: str) -> Sample:
        """The record's pictures alone."""
        return Sample(
            source, self.record.where, record_id(self.record), self.frames, clip=self.clip
        )

    def target(self, names: list[str], what: str) -> ObjectMasks:
        """The named objects together, on all frames."""
        objects = self.record.data.get("objects") or {}
        each = [self._object(name, objects, what) for name in names]
        if not each:
            return ObjectMasks((EmptyMask(),) * len(self.frames))
        title = ", ".join(str((objects.get(n) or {}).get("name", n)) for n in names)
        return ObjectMasks(tuple(all_of(masks) for masks in zip(*each, strict=True)), title)

    def _object(self, name: str, objects: dict[str, Any], what: str) -> list[Mask | None]:
        """One object's mask on each frame."""
        where = self.record.where
        entry = objects.get(name)
        if entry is None:
            raise InputError(
                f"{where}: {what} names object '{name}', which is not in 'objects' "
                f"({', '.join(objects) or 'there are none'})"
            )
        if "masks" in entry:
            masks = entry["masks"] if self.clip else [entry["masks"]]
            if not isinstance(masks, list) or len(masks) != len(self.frames):
                raise InputError(
                    f"{where}: object '{name}' has {len(masks)} masks, expected "
                    f"{len(self.frames)}, one for each frame"
                )
            return [None if m is None else CodedMask(m, f"{where}: object '{name}'") for m in masks]
        if "labels" not in self.record or not name.isdigit():
            raise InputError(
                f"{where}: object '{name}' has no 'masks', expected them, or 'labels' in the record "
                "and the pixel value as the object's name"
            )
        return [None if path is None else LabelMask(path, (int(name),)) for path in self.labels]

    def expressions(self, source: str) -> Sample:
        """All expressions of the record."""
        found = []
        for i, entry in enumerate(self.record.records("expressions")):
            names = entry.texts("objects")
            kind = entry.text("kind", "" if names else "none")
            target = self.target(names, f"expressions [{i}]")
            found.append(Referring(entry.text("text"), target, kind, str(i)))
        return self._base(
            source, "expressions", referrings=tuple(found), objects=tuple(self._named())
        )

    def _named(self) -> Iterator[ObjectMasks]:
        """Every object that has a name and masks."""
        for key, entry in (self.record.data.get("objects") or {}).items():
            labelled = "labels" in self.record and key.isdigit()
            if entry.get("name") and (labelled or "masks" in entry):
                yield self.target([key], "objects")

    def question(self, source: str, number: int) -> Sample:
        """One question with its answer."""
        entry = self.record.records("questions")[number]
        answers = entry.texts("answer") if isinstance(entry.raw("answer"), list) else []
        answers = answers or [entry.text("answer")]
        regions = []
        for name in entry.texts("regions", []):
            target = self.target([name], f"questions [{number}]")
            if target.masks[0] is None:
                raise InputError(f"{entry.where}: region '{name}' is not annotated")
            regions.append(target.masks[0])
        return self._base(
            source,
            f"questions {number}",
            turns=(
                Message("user", first_turn(entry.text("question"))),
                Message("assistant", answers[0]),
            ),
            references=tuple(answers),
            regions=tuple(regions),
            kind=entry.text("kind", "question"),
        )

    def caption(self, source: str, number: int) -> Sample:
        """One caption; with phrases it is grounded."""
        entry = self.record.records("captions")[number]
        text, groups = entry.text("text"), entry.entries("objects", [])
        phrases = text.count(PHRASE_END)
        if phrases != len(groups) or text.count(PHRASE_START) != phrases:
            raise InputError(
                f"{entry.where}: text has {phrases} <p>phrases</p> and 'objects' {len(groups)} entries, "
                "expected one entry for each phrase"
            )
        # the official spelling has blanks around the phrase and the [SEG] after it
        spaced = re.sub(r"<p>\s*(.*?)\s*</p>", rf"<p> \1 </p> {SEG}", text)
        what = f"captions [{number}]"
        return self._base(
            source,
            f"captions {number}",
            turns=(
                Message("user", first_turn(DESCRIBE_GROUNDED if phrases else DESCRIBE)),
                Message("assistant", spaced),
            ),
            targets=tuple(self.target([str(n) for n in _names(g, entry)], what) for g in groups),
            references=(re.sub(r"\s+", " ", re.sub(r"</?p>", "", text)).strip(),),
            kind=entry.text("kind", "grounded caption" if phrases else "caption"),
        )

    def _base(self, source: str, part: str, **fields: Any) -> Sample:
        record = self.record
        return Sample(
            source=source,
            record=record.where,
            id=f"{record_id(record)}:{part}",
            frames=self.frames,
            clip=self.clip,
            recording=recording_id(record),
            stamps=_stamps(record, len(self.frames)) if self.clip else (),
            **fields,
        )


def _stamps(record: Record, frames: int) -> tuple[float, ...]:
    """What `from-bag` noted of a clip's frames; nothing where frames were added or taken away since."""
    notes = record.data.get("notes")
    noted = notes.get("stamps") if isinstance(notes, dict) else None
    if not isinstance(noted, list) or len(noted) != frames:
        return ()
    if not all(isinstance(s, (int, float)) for s in noted) or any(
        b <= a for a, b in pairwise(noted)
    ):
        return ()
    return tuple(float(s) for s in noted)


class RecordScene(_Scene):
    """A record whose pictures are given, and whose masks all stand in it."""

    def __init__(self, record: Record, frames: tuple[Picture, ...], *, clip: bool) -> None:
        self.root, self.record = Path(), record
        self.clip, self.frames = clip, frames
        self.labels = [None] * len(frames)


def _names(group: Any, entry: Record) -> list[str]:
    """The objects of one phrase; a single name may stand without a list."""
    if isinstance(group, (str, int)):
        return [str(group)]
    if isinstance(group, list):
        return [str(name) for name in group]
    raise InputError(f"{entry.where}: 'objects' holds {group!r}, expected object names")


def _numbers(stem: str) -> list[str]:
    return re.findall(r"\d+", stem)


def _read(root: Path) -> list[Record]:
    lines, whole = root / "annotations.jsonl", root / "annotations.json"
    if lines.is_file():
        return [Record(value, where) for where, value in read_json_lines(lines)]
    if whole.is_file():
        return [
            Record(value, f"{whole}: record {i}") for i, value in enumerate(read_json_list(whole))
        ]
    raise InputError(f"{root}: has no annotations.jsonl or annotations.json; see docs/datasets.md")


def _chosen(records: list[Record], split: str) -> list[Record]:
    if not split or not any("split" in record for record in records):
        return records
    return [record for record in records if record.text("split", "train") == split]


def _check(record: Record) -> None:
    """What can be checked without opening a picture."""
    record.only(FIELDS)
    shown = [key for key in ("image", "clip", "video", "frames") if key in record]
    if len(shown) != 1:
        raise InputError(
            f"{record.where}: has {' and '.join(shown) or 'no picture'}, "
            "expected exactly one of image, clip, video, frames"
        )
    if "split" in record and record.text("split") not in SPLITS:
        raise InputError(
            f"{record.where}: field 'split' is {record.text('split')!r}, "
            f"expected one of {', '.join(SPLITS)}"
        )
    if "objects" in record:
        objects = record.record("objects")
        for name in objects.data:
            objects.record(name).only(("name", "masks", "notes"))
    for entry in record.records("expressions", []):
        entry.only(("text", "objects", "kind", "notes"))
        entry.text("text")
        entry.texts("objects")
    for entry in record.records("questions", []):
        entry.only(("question", "answer", "kind", "regions", "notes"))
        if "regions" in entry and "image" not in record:
            raise InputError(f"{entry.where}: 'regions' in a clip, expected them on an image only")
        entry.text("question")
        entry.raw("answer")
    for entry in record.records("captions", []):
        entry.only(("text", "objects", "kind", "notes"))
        entry.text("text")
