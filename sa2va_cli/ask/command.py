# SPDX-License-Identifier: Apache-2.0
"""`sa2va ask`: questions about an image or a video; the answers may point at things with masks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sa2va_cli.inputs import box_prompt, open_input, point_prompt, positive
from sa2va_cli.models import add_adapter, open_model
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sa2va_model.io.frames import Frame, FrameSource
    from sa2va_model.keyframes import KeyframeChoice
    from sa2va_model.regions import Region
    from sa2va_model.results import Answer
    from sa2va_model.sa2va import Sa2VA

NAME = "ask"
HELP = (
    "Ask about an image or a video: chat, captions, grounded captions, referring segmentation, regions. "
    "Several questions are one conversation."
)
EXAMPLES = """examples:
  sa2va ask table.png "What is on the table?" "Which of them is the largest?"
  sa2va ask table.png "Please segment the blue mug." -o out/mug
  sa2va ask table.png "Describe the image." --grounded -o out/caption
  sa2va ask table.png "What is region1?" --region mug.png
  sa2va ask table.png "How do region1 and region2 differ?" --box 10,20,80,90 --point 120,60
  sa2va ask table.mp4 "What happens here?" --frames 5
  sa2va ask table.mp4 "Please segment the blue mug." --frames 20 --keyframes uniform:5 -o out/clip

writes to OUT: masks/<object>/<frame>.png (0/255), regions/<region>.png, overlay/<frame>.png and answer.json."""


class CollectRegion(argparse.Action):
    """Collects --region, --box and --point into one list, in the order typed: region1, region2, ..."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Parse one option."""
        text, kind = str(values), self.option_strings[0]
        prompt: Any = text
        if kind != "--region":
            prompt = box_prompt(text) if kind == "--box" else point_prompt(text)
        namespace.regions = [*(getattr(namespace, "regions", None) or []), (kind, prompt)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va ask`."""
    add_adapter(parser)
    parser.add_argument("input", metavar="IMAGE_OR_VIDEO", help="image, video, folder or rosbag2")
    parser.add_argument(
        "question", nargs="+", help="the question; quote it. Several: each knows the ones before"
    )
    region = parser.add_argument_group(
        "regions of an image, called region1, region2, ... in the question"
    )
    for option, form, line in (
        ("--region", "MASK", "mask image of a region"),
        ("--box", "X0,Y0,X1,Y1", "box in pixels"),
        ("--point", "X,Y", "click in pixels; 'x,y;x,y,0' for several, 0 = not there"),
    ):
        region.add_argument(option, action=CollectRegion, dest="regions", metavar=form, help=line)
    parser.add_argument(
        "--grounded", action="store_true", help="ask for masks of the things the answer names"
    )
    parser.add_argument(
        "--evidence",
        action="store_true",
        help="write and draw, too, what a model points at while it thinks (<think>…</think>)",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="folder for masks and overlays")
    parser.add_argument("--topic", metavar="T", help="image topic of a bag that has several")
    parser.add_argument(
        "--frames", type=positive, default=5, metavar="N", help="frames of a video (default: 5)"
    )
    parser.add_argument(
        "--keyframes",
        metavar="KIND[:COUNT[:TOKENS]]",
        help="which of them the language model sees: first, uniform, latest; how many; visual tokens of each "
        "(default: the first ones, as many as the model was made for)",
    )


def run(args: argparse.Namespace) -> int:
    """Ask; returns the exit status."""
    if not all(question.strip() for question in args.question):
        raise InputError("question is empty, expected words")
    choice = _keyframes(args.keyframes)
    frames = spread(open_input(args.input, topic=args.topic), args.frames)
    pictures = [frame.rgb for frame in frames]
    regions = [_region(kind, value, pictures) for kind, value in args.regions or ()]
    from sa2va_cli.ask.output import record, show, write
    from sa2va_cli.output import write_json

    model = open_model(args)
    answers = converse(model, pictures, args.question, regions, choice, grounded=args.grounded)
    shown = [model.segment_region(pictures[0], region) for region in regions]
    result = record(args.input, args.question, frames, answers, shown)
    if args.output is not None:
        write(args.output, frames, answers, shown, result, evidence=args.evidence)
    write_json(args.json, result)
    show(answers, shown, wrote=args.output is not None)
    return 0


def converse(
    model: Sa2VA,
    pictures: list[np.ndarray],
    questions: Sequence[str],
    regions: Sequence[Region],
    choice: KeyframeChoice | None,
    *,
    grounded: bool,
) -> list[Answer]:
    """Asks one question after the other; each is told with those before it."""
    from sa2va_model.sa2va import GROUNDED

    answers: list[Answer] = []
    for question in questions:
        words = f"{question.strip()} {GROUNDED}" if grounded else question
        history = [answer.turn for answer in answers]
        answers.append(model.ask(pictures, words, regions, history=history, keyframes=choice))
    return answers


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


def _keyframes(text: str | None) -> KeyframeChoice | None:
    if text is None:
        return None
    from sa2va_model.keyframes import KeyframeChoice

    kind, *numbers = text.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"--keyframes {text}: expected KIND, KIND:COUNT or KIND:COUNT:TOKENS")
    try:
        return KeyframeChoice(kind, *(int(number) for number in numbers))
    except InputError as error:
        raise InputError(f"--keyframes {text}: {error}") from error


def _region(kind: str, value: Any, pictures: list[np.ndarray]) -> Region:
    from sa2va_model.regions import Region

    name = f"{kind} {value}" if kind == "--region" else value.words
    if len(pictures) != 1:
        raise InputError(f"{name}: the input is a video, expected an image for {kind}")
    height, width = pictures[0].shape[:2]
    if kind == "--region":
        return Region(mask=_read_mask(value, height, width))
    value.check_inside(height, width)
    return Region(box=value.box, points=value.points, labels=value.labels)


def _read_mask(path: str, height: int, width: int) -> np.ndarray:
    from sa2va_cli.truth import read_mask

    mask = read_mask(path)
    if mask.shape != (height, width):
        raise InputError(
            f"--region {path}: is {mask.shape[1]}x{mask.shape[0]}, "
            f"expected {width}x{height} like the image"
        )
    if not mask.any():
        raise InputError(f"--region {path}: all black, expected the region in another colour")
    return mask
