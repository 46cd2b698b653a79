# SPDX-License-Identifier: Apache-2.0
"""`sa2va ask`: a question about an image or a video; the answer may point at things with masks."""

from __future__ import annotations

import argparse
import shutil
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_cli.inputs import open_input, positive
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sa2va_model.sa2va import Answer
    from sa2va_model.sources import Frame, FrameSource

NAME = "ask"
HELP = "Ask about an image or a video: chat, captions, grounded captions, referring segmentation."
EXAMPLES = """examples:
  sa2va ask table.png "What is on the table?"
  sa2va ask table.png "Please segment the blue mug." -o out/mug
  sa2va ask table.png "Describe the image." --grounded -o out/caption
  sa2va ask table.png "What is region1?" --region mug.png
  sa2va ask table.mp4 "What happens here?" --frames 5

writes to OUT: masks/<object>/<frame>.png (0/255), overlay/<frame>.png and answer.json."""

# The sentence that the official grounded-caption data ends its questions with.
GROUNDED = (
    "Please respond with interleaved segmentation masks for the corresponding parts of the answer."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va ask`."""
    parser.add_argument("input", metavar="IMAGE_OR_VIDEO", help="image, video, folder or rosbag2")
    parser.add_argument("question", help="the question; quote it")
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="MASK",
        help="mask image of a region, called region1, region2, ... in the question",
    )
    parser.add_argument(
        "--grounded", action="store_true", help="ask for masks of the things the answer names"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="folder for masks and overlays")
    parser.add_argument("--topic", metavar="T", help="image topic of a bag that has several")
    parser.add_argument(
        "--frames", type=positive, default=5, metavar="N", help="frames of a video (default: 5)"
    )


def run(args: argparse.Namespace) -> int:
    """Ask; returns the exit status."""
    if not args.question.strip():
        raise InputError("question is empty, expected words")
    frames = spread(open_input(args.input, topic=args.topic), args.frames)
    pictures = [frame.rgb for frame in frames]
    regions = [_read_region(path, pictures) for path in args.region]
    question = f"{args.question.strip()} {GROUNDED}" if args.grounded else args.question
    from sa2va_cli.output import write_json
    from sa2va_model.checkpoints import load_model, suit_threads

    model = load_model(args.model, device=args.device)
    suit_threads(model)
    answer = model.ask(pictures, question, regions)
    record = _record(args, frames, answer)
    if args.output is not None:
        _write(Path(args.output), frames, answer)
        write_json(Path(args.output) / "answer.json", record)
    write_json(args.json, record)
    _print(args, answer)
    return 0


def spread(source: FrameSource, count: int) -> list[Frame]:
    """`count` frames spread evenly over a source, first and last included; fewer if it has fewer."""
    total = source.frame_count
    if total is None:
        total = sum(1 for _ in source)  # the container does not say: decode once to count
    count = min(count, total)
    wanted = {round(i * (total - 1) / max(count - 1, 1)) for i in range(count)}
    picked = []
    for frame in islice(source, max(wanted, default=0) + 1):
        if frame.index in wanted:
            picked.append(frame)
    if not picked:
        raise InputError(f"{source.name}: holds no frame, expected at least one")
    return picked


def _read_region(path: str, pictures: list[np.ndarray]) -> np.ndarray:
    from sa2va_cli.truth import read_mask

    if len(pictures) != 1:
        raise InputError(f"--region {path}: the input is a video, expected an image for --region")
    mask = read_mask(path)
    height, width = pictures[0].shape[:2]
    if mask.shape != (height, width):
        raise InputError(
            f"--region {path}: is {mask.shape[1]}x{mask.shape[0]}, "
            f"expected {width}x{height} like the image"
        )
    if not mask.any():
        raise InputError(f"--region {path}: all black, expected the region in another colour")
    return mask


def _record(args: argparse.Namespace, frames: list[Frame], answer: Answer) -> dict[str, Any]:
    names = {phrase.mask: phrase.text for phrase in answer.phrases}
    return {
        "input": args.input,
        "question": args.question,
        "text": answer.text,
        "frames": [frame.index for frame in frames],
        "phrases": [
            {"text": p.text, "begin": p.begin, "end": p.end, "object": p.mask}
            for p in answer.phrases
        ],
        "objects": [
            {"phrase": names.get(k, ""), "area": [int(mask.sum()) for mask in masks]}
            for k, masks in enumerate(answer.masks)
        ],
    }


def _write(folder: Path, frames: list[Frame], answer: Answer) -> None:
    """Masks and overlays; a new answer replaces the masks of an old one in the same folder."""
    import numpy as np

    from sa2va_cli.output import write_png
    from sa2va_model.drawing import draw

    try:
        if (folder / "answer.json").exists():
            for name in ("masks", "overlay"):
                shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "overlay").mkdir(parents=True, exist_ok=True)
        for k, masks in enumerate(answer.masks):
            (folder / "masks" / str(k)).mkdir(parents=True, exist_ok=True)
            for frame, mask in zip(frames, masks, strict=True):
                path = folder / "masks" / str(k) / f"{frame.index:05d}.png"
                write_png(path, mask.astype(np.uint8) * 255)
        for t, frame in enumerate(frames):
            drawn = draw(frame.rgb, _as_result(frame, answer, t))
            write_png(folder / "overlay" / f"{frame.index:05d}.png", drawn)
    except OSError as error:
        raise InputError(
            f"-o {folder}: {error.strerror}, expected a folder that can be written"
        ) from error


def _as_result(frame: Frame, answer: Answer, t: int) -> Any:
    """The masks of one frame in the form that is drawn."""
    from sa2va_model.tracks import FrameResult, Track, TrackState

    names = {phrase.mask: phrase.text for phrase in answer.phrases}
    tracks = tuple(
        Track(
            id=str(k),
            expression=names.get(k, f"object {k}"),
            state=TrackState.TRACKING,
            mask_value=k % 254 + 1,
            mask=masks[t],
            area=int(masks[t].sum()),
            score=float("nan"),
        )
        for k, masks in enumerate(answer.masks)
    )
    height, width = frame.rgb.shape[:2]
    return FrameResult(frame.stamp, frame.index, height, width, tracks)


def _print(args: argparse.Namespace, answer: Answer) -> None:
    print(answer.text)
    names = {phrase.mask: phrase.text for phrase in answer.phrases}
    for k, masks in enumerate(answer.masks):
        seen = sum(bool(mask.any()) for mask in masks)
        print(f"object {k}: {names.get(k) or 'no phrase'}, on {seen} of {len(masks)} frames")
    if len(answer.masks) and args.output is None:
        print("(-o OUT writes the masks)")
