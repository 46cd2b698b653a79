# SPDX-License-Identifier: Apache-2.0
"""Object, scene, video: three stages of questions about every object of every clip, each answer kept with its question.

FOLDER/annotate/{object,scene,video}.jsonl    one line for each object: what was asked, by whom, what was answered
FOLDER/annotations.jsonl                      an expression of kind `long` for every object that came through

Processes that share a folder (torchrun) take every n-th record each and write `STAGE-IofN.jsonl`; all of them are read.
A line whose question is the same (pictures, prompt, back end) is not asked again, so a run that was stopped goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.annotate import pictures
from sa2va_training.annotate.backends import Annotator, UnansweredError
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.readers.simple import SimpleFolder

Json = dict[str, Any]
STAGES = ("object", "scene", "video")
KIND = "long"
CROP = "Describe the object in the middle of this picture in one sentence: what it is, its colour, shape and parts."
ALONE = "Describe the one object in this picture in one sentence: what it is, its colour, shape and parts."
SAME = "Two descriptions:\n1. {first}\n2. {second}\nCan both be about one and the same object? Answer yes or no."
SCENE = (
    "The object with the yellow border was described so: {object}\nDescribe it again in one or two sentences, with "
    "where it is and how it lies to what is around it. Do not mention the border."
)
VIDEO = (
    "These are frames of one video. The object with the yellow border was described so: {scene}\nDescribe it again in "
    "two or three sentences, with what it does or what happens to it over the video. Do not mention the border."
)


@dataclass(frozen=True)
class AnnotatedObject:
    """One object of a clip.

    Attributes:
        masks: bool [T, H, W].
    """

    clip: str
    number: str
    name: str
    frames: Sequence[np.ndarray]
    masks: np.ndarray

    @property
    def key(self) -> str:
        """Unique in the folder."""
        return f"{self.clip}|{self.number}"


@dataclass(frozen=True)
class AnnotationTally:
    """What came of a run: objects kept, dropped by the check, and questions without an answer."""

    kept: int
    dropped: int
    unanswered: tuple[str, ...]


class StageAnswers:
    """The answers of one stage, by object, of all processes; a line that a kill cut off is left out."""

    def __init__(self, folder: Path, stage: str, shard: tuple[int, int]) -> None:
        number, count = shard
        own = stage if count == 1 else f"{stage}-{number}of{count}"
        self.file = folder / f"{own}.jsonl"
        self.lines: dict[str, Json] = {}
        for file in sorted([*folder.glob(f"{stage}.jsonl"), *folder.glob(f"{stage}-*.jsonl")]):
            for text in file.read_text(encoding="utf-8").splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                self.lines[line["key"]] = line

    def get(self, key: str, question: str, ask: Callable[[], Json]) -> Json:
        """What was answered to this question, or is answered now."""
        known = self.lines.get(key)
        if known is None or known["question"] != question:
            known = {"key": key, "question": question, **ask()}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(known, ensure_ascii=False) + "\n")
            self.lines[key] = known
        return known


def annotate(
    root: Path,
    captioner: Annotator,
    checker: Annotator,
    *,
    stages: Sequence[str] = STAGES,
    shard: tuple[int, int] = (0, 1),
    tick: Callable[[], None] = lambda: None,
) -> AnnotationTally:
    """Writes expressions for every object of a folder's clips and pictures.

    Args:
        stages: the first one, two or three of `STAGES`; the last one's words become the expression.
        shard: (i, n): this process takes every n-th record, beginning with the i-th.
        tick: called after each object.

    Raises:
        InputError: unknown stages, or a folder without masks.
    """
    if tuple(stages) != STAGES[: len(stages)] or not stages:
        raise InputError(f"stages are {', '.join(stages)}; expected object, then scene, then video")
    kept = dropped = 0
    unanswered: list[str] = []
    answers = {stage: StageAnswers(root / "annotate", stage, shard) for stage in stages}
    written: dict[str, list[Json]] = {}
    for thing in objects_of(root, shard):
        try:
            text = _worded(thing, captioner, checker, answers)
        except UnansweredError as error:
            unanswered.append(f"{thing.key}: {error}")
        else:
            kept, dropped = kept + (text is not None), dropped + (text is None)
            if text is not None:
                said = {"text": text, "objects": [thing.number], "kind": KIND}
                written.setdefault(thing.clip, []).append(said)
        tick()
    _write(root, written)
    if not kept + dropped + len(unanswered) and shard[1] == 1:
        raise InputError(f"{root}: no object with a mask; expected labels and objects")
    return AnnotationTally(kept, dropped, tuple(unanswered))


def objects_of(root: Path, shard: tuple[int, int] = (0, 1)) -> Iterator[AnnotatedObject]:
    """Every object that is seen on some annotated frame, clip after clip; of a shard's records alone."""
    for n, (record, sample, found) in enumerate(SimpleFolder(root, root.name).marked()):
        if n % shard[1] != shard[0]:
            continue
        if "clip" not in record and "image" not in record:
            continue  # videos and lists of frames are named by no one path
        frames = sample.read_frames()
        for number, target in found.items():
            masks = target.read(*frames[0].shape[:2])
            if masks.any():
                place = record.text("clip" if "clip" in record else "image")
                yield AnnotatedObject(place, number, target.name, frames, masks)


