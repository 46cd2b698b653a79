# SPDX-License-Identifier: Apache-2.0
"""A simple folder in the layout of Ref-SAV: what the official code and `format: ref_sav` read.

OUT/Ref-SAV.json                      by video: its file, its masklets, and the captions of its objects
OUT/sam_v_full/CLIP.mp4               each frame four times, because SA-V has masks for every fourth
OUT/sam_v_full/CLIP_manual.json       masklet[frame][object], RLE or null
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from sa2va_model.errors import InputError
from sa2va_training.annotate.pipeline import KIND
from sa2va_training.data.masks import encode_mask
from sa2va_training.data.readers.ref_sav import STRIDE
from sa2va_training.data.readers.simple import SimpleFolder

_FPS = 24
VIDEOS = "sam_v_full"


@dataclass(frozen=True)
class Exported:
    """What was written; `left` are objects with a caption that some frame leaves open, which SA-V cannot say."""

    videos: int
    objects: int
    left: int


def write_ref_sav(root: Path, output: Path) -> Exported:
    """Writes the clips of a simple folder whose objects have an expression of kind `long`.

    Raises:
        InputError: `output` holds something, or no object has one.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output}: is not empty; expected a new folder")
    whole: dict[str, Any] = {}
    objects = left = 0
    for record, sample, found in SimpleFolder(root, root.name).marked():
        said = _said(record.data, set(found))
        known = {
            n: words for n, words in said.items() if len(found[n].annotated) == len(sample.frames)
        }
        left += len(said) - len(known)
        if "clip" not in record or not known:
            continue
        name = Path(record.text("clip")).relative_to("images").as_posix().replace("/", "_")
        frames = sample.read_frames()
        height, width = (side // 2 * 2 for side in frames[0].shape[:2])  # yuv420p has pairs
        video = output / VIDEOS / f"{name}.mp4"
        _write_video(video, [rgb[:height, :width] for rgb in frames])
        masks = [found[n].read(*frames[0].shape[:2])[:, :height, :width] for n in known]
        rows = [
            [encode_mask(m[t]) if m[t].any() else None for m in masks] for t in range(len(frames))
        ]
        values = {
            "video_id": name,
            "video_duration": len(frames) * STRIDE / _FPS,
            "video_frame_count": float(len(frames) * STRIDE),
            "video_height": float(height),
            "video_width": float(width),
            "video_resolution": float(height * width),
            "masklet_num": len(masks),
            "masklet": rows,
            "masklet_id": list(range(len(masks))),
            "masklet_type": ["manual"] * len(masks),
        }
        place = video.with_name(f"{name}_manual.json")
        place.write_text(json.dumps(values), encoding="utf-8")
        whole[name] = {
            "video_path": video.name,
            "anno_path": place.name,
            "objects": {str(i): words for i, words in enumerate(known.values())},
        }
        objects += len(known)
    if not whole:
        raise InputError(
            f"{root}: no clip has an object with an expression of kind {KIND!r} and masks on all frames "
            "(sa2va annotate)"
        )
    text = json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
    (output / "Ref-SAV.json").write_text(text, encoding="utf-8")
    return Exported(len(whole), objects, left)


def _said(record: Any, numbers: set[str]) -> dict[str, dict[str, Any]]:
    """By object, its long caption and, where there are some, its short ones."""
    out: dict[str, dict[str, Any]] = {}
    expressions = [e for e in record.get("expressions", ()) if len(e["objects"]) == 1]
    for entry in expressions:
        if entry.get("kind") == KIND and entry["objects"][0] in numbers:
            out[entry["objects"][0]] = {"formated": entry["text"]}  # the published spelling
    for entry in expressions:
        if entry.get("kind") != KIND and entry["objects"][0] in out:
            out[entry["objects"][0]].setdefault("short_caps", []).append(entry["text"])
    return out


def _write_video(file: Path, frames: list[np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(_FPS))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        for n in range(len(frames) * STRIDE):
            rgb = np.ascontiguousarray(frames[n // STRIDE])
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = n, Fraction(1, _FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
