# SPDX-License-Identifier: Apache-2.0
"""Sa2VA as a model of VLMEvalKit, which measures chat on images and clips (MMBench, MME, MMStar, Video-MME, …).

from sa2va_training.evaluation.vlmevalkit import register
register("Sa2VA-8B", "checkpoints/Sa2VA-8B")
import runpy; runpy.run_path("run.py", run_name="__main__")        # VLMEvalKit's own
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from sa2va_model.checkpoints.load import load_model
from sa2va_model.errors import InputError
from sa2va_model.io.frames import VideoFile, read_image
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.sa2va import Sa2VA

Message = Sequence[Mapping[str, Any]]
"""VLMEvalKit's: parts with `type` (image, video or text) and `value` (a path or words), in order."""
SHORT = 16
"""Tokens of an answer to multiple choice and yes or no."""
_LONG = ("MMBench-Video", "MMBench_Video", "MMVet", "LLaVABench", "COCO", "Video_")


class Sa2VAChat:
    """What VLMEvalKit calls a model: `generate(message, dataset)` gives the answer to one question.

    It is no subclass of VLMEvalKit's `BaseModel`, so that it can be tested without it; all that is called is here.
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = True
    allowed_types = ("text", "image", "video")

    def __init__(
        self,
        model_path: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        nframe: int = 5,
        model: Sa2VA | None = None,
        **_: Any,
    ) -> None:
        """Load a checkpoint.

        Args:
            model_path: folder or name on the hub; None = the tiny model that ships.
            nframe: frames of a video, evenly spread (the paper: 5).
            model: one that is loaded already.
        """
        self.model = model if model is not None else load_model(model_path, device, dtype)
        self.nframe = nframe

    def generate(self, message: Message, dataset: str | None = None) -> str:
        """The answer to one question.

        Raises:
            InputError: a part of another type, no words, or a picture that cannot be read.
        """
        words = "\n".join(str(part["value"]) for part in message if part["type"] == "text").strip()
        if not words:
            raise InputError(f"{dataset}: a message without words; expected a question")
        frames: list[np.ndarray] = []
        for part in message:
            kind, value = part["type"], part["value"]
            if kind not in self.allowed_types:
                raise InputError(
                    f"{dataset}: a part of type {kind!r}; expected image, video or text"
                )
            if kind == "image":
                frames.append(read_image(str(value)))
            elif kind == "video":
                frames += _spread(str(value), self.nframe)
        size = frames[0].shape if frames else ()
        if any(frame.shape != size for frame in frames):
            frames = [_as_first(frame, size) for frame in frames]
        # All pictures are shown, however many the model was trained with.
        every = KeyframeChoice("first", max(len(frames), 1))
        long = dataset is None or dataset.startswith(_LONG)
        limit = None if long else SHORT
        reply = self.model.ask(frames, words, keyframes=every, masks=False, max_new_tokens=limit)
        return reply.text

    generate_inner = generate

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether prompts are ours: VLMEvalKit's own are taken."""
        return False

    def set_dump_image(self, dump: Any) -> None:
        """Called by VLMEvalKit; pictures come as paths in any case."""

    def message_to_promptimg(
        self, message: Message, dataset: str | None = None
    ) -> tuple[str, str | None]:
        """Words and first picture of a message, as VLMEvalKit's helpers ask for them."""
        words = "\n".join(str(part["value"]) for part in message if part["type"] == "text")
        pictures = [str(part["value"]) for part in message if part["type"] == "image"]
        return words, pictures[0] if pictures else None


def register(name: str, model_path: str | None, **options: Any) -> None:
    """Makes a checkpoint known to VLMEvalKit under a name.

    Args:
        options: of `Sa2VAChat`.

    Raises:
        InputError: VLMEvalKit is not installed.
    """
    try:
        config = importlib.import_module("vlmeval.config")
    except ImportError as error:
        raise InputError(
            "VLMEvalKit is not installed (github.com/open-compass/VLMEvalKit: pip install -e . there)"
        ) from error
    config.supported_VLM[name] = partial(Sa2VAChat, model_path=model_path, **options)


def _spread(path: str, count: int) -> list[np.ndarray]:
    """So many frames of a video, evenly spread."""
    source = VideoFile(path)
    total = source.frame_count or sum(1 for _ in source)
    chosen = sorted({int(i) for i in np.linspace(0, max(total - 1, 0), count)})
    found = source.pick(chosen)
    return [found[i] for i in chosen if i in found]


def _as_first(frame: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A picture in the size of the first, which is how clips are shown."""
    resized: np.ndarray = cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return resized
