# SPDX-License-Identifier: Apache-2.0
"""OnlineTracker: SAM-2's memory tracking, one frame at a time, for objects that come and go.

A step never looks ahead, encodes the image not at all (features are given, so that several users share them), and
treats objects of any age as one batch. With prompts on the first frames its masks are those of the
official Sa2VA code, and with points, boxes and masks those of the `sam2` package's video predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sa2va_model.device import read_back
from sa2va_model.errors import InputError
from sa2va_model.io.preprocessing import drawn_masks, mask_source
from sa2va_model.segmentation.backends.base import Segmenter
from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_model.segmentation.memory_policy import Admission, MemoryPolicy, PlainPolicy
from sa2va_model.segmentation.types import Decoded, ImageFeatures, Prompt

_KEPT_INDICES = 64
_CLAIM = 10.0  # logits that a cell is worth to the object whose last mask this one is
_NOBODYS = 1e4  # more than any logit: a cell outside all masks is not worth a claim
_NOT_MINE = -10.0  # logit of a cell that is another's, as in SAM-2
NOT_FINITE = "the scores of SAM-2's mask decoder are not finite (NaN or Inf)"


@dataclass(frozen=True)
class TrackerConfig:
    """How memory is kept.

    Attributes:
        max_objects: more are refused.
        max_conditioning: prompted frames kept for each object; at least the number of keyframes.
        distractor_slots: distractor-resolving frames kept for each object; written where the policy asks for it.
        clip_length: frames of a clip, where its end is known before it begins; None = a stream (see `clip_codes`).
        gate_memory: remember a tracked frame only if the object is seen and the mask's predicted IoU is at least
            `min_quality`. Off = SAM-2's own behaviour.
        reuse_embedding: decode an object's last [SEG] embedding on every frame, too, and take its mask where its
            predicted IoU is higher than memory's by `reuse_margin` and both overlap by `reuse_overlap` (IoU) at
            least. What is taken is what is remembered. Needs a model whose scores are trained.
    """

    max_objects: int = 16
    max_conditioning: int = 8
    distractor_slots: int = 0
    clip_length: int | None = None
    gate_memory: bool = False
    min_quality: float = 0.3
    reuse_embedding: bool = False
    reuse_margin: float = 0.1
    reuse_overlap: float = 0.1

    def __post_init__(self) -> None:
        for name in ("max_objects", "max_conditioning"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.distractor_slots < 0:
            raise InputError(f"distractor_slots is {self.distractor_slots}; expected 0 or more")


@dataclass(frozen=True)
class Observation:
    """What one frame showed of one object.

    Attributes:
        logits: float32 [1, 1, 4h, 4w].
        quality: predicted IoU of the mask, 0..1.
        object_score: logit; positive = the object is visible.
        area: the mask's share of the image, 0..1.
        prompted: the mask answers a prompt rather than memory.
        measured: by the policy, see there.
        mask: bool [H, W] on the picture that the step was given; None = it was given none.
        spoken: what the object's [SEG] embedding shows on this frame without memory (N = 1); None where
            `reuse_embedding` is off or it has none.
    """

    logits: Tensor
    quality: float
    object_score: float
    area: float
    prompted: bool
    decoded: Decoded
    measured: tuple[float, ...] = ()
    mask: np.ndarray | None = None
    spoken: Decoded | None = None


class _Object:
    """One tracked object: its row in memory and the prompt for its next frames."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.prompt: Prompt | None = None
        self.prompted_frames = 0
        self.embedding: Tensor | None = None

    def take_prompt(self) -> Prompt | None:
        """The prompt for this frame, used up one frame at a time."""
        if self.prompted_frames == 0:
            return None
        self.prompted_frames -= 1
        return self.prompt


