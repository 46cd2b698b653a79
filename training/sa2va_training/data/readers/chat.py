# SPDX-License-Identifier: Apache-2.0
"""Conversations without masks: LLaVA-1.5 (images, or text alone) and Video-ChatGPT / Chat-UniVi (videos)."""

from __future__ import annotations

from pathlib import Path

from sa2va_model.errors import InputError
from sa2va_model.io.frames import VIDEO_SUFFIXES, VideoFile
from sa2va_model.mllm.chat import IMAGE_PLACEHOLDER
from sa2va_training.batches.wording import first_turn
from sa2va_training.data.pictures import ImageFile, Picture, VideoFrame
from sa2va_training.data.readers.records import Record, Records, read_json_list
from sa2va_training.data.sample import Dataset, Message, Role, Sample

_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}
_MARKS = (IMAGE_PLACEHOLDER, "<video>")


def open_llava(
    root: Path,
    name: str,
    *,
    annotations: str = "LLaVA-Instruct-150K/llava_v1_5_mix665k.json",
    images: str = "llava_images",
    text_only: bool = True,
) -> Dataset:
    """Opens LLaVA-1.5's instruction data.

    Args:
        annotations: the file of conversations, below `root`.
        images: folder that the records' paths start from, below `root`.
        text_only: keep the rows without a picture (about 40,000 of 665,000).
    """
    path = root / annotations
    records = [
        record
        for i, value in enumerate(read_json_list(path))
        for record in [Record(value, f"{path}: record {i}")]
        if text_only or "image" in record
    ]

    def build(index: int) -> Sample:
        record = records[index]
        frames: tuple[Picture, ...] = ()
        if "image" in record:
            frames = (ImageFile(root / images / record.text("image")),)
        turns = conversation(record, pictures=bool(frames))
        return Sample(name, record.where, str(index), frames, turns=turns, kind="chat")

    return Records(name, len(records), build)


def open_video_chat(
    root: Path,
    name: str,
    *,
    annotations: str = "video_chat.json",
    videos: str = "Activity_Videos",
) -> Dataset:
    """Opens questions about videos in either published shape.

    `{"q", "a", "video_id"}` as Video-ChatGPT publishes them, or `{"video", "conversations"}` as Chat-UniVi and
    Video-ChatGPT's converter write them (a feature file's ending `.pkl` is not looked at).

    Args:
        annotations: the file of questions, below `root`.
        videos: folder of the video files, below `root`.
    """
    path = root / annotations
    records = [Record(value, f"{path}: record {i}") for i, value in enumerate(read_json_list(path))]

    def build(index: int) -> Sample:
        record = records[index]
        if "conversations" in record:
            stem = record.text("video")
            turns = conversation(record, pictures=True)
        else:
            stem = record.text("video_id")
            turns = (
                Message("user", first_turn(record.text("q"))),
                Message("assistant", record.text("a")),
            )
        file = _video(root / videos, stem, record)
        source = VideoFile(file)
        count = source.frame_count or sum(1 for _ in source)
        frames = tuple(VideoFrame(file, i) for i in range(count))
        return Sample(name, record.where, str(index), frames, True, turns, kind="chat")

    return Records(name, len(records), build)


def conversation(record: Record, *, pictures: bool) -> tuple[Message, ...]:
    """The turns of a LLaVA-style record.

    Leading answers are skipped, as in the published training code; the mark of the picture is moved to the start of
    the first user turn.

    Raises:
        InputError: an unknown speaker, the same speaker twice in a row, or nothing is left.
    """
    turns: list[Message] = []
    for entry in record.records("conversations"):
        speaker = entry.text("from")
        if speaker not in _ROLES:
            raise InputError(f"{entry.where}: field 'from' is {speaker!r}, expected human or gpt")
        role = _ROLES[speaker]
        if not turns and role == "assistant":
            continue
        if turns and turns[-1].role == role:
            raise InputError(f"{entry.where}: {speaker} speaks twice in a row, expected turns")
        text = entry.text("value", "")
        for mark in _MARKS:
            text = text.replace(mark, "")
        if not turns and pictures:
            text = first_turn(text.strip())
        turns.append(Message(role, text.strip()))
    if len(turns) < 2:
        raise InputError(f"{record.where}: conversation has no question with an answer")
    return tuple(turns[: len(turns) // 2 * 2])


def _video(folder: Path, name: str, record: Record) -> Path:
    """The video of that name, whatever its ending."""
    if (folder / name).suffix.lower() in VIDEO_SUFFIXES and (folder / name).is_file():
        return folder / name
    stem = (
        name.removesuffix(Path(name).suffix)
        if Path(name).suffix in (".pkl", *VIDEO_SUFFIXES)
        else name
    )
    for suffix in VIDEO_SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise InputError(f"{record.where}: video '{name}' is not in {folder}, with any known ending")
