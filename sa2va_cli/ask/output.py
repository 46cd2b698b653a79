# SPDX-License-Identifier: Apache-2.0
"""What `sa2va ask` prints and writes: the conversation, its masks, and pictures of both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_cli.output import write_json, write_png
from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.io.overlay import draw_overlay
from sa2va_model.results import Answer, Segmentation, Target
from sa2va_model.tracks import FrameResult, Track, TrackState


def record(
    source: str,
    questions: Sequence[str],
    frames: Sequence[Frame],
    answers: Sequence[Answer],
    regions: Sequence[Segmentation],
) -> dict[str, Any]:
    """Everything as JSON; objects are numbered through all answers."""
    first, turns = 0, []
    for question, answer in zip(questions, answers, strict=True):
        turns.append(
            {
                "question": question,
                "text": answer.text,
                "found": answer.found,
                "thought": answer.thought,
                "evidence": [_object(target) for target in answer.evidence],
                "phrases": [
                    {"text": p.text, "begin": p.begin, "end": p.end, "object": first + p.mask}
                    for p in answer.phrases
                ],
            }
        )
        first += len(answer.targets)
    return {
        "input": source,
        **turns[-1],
        "turns": turns,
        "frames": [frame.index for frame in frames],
        "keyframes": [frames[i].index for i in answers[-1].keyframes],
        "objects": [_object(target) for _, target in _targets(answers)],
        "regions": [_region(region) for region in regions],
    }


def _targets(answers: Sequence[Answer]) -> Iterator[tuple[int, Target]]:
    yield from enumerate(target for answer in answers for target in answer.targets)


def _object(target: Target) -> dict[str, Any]:
    return {
        "phrase": "" if target.phrase is None else target.phrase.text,
        "area": [int(mask.sum()) for mask in target.masks],
        "box": list(target.boxes),
        "score": target.scores.tolist(),
    }


def _region(region: Segmentation) -> dict[str, Any]:
    if not region.found:
        return {"found": False}
    return {
        "found": True,
        "area": int(region.masks[0].sum()),
        "box": region.boxes[0],
        "score": float(region.scores[0]),
    }


def write(
    output: str,
    frames: Sequence[Frame],
    answers: Sequence[Answer],
    regions: Sequence[Segmentation],
    result: dict[str, Any],
    *,
    evidence: bool = False,
) -> None:
    """Masks, overlays and answer.json; they replace those of an older answer in the same folder.

    Args:
        evidence: also what was pointed at in thoughts.
    """
    thought = [target for answer in answers for target in answer.evidence] if evidence else []
    folder = Path(output)
    try:
        if (folder / "answer.json").exists():
            for name in ("masks", "evidence", "overlay", "regions"):
                shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "overlay").mkdir(parents=True, exist_ok=True)
        for k, target in _targets(answers):
            _write_target(folder / "masks" / str(k), frames, target)
        for k, target in enumerate(thought):
            _write_target(folder / "evidence" / str(k), frames, target)
        for number, region in enumerate(regions, 1):
            if region.found:
                (folder / "regions").mkdir(exist_ok=True)
                _write_mask(folder / "regions" / f"region{number}.png", region.masks[0])
        for t, frame in enumerate(frames):
            drawn = draw_overlay(frame.rgb, _as_result(frame, answers, regions, thought, t))
            write_png(folder / "overlay" / f"{frame.index:05d}.png", drawn)
    except OSError as error:
        raise InputError(
            f"-o {folder}: {error.strerror}, expected a folder that can be written"
        ) from error
    write_json(folder / "answer.json", result)


def _write_target(folder: Path, frames: Sequence[Frame], target: Target) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for frame, mask in zip(frames, target.masks, strict=True):
        _write_mask(folder / f"{frame.index:05d}.png", mask)


def _write_mask(path: Path, mask: np.ndarray) -> None:
    write_png(path, mask.astype(np.uint8) * 255)


def _as_result(
    frame: Frame,
    answers: Sequence[Answer],
    regions: Sequence[Segmentation],
    thought: Sequence[Target],
    t: int,
) -> FrameResult:
    """Objects and regions of one frame in the form that is drawn."""
    shown = [
        (target.phrase.text if target.phrase else f"object {k}", target.masks[t], target.scores[t])
        for k, target in _targets(answers)
    ]
    shown += [
        (f"region{number}", region.masks[0], region.scores[0])
        for number, region in enumerate(regions, 1)
        if region.found
    ]
    shown += [
        (f"evidence {k}", target.masks[t], target.scores[t]) for k, target in enumerate(thought)
    ]
    tracks = tuple(
        Track(
            id=str(k),
            expression=words,
            state=TrackState.TRACKING,
            mask_value=k % 254 + 1,
            mask=mask,
            area=int(mask.sum()),
            score=float(score),
        )
        for k, (words, mask, score) in enumerate(shown)
    )
    height, width = frame.rgb.shape[:2]
    return FrameResult(frame.stamp, frame.index, height, width, tracks)


def show(answers: Sequence[Answer], regions: Sequence[Segmentation], *, wrote: bool) -> None:
    """Prints the conversation."""
    k = 0
    for answer in answers:
        print(answer.text)
        for target in answer.targets:
            seen = sum(bool(mask.any()) for mask in target.masks)
            words = target.phrase.text if target.phrase else "no phrase"
            print(f"object {k}: {words}, on {seen} of {len(target.masks)} frames")
            k += 1
    for number, region in enumerate(regions, 1):
        area = int(region.masks[0].sum()) if region.found else 0
        print(f"region{number}: {area} pixels" if area else f"region{number}: no mask")
    if k and not wrote:
        print("(-o OUT writes the masks)")