def _worded(
    thing: AnnotatedObject,
    captioner: Annotator,
    checker: Annotator,
    answers: Mapping[str, StageAnswers],
) -> str | None:
    """What is said of an object after the last stage; None = the check dropped it."""
    best = pictures.largest(thing.masks)
    rgb, mask = thing.frames[best], thing.masks[best]
    near, only = pictures.crop(rgb, mask), pictures.alone(rgb, mask)

    def first() -> Json:
        one, two = (captioner.answer(p, [s], thing.name) for p, s in ((CROP, near), (ALONE, only)))
        said = checker.answer(SAME.format(first=one, second=two), [], thing.name)
        same = said.strip().lower().startswith("yes")
        return {
            "by": captioner.name,
            "crop": one,
            "alone": two,
            "check": said,
            "kept": same,
            "answer": one,
        }

    question = _hash(captioner.name, checker.name, CROP, ALONE, SAME, near, only)
    line = answers["object"].get(thing.key, question, first)
    if not line["kept"]:
        return None
    text = str(line["answer"])
    for stage, prompt in (("scene", SCENE.format(object=text)), ("video", "")):
        if stage not in answers:
            break
        shown = [pictures.bordered(rgb, mask)]
        if stage == "video":
            prompt, shown = VIDEO.format(scene=text), pictures.spread(thing.frames, thing.masks)

        def ask(prompt: str = prompt, shown: Sequence[np.ndarray] = tuple(shown)) -> Json:
            said = captioner.answer(prompt, shown, thing.name)
            return {"by": captioner.name, "prompt": prompt, "answer": said}

        line = answers[stage].get(thing.key, _hash(captioner.name, prompt, *shown), ask)
        text = str(line["answer"])
    return text


def _write(root: Path, written: Mapping[str, list[Json]]) -> None:
    """Puts the expressions beside those that are there; long ones of an earlier run are replaced."""
    if not written:
        return
    with (root / ".annotate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of the same run write, too
        _put(root, written)


def _put(root: Path, written: Mapping[str, list[Json]]) -> None:
    records = {
        str(r.data.get("clip") or r.data.get("image")): r.data
        for r in SimpleFolder(root, root.name).records
    }
    with FolderWriter(root) as folder:
        for place, said in written.items():
            key = "clip" if "clip" in records[place] else "image"
            ours = {tuple(one["objects"]) for one in said}
            others = [
                e
                for e in records[place].get("expressions", ())
                if e.get("kind") != KIND or tuple(e.get("objects", ())) not in ours
            ]
            folder.put({key: place}, expressions=[*others, *said])


def _hash(*parts: str | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(
            part.encode() if isinstance(part, str) else part.tobytes() + repr(part.shape).encode()
        )
    return digest.hexdigest()[:16]
