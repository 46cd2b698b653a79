# SPDX-License-Identifier: Apache-2.0
"""The one sample type: what every reader returns and everything after it takes.

A sample is one picture, one clip or none (plain chat), with what is said about it. Nothing is decoded until it is
asked for: pictures and masks are references (`pictures.py`, `masks.py`), so a sample costs a few hundred bytes.

Two kinds of words. `turns` are a conversation as it stands; `targets` has one entry for each `[SEG]` in it, in order.
`referrings` are expressions that are not yet part of a conversation: training draws some of them, and some frames of a
clip, for every step anew; evaluation uses all of them, on all frames.

Letters: T frames, K targets, R regions, H W the size of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.mllm.chat import SEG
from sa2va_training.data.masks import Mask
from sa2va_training.data.pictures import Picture, read_pictures

Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One side's words.

    Attributes:
        text: as the model sees it, without chat template. `<image>` stands once, in the first user turn of a sample
            with pictures; regions are called region1, region2, …; answers hold `[SEG]` and `<p> … </p>`.
    """

    role: Role
    text: str


@dataclass(frozen=True)
class ObjectMasks:
    """The true masks of one object (or of several together) over the sample's frames.

    Attributes:
        masks: [T]; an `EmptyMask` where the object is known not to be seen, None where nobody annotated.
        name: what it is called, for pictures and messages.
    """

    masks: tuple[Mask | None, ...]
    name: str = ""

    @property
    def annotated(self) -> tuple[int, ...]:
        """The frames whose truth is known."""
        return tuple(t for t, mask in enumerate(self.masks) if mask is not None)

    def read(self, height: int, width: int) -> np.ndarray:
        """Decode: bool [T, H, W]; frames that nobody annotated are empty."""
        out = np.zeros((len(self.masks), height, width), bool)
        for t, mask in enumerate(self.masks):
            if mask is not None:
                out[t] = mask.read(height, width)
        return out


@dataclass(frozen=True)
class Referring:
    """An expression and what it means.

    Attributes:
        target: None where the dataset's authors say that nothing is meant, or (on test sets) keep it secret.
        kind: what sort of expression it is; figures are given per kind. "none" = nothing is meant.
        id: the expression's id in its dataset; with the sample's record it names one question.
    """

    text: str
    target: ObjectMasks | None
    kind: str = ""
    id: str = ""

    @property
    def absent(self) -> bool:
        """Whether the right answer is that there is no such thing."""
        return self.kind == "none"


@dataclass(frozen=True)
class Sample:
    """One record of a dataset.

    Attributes:
        source: the dataset's name.
        record: file and record in words, for messages: "data/refs(unc).p: image 4711".
        id: the record's id within the dataset, unique and the same on every run.
        frames: [T] pictures of one size; none for plain chat.
        clip: frames of a video (each shown to the MLLM as one tile), not one image.
        turns: a finished conversation, or nothing.
        targets: [K], one for each `[SEG]` in `turns`, in order.
        referrings: expressions that are not in `turns`.
        regions: [R] masks on the one image, region1 … regionR in the text.
        references: other right answers to the last user turn (captions of several annotators).
        kind: what sort of question `turns` ask (such as "colour"); figures are given per kind.
        foreground: masks of all objects ever referred to, [T]; only ReVOS has them.
        objects: everything that is annotated and has a name, said or not; only the simple folder knows.
        recording: what was recorded in one go, where the dataset says it; pictures of one are nearly alike.
        stamps: when each frame was taken, seconds, rising; () = nobody knows.
    """

    source: str
    record: str
    id: str
    frames: tuple[Picture, ...] = ()
    clip: bool = False
    turns: tuple[Message, ...] = ()
    targets: tuple[ObjectMasks, ...] = ()
    referrings: tuple[Referring, ...] = ()
    regions: tuple[Mask, ...] = ()
    references: tuple[str, ...] = ()
    kind: str = ""
    foreground: tuple[Mask | None, ...] = field(default=(), repr=False)
    objects: tuple[ObjectMasks, ...] = field(default=(), repr=False)
    recording: str = ""
    stamps: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        count = sum(turn.text.count(SEG) for turn in self.turns if turn.role == "assistant")
        if count != len(self.targets):
            raise InputError(
                f"{self.record}: answers hold {count} {SEG} for {len(self.targets)} masks, "
                "expected one mask for each"
            )
        referred = (r.target for r in self.referrings if r.target)
        for target in (*self.targets, *referred, *self.objects):
            if len(target.masks) != len(self.frames):
                raise InputError(
                    f"{self.record}: object {target.name!r} has masks for {len(target.masks)} "
                    f"frames, expected {len(self.frames)}"
                )
        if self.regions and len(self.frames) != 1:
            raise InputError(
                f"{self.record}: regions on {len(self.frames)} pictures, expected one image"
            )

    @property
    def task(self) -> str:
        """What is learned from it: "segment" = there are masks to learn; "text" = words only."""
        return "segment" if self.targets or self.referrings else "text"

    @property
    def modality(self) -> str:
        """ "none", "image" or "clip"."""
        if not self.frames:
            return "none"
        return "clip" if self.clip else "image"

    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures; reads the first picture's head if nobody knows."""
        if not self.frames:
            raise InputError(f"{self.record}: has no picture, expected at least one")
        return self.frames[0].size()

    def read_frames(self) -> list[np.ndarray]:
        """Decode the pictures: T arrays uint8 [H, W, 3] (RGB); a video file is opened once.

        Raises:
            InputError: a picture is missing, damaged or of another size than the first.
        """
        return read_pictures(self.frames)

    def read_masks(self) -> np.ndarray:
        """Decode the targets: bool [K, T, H, W]."""
        height, width = self.size() if self.frames else (0, 0)
        out = np.zeros((len(self.targets), len(self.frames), height, width), bool)
        for k, target in enumerate(self.targets):
            out[k] = target.read(height, width)
        return out

    def read_regions(self) -> np.ndarray:
        """Decode the regions: bool [R, H, W]."""
        height, width = self.size() if self.frames else (0, 0)
        out = np.zeros((len(self.regions), height, width), bool)
        for r, mask in enumerate(self.regions):
            out[r] = mask.read(height, width)
        return out

    def with_frames(self, chosen: Sequence[int]) -> Sample:
        """The same sample with some of its frames only, in the order given (repeats are allowed)."""

        def cut(target: ObjectMasks) -> ObjectMasks:
            return replace(target, masks=tuple(target.masks[t] for t in chosen))

        return replace(
            self,
            frames=tuple(self.frames[t] for t in chosen),
            stamps=tuple(self.stamps[t] for t in chosen) if self.stamps else (),
            targets=tuple(cut(target) for target in self.targets),
            referrings=tuple(
                replace(r, target=None if r.target is None else cut(r.target))
                for r in self.referrings
            ),
            foreground=tuple(self.foreground[t] for t in chosen) if self.foreground else (),
            objects=tuple(cut(target) for target in self.objects),
        )


@runtime_checkable
class Dataset(Protocol):
    """A sequence of samples: cheap to open, the same order on every run, nothing decoded on access.

    Attributes:
        name: what tables call it.
    """

    name: str

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`, 0 <= index < len; IndexError otherwise.

        Raises:
            InputError: a field of the record is missing or wrong; file and record are named.
        """
        ...
