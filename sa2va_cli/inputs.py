# SPDX-License-Identifier: Apache-2.0
"""What users type: inputs, boxes, points, expressions. Nothing heavy is imported before the arguments are right."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_model.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sa2va_model.io.frames import FrameSource
    from sa2va_model.tracking.by_example.example import ObjectExample


@dataclass(frozen=True)
class PromptArgument:
    """One object to follow, as it was asked for on the command line.

    Attributes:
        words: the option as typed, for messages and summaries.
        expression: what `-e` says.
        box: (x0, y0, x1, y1) pixels.
        points: (x, y) pixels each.
        labels: 1 on the object, 0 not on it, one for each point.
        mask: file of a picture that is not black where the object is.
        picture: file of another picture that box, points or mask belong to; "" = the first frame.
        object: file of a saved object.
        factor: by which the first frame was scaled, and with it `mask`.
    """

    words: str
    expression: str = ""
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask: str = ""
    picture: str = ""
    object: str = ""
    factor: float = 1.0

    @cached_property
    def example(self) -> ObjectExample | None:
        """The object as it is shown on another picture, or as it was saved; read when it is first asked for.

        Raises:
            InputError: a file cannot be read, or the prompt does not lie on its picture.
        """
        if not (self.object or self.picture):
            return None
        from sa2va_model.io.frames import read_image
        from sa2va_model.regions import Region
        from sa2va_model.tracking.by_example.example import (
            ObjectExample,
            ObjectView,
            read_example,
        )

        if self.object:
            return read_example(Path(self.object))
        region = Region(self.pixels, self.box, self.points, self.labels)
        try:
            view = ObjectView(read_image(self.picture), region)
        except InputError as error:
            raise InputError(f"{self.words}: {error}") from error
        return ObjectExample(Path(self.picture).stem, (view,))

    @cached_property
    def pixels(self) -> np.ndarray | None:
        """What `mask` holds, bool [H, W]."""
        if not self.mask:
            return None
        import numpy as np

        from sa2va_model.io.frames import read_image

        mask = np.any(read_image(self.mask), axis=2)
        if self.factor != 1:
            import cv2

            size = tuple(max(1, round(side * self.factor)) for side in mask.shape[::-1])
            scaled = cv2.resize(mask.astype("uint8"), size, interpolation=cv2.INTER_NEAREST)
            mask = scaled.astype(bool)
        return mask

    def scaled(self, factor: float) -> PromptArgument:
        """The same prompt on an image `factor` times as large; one on a picture of its own stays as it is."""
        if factor == 1 or self.picture or self.object:
            return self
        box = self.box
        if box is not None:
            box = (box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor)
        points = tuple((x * factor, y * factor) for x, y in self.points)
        return replace(self, box=box, points=points, factor=factor)

    def check_inside(self, height: int, width: int) -> None:
        """InputError if what is pointed at lies outside the image that it belongs to."""
        if self.example is not None:
            return
        size = f"the {width}x{height} image"
        if self.pixels is not None and self.pixels.shape != (height, width):
            found = f"{self.pixels.shape[1]}x{self.pixels.shape[0]}"
            raise InputError(f"{self.words}: is {found}, expected the size of {size}")
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if (
                x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height
            ):  # what overlaps is cut at the border
                raise InputError(
                    f"{self.words}: outside {size}, expected a box that overlaps "
                    f"0,0,{width},{height}"
                )
        for x, y in self.points:
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(
                    f"{self.words}: {x:g},{y:g} is not inside {size}, "
                    f"expected 0 <= x < {width} and 0 <= y < {height}"
                )


def expression_prompt(text: str) -> PromptArgument:
    """The prompt of `-e TEXT`."""
    from sa2va_model.mllm.chat import clean_expression

    try:
        clean_expression(text)
    except InputError as error:
        raise InputError(f"-e: {error}") from error
    return PromptArgument(f"-e '{text}'", expression=text)


def box_prompt(text: str) -> PromptArgument:
    """The prompt of `--box x0,y0,x1,y1`."""
    name = f"--box {text}"
    values = _numbers(text, name, "x0,y0,x1,y1 in pixels")
    if len(values) != 4:
        raise InputError(f"{name}: {len(values)} numbers, expected four: x0,y0,x1,y1 in pixels")
    x0, y0, x1, y1 = values
    if max(values) <= 1 and not all(value.is_integer() for value in values):
        raise InputError(
            f"{name}: looks like fractions of the image, expected x0,y0,x1,y1 in pixels"
        )
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{name}: empty box, expected x0 < x1 and y0 < y1")
    return PromptArgument(name, box=(x0, y0, x1, y1))


def point_prompt(text: str) -> PromptArgument:
    """The prompt of `--point x,y[;x,y,0...]`: clicks on one object; a third number 0 marks a click beside it."""
    name = f"--point {text}"
    form = "x,y in pixels (x,y;x,y for several clicks, x,y,0 for one beside the object)"
    points, labels = [], []
    for click in text.split(";"):
        values = _numbers(click, name, form)
        if len(values) not in (2, 3) or values[2:] not in ([], [0.0], [1.0]):
            raise InputError(f"{name}: '{click}' is no click, expected {form}")
        points.append((values[0], values[1]))
        labels.append(int(values[2]) if len(values) == 3 else 1)
    if 1 not in labels:
        raise InputError(f"{name}: no click on the object, expected at least one")
    return PromptArgument(name, points=tuple(points), labels=tuple(labels))


def _numbers(text: str, name: str, form: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
        if not all(math.isfinite(value) for value in found):
            raise ValueError
        return found
    except ValueError as error:
        raise InputError(f"{name}: '{text}' is not made of numbers, expected {form}") from error


def mask_prompt(text: str) -> PromptArgument:
    """The prompt of `--mask FILE`."""
    return PromptArgument(f"--mask {text}", mask=text)


def object_prompt(text: str) -> PromptArgument:
    """The prompt of `--object FILE`."""
    return PromptArgument(f"--object {text}", object=text)


class CollectPrompt(argparse.Action):
    """Collects what names or shows an object into one list, in the order typed.

    `--example FILE` has the next --box, --point or --mask mean that picture.
    """

    MAKERS = {  # noqa: RUF012
        "-e": expression_prompt,
        "--box": box_prompt,
        "--point": point_prompt,
        "--mask": mask_prompt,
        "--object": object_prompt,
    }

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Parse one option."""
        option = self.option_strings[0]
        picture = getattr(namespace, "example", None)
        if picture and option not in ("--box", "--point", "--mask"):
            raise InputError(
                f"{option} {values}: follows --example {picture}, expected --box, --point or --mask"
            )
        namespace.example = None
        if option == "--example":
            namespace.example = str(values)
            return
        prompt = self.MAKERS[option](str(values))
        if picture:
            prompt = replace(prompt, words=f"--example {picture} {prompt.words}", picture=picture)
        namespace.prompts = [*(getattr(namespace, "prompts", None) or []), prompt]


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"'{text:.40}', expected a whole number above 0 and below a billion"
        )
    return int(text)


def seed(text: str) -> int:
    """An argparse type: the seed of a random generator."""
    if not text.isdecimal() or len(text) > 10 or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"'{text:.40}', expected a whole number from 0 to 2^32-1")
    return int(text)


def side(text: str) -> int:
    """An argparse type: the side of a picture that is drawn, pixels."""
    if not text.isdecimal() or len(text) > 5 or not 32 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"'{text:.40}', expected 32 to 4096 pixels")
    return int(text)


def seconds(text: str) -> float:
    """An argparse type: seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}', expected seconds, 0 or more")
    return value


def open_input(path: str, *, topic: str | None = None, fps: float = 30.0) -> FrameSource:
    """Open a video file, an image folder, an image or a rosbag2.

    Args:
        path: what the user gave.
        topic: image topic of a bag; not for other inputs.
        fps: rate of an image folder.
    """
    from sa2va_model.io.frames import looks_like_bag, open_source

    if looks_like_bag(path):
        from sa2va_ros.bags.bag import BagImages

        return BagImages(path, topic)
    if topic is not None:
        raise InputError(f"--topic {topic}: {path} is no rosbag2, expected one for --topic")
    return open_source(path, fps)