class OnlineTracker:
    """Follows objects through a stream of image features.

    Args:
        policy: chooses among candidate masks and admits frames to memory; None = `gate_memory` decides.
        translate: makes a prompt that this SAM-2 understands of one for another model; what it finds empty is
            not remembered.
        bank: where memory is kept; None = an empty one of the size that `config` asks for.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        config: TrackerConfig | None = None,
        policy: MemoryPolicy | None = None,
        translate: Callable[[Prompt, ImageFeatures], Prompt] | None = None,
        bank: MemoryBank | None = None,
    ) -> None:
        self._segmenter, self._translate = segmenter, translate
        self._config = config or TrackerConfig()
        self._policy: MemoryPolicy = policy or PlainPolicy(
            self._config.min_quality if self._config.gate_memory else None,
            scored=segmenter.config.object_score_gate,
            margin=self._config.reuse_margin,
            overlap=self._config.reuse_overlap,
        )
        self._bank = bank or segmenter.lend_bank(
            self,
            self._config.max_objects,
            self._config.max_conditioning,
            self._config.distractor_slots,
        )
        self._bank.belongs_to_clip(self._config.clip_length)
        self._objects: dict[str, _Object] = {}
        self._indices: dict[tuple[int, ...], Tensor] = {}
        self._last: Tensor | None = None  # bool [max_objects, 1, 4h, 4w], where each was seen last

    @property
    def policy(self) -> MemoryPolicy:
        """What decides about masks and memory."""
        return self._policy

    @property
    def ids(self) -> tuple[str, ...]:
        """The objects, oldest first."""
        return tuple(self._objects)

    def warm_up(self) -> None:
        """Does ahead what would else delay the first frames with one, two, four … objects."""
        self._segmenter.warm_up(self._bank)

    def add(self, object_id: str, prompt: Prompt, *, frames: int = 1) -> None:
        """Adds an object, or corrects one that is tracked, from the next step on.

        Args:
            prompt: on the next frame.
            frames: on how many next frames the same prompt is used; Sa2VA prompts all keyframes with one embedding.

        Raises:
            InputError: there are `max_objects` already.
        """
        if object_id not in self._objects:
            if len(self._objects) >= self._config.max_objects:
                raise InputError(
                    f"track {object_id!r}: {len(self._objects)} objects are tracked; "
                    f"max_objects is {self._config.max_objects}"
                )
            used = {item.row for item in self._objects.values()}
            row = next(r for r in range(self._config.max_objects) if r not in used)
            self._objects[object_id] = _Object(row)
            self._bank.clear(row)
            self._policy.begin(row)
            if self._last is not None:
                self._last[row] = False
        item = self._objects[object_id]
        item.prompt, item.prompted_frames = prompt, frames
        item.embedding = prompt.embedding

    def row(self, object_id: str) -> int:
        """The object's row in the policy's tables."""
        return self._objects[object_id].row

    def remove(self, object_id: str) -> None:
        """Forgets an object; the others are not touched. Unknown ids are ignored."""
        self._objects.pop(object_id, None)

    @torch.inference_mode()
    def step(
        self,
        features: ImageFeatures,
        only: Iterable[str] | None = None,
        *,
        picture: np.ndarray | None = None,
        apart: Sequence[Collection[str]] = (),
    ) -> dict[str, Observation]:
        """One frame. The host waits for the device once for all tracked objects, and once for each prompted one.

        Args:
            features: of this frame.
            only: step just these objects; used to bring a new one up to date.
            picture: RGB uint8 [H, W, 3] of the features, if masks are wanted on it.
            apart: groups of objects whose masks share no cell where the segmenter follows several at once: each cell
                goes to the one with the highest logit (SAM-2's `non_overlap_masks`), of which the one that was there
                before needs less.

        Returns:
            An observation for each object, in the order they were added.
        """
        self._policy.frame(features)
        wanted = self.ids if only is None else tuple(i for i in only if i in self._objects)
        prompts = {i: self._objects[i].take_prompt() for i in wanted}
        seen: dict[str, Observation] = {}
        for object_id, prompt in prompts.items():
            if prompt is not None:
                seen[object_id] = self._prompted(object_id, prompt, features, picture)
        tracked = [
            i for i in wanted if prompts[i] is None and not self._bank.empty(self._objects[i].row)
        ]
        for batch in [tracked] if self._segmenter.batched else [[i] for i in tracked]:
            if batch:
                seen.update(self._tracked(batch, features, picture, apart))
        return {i: seen[i] for i in wanted if i in seen}

    def _prompted(
        self,
        object_id: str,
        prompt: Prompt,
        features: ImageFeatures,
        picture: np.ndarray | None,
    ) -> Observation:
        """A conditioning frame: the prompt alone decides, memory is only written."""
        segmenter, row = self._segmenter, self._objects[object_id].row
        if self._translate is not None:
            prompt = self._translate(prompt, features)
        if prompt.mask is not None:
            decoded = segmenter.adopt_mask(features, prompt.mask)
        else:
            decoded = segmenter.decode(features, segmenter.without_memory(features), prompt)
        if self._translate is None or bool((decoded.logits > 0).any()):
            spatial = segmenter.encode_memory(features, decoded, prompted=True)
            self._bank.prompt(row, spatial[0], decoded.pointers[0])
            self._policy.prompted(row, decoded)
        rows = self._index([row])
        return self._observe(rows, decoded, picture, prompted=True)[0]

    def _tracked(
        self,
        object_ids: list[str],
        features: ImageFeatures,
        picture: np.ndarray | None,
        apart: Sequence[Collection[str]],
    ) -> dict[str, Observation]:
        """Memory attention, decoder and memory encoder for a batch of objects of any age."""
        segmenter, places = self._segmenter, [self._objects[i].row for i in object_ids]
        decoded = segmenter.track(features, self._bank, places)
        spoken = None
        rows = self._index(places)
        choice = self._policy.choose(rows, decoded)
        if choice is not None:
            decoded = segmenter.choose(decoded, choice)
        said = [n for n, i in enumerate(object_ids) if self._objects[i].embedding is not None]
        if self._config.reuse_embedding and said:
            spoken = self._spoken([object_ids[n] for n in said], features)
            which = slice(None) if len(said) == len(object_ids) else self._index(said)
            preferred = self._policy.prefer(rows[which], _select(decoded, which), spoken)
            decoded = _merge(decoded, which, spoken, preferred)
        for group in apart:
            rivals = [n for n, i in enumerate(object_ids) if i in group]
            if len(rivals) > 1:
                last = None if self._last is None else self._last[rows]
                logits = part_rivals(decoded.logits, self._index(rivals), last)
                decoded = replace(decoded, logits=logits)
        if apart:
            self._keep_last(rows, decoded.logits)
        self._remember(places, self._policy.admit(rows, decoded), decoded, features)
        observed = self._observe(rows, decoded, picture, prompted=False)
        seen = dict(zip(object_ids, observed, strict=True))
        if spoken is not None:
            for k, n in enumerate(said):
                name = object_ids[n]
                seen[name] = replace(seen[name], spoken=_select(spoken, slice(k, k + 1)))
        return seen

    def _keep_last(self, rows: Tensor, logits: Tensor) -> None:
        """Remember where objects were last seen."""
        if self._last is None or self._last.shape[1:] != logits.shape[1:]:
            shape = self._config.max_objects, *logits.shape[1:]
            self._last = torch.zeros(shape, dtype=torch.bool, device=logits.device)
        shown = logits > 0
        there = shown.any(dim=3, keepdim=True).any(dim=2, keepdim=True)
        self._last[rows] = torch.where(there, shown, self._last[rows])

    def _observe(
        self, rows: Tensor, decoded: Decoded, picture: np.ndarray | None, *, prompted: bool
    ) -> list[Observation]:
        """A decoder's answer, one object at a time; all that the host wants to know comes in one transfer."""
        config = self._segmenter.config
        parts, measured = [_numbers(decoded)], self._policy.measured(rows)
        if measured is not None:
            parts.append(measured)
        if picture is not None:
            parts.append(mask_source(decoded.logits, config, picture))
        numbers, *more = read_back(*parts)
        masks: Sequence[np.ndarray | None] = [None] * len(numbers)
        if picture is not None:
            masks = list(drawn_masks(more.pop(), config, picture))
        known = more.pop().tolist() if more else [()] * len(numbers)
        if not np.isfinite(numbers[:, :2]).all():
            raise FloatingPointError(NOT_FINITE)
        out = []
        for n, (quality, object_score, area) in enumerate(numbers.tolist()):
            one = _select(decoded, slice(n, n + 1))
            told = (quality, object_score, area, prompted, one, tuple(known[n]), masks[n])
            out.append(Observation(one.logits, *told))
        return out

    def _index(self, numbers: list[int]) -> Tensor:
        """int64 [N] on the device; kept, for an upload waits for it and the same objects are followed for long."""
        key = tuple(numbers)
        if key not in self._indices:
            if len(self._indices) >= _KEPT_INDICES:
                self._indices.clear()
            self._indices[key] = torch.tensor(numbers, device=self._segmenter.device)
        return self._indices[key]

    def _remember(
        self, rows: list[int], admission: Admission, decoded: Decoded, features: ImageFeatures
    ) -> None:
        """Encodes and writes what the policy admitted."""
        recent, distractor = admission.recent, admission.distractor
        if self._segmenter.traits.reads_back:
            # Reading back costs nothing here, encoding does: leave out what is not remembered.
            kept = recent if distractor is None else recent | distractor
            if not kept.any():
                return
            if not kept.all():
                places = kept.nonzero()[:, 0].tolist()
                rows, recent, decoded = (
                    [rows[n] for n in places],
                    recent[kept],
                    _select(decoded, places),
                )
                distractor = None if distractor is None else distractor[kept]
        self._segmenter.remember(features, self._bank, rows, decoded, recent, distractor)

    def _spoken(self, object_ids: list[str], features: ImageFeatures) -> Decoded:
        """What the objects' last [SEG] embeddings show, without memory."""
        segmenter, last = self._segmenter, [self._objects[i].embedding for i in object_ids]
        extra = torch.stack([e for e in last if e is not None])[:, None]
        plain = segmenter.without_memory(features).expand(len(object_ids), -1, -1, -1)
        return segmenter.decode_tokens(
            features,
            plain,
            extra=extra.to(plain.device, plain.dtype),
            multimask=segmenter.config.multimask,
        )


def part_rivals(logits: Tensor, rivals: Tensor, last: Tensor | None = None) -> Tensor:
    """Give each cell that masks share to one of them.

    Memory of one of several alike drifts to the other where that passes its old place; who was there on the frame
    before has the better claim.

    Args:
        logits: [N, 1, h, w].
        rivals: int64 [K], those that share no cell afterwards.
        last: bool [N, 1, h, w], where each was seen last; None = nobody knows.

    Returns:
        `logits`, of which those of the rivals are positive at no cell of another's.
    """
    theirs = logits[rivals]
    claim, shown = theirs, theirs > 0
    if last is not None:
        before = last[rivals]
        shared = (before & shown).sum((1, 2, 3)) / (before | shown).sum((1, 2, 3)).clamp(min=1)
        claim = theirs + _CLAIM * shared[:, None, None, None]
    claim = claim.where(shown, theirs - _NOBODYS)
    wins = claim == claim.amax(0, keepdim=True)
    return logits.index_copy(0, rivals, theirs.where(wins, theirs.clamp(max=_NOT_MINE)))


def _merge(decoded: Decoded, rows: Tensor | slice, by: Decoded, where: Tensor) -> Decoded:
    """`decoded` with those of its `rows` taken from `by` that `where` marks."""
    parts = {}
    for name, whole in _tensors(decoded).items():
        part = getattr(by, name)
        part = torch.where(where.view(-1, *[1] * (part.ndim - 1)), part, whole[rows])
        parts[name] = part if isinstance(rows, slice) else whole.index_copy(0, rows, part)
    return Decoded(**parts)


def _select(decoded: Decoded, rows: Tensor | list[int] | slice) -> Decoded:
    return Decoded(**{name: whole[rows] for name, whole in _tensors(decoded).items()})


def _tensors(decoded: Decoded) -> dict[str, Tensor]:
    return {name: whole for name, whole in vars(decoded).items() if whole is not None}


def read_numbers(decoded: Decoded) -> list[list[float]]:
    """Quality, object score and area of every object, read back from the device together."""
    return _numbers(decoded).tolist()  # type: ignore[no-any-return]


def _numbers(decoded: Decoded) -> Tensor:
    """The same on the device, float32 [N, 3]."""
    area = (decoded.logits > 0).float().mean((1, 2, 3))
    numbers = [decoded.quality.float(), decoded.object_scores[:, 0].float(), area]
    return torch.stack(numbers, 1)
