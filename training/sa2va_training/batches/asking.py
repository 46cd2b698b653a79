# SPDX-License-Identifier: Apache-2.0
"""From a sample of a dataset to what is shown and asked this time: frames, expressions, wording, disturbance.

Everything random comes from the generator that is passed in, which is a function of (seed, draw).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sa2va_model.config.model import ModelConfig
from sa2va_model.errors import InputError
from sa2va_model.io.preprocessing import region_cells
from sa2va_model.mllm import chat as prompts
from sa2va_training.batches.augmentation import disturb_clip
from sa2va_training.batches.collage import SMALLEST, Album, CollageObject, glue, nearly
from sa2va_training.batches.collate import Asked, Exchange
from sa2va_training.batches.wording import DESCRIBE_REGION, called, reworded, segment_request
from sa2va_training.data.masks import ArrayMask
from sa2va_training.data.sample import Message, ObjectMasks, Sample
from sa2va_training.run.settings import DataSettings

_PLAIN = 0.6  # questions that are worded exactly as the run time words them
_FED = 0.7  # absent things whose [SEG] is looked at all the same, where the model has a trained object score
_CROPPED = 0.7
_SMALLEST_CROP = 0.65
_MIN_CELLS = 4
"""Regions of fewer visual tokens were left out of the official training, too."""


class Asker:
    """Asks about samples in the way of one run.

    Args:
        scored: the model's object score is trained, so that it has to see `[SEG]` of what is not there.
        window: take neighbouring frames of clips instead of any.
        album: what collages are made of; None = make none.
        things: also tell which named things the pictures show.
    """

    def __init__(
        self,
        config: ModelConfig,
        settings: DataSettings,
        seed: int,
        *,
        scored: bool,
        window: bool = False,
        album: Album | None = None,
        things: bool = False,
    ) -> None:
        self.settings, self.seed, self.scored, self.window = settings, seed, scored, window
        self.config, self.album, self.things = config, album, things
        ours = bool(config.extra_answers)
        found = ("Sure, [SEG].",) if ours else prompts.ANSWERS
        self.found = tuple(text for text in settings.answers if text) or found
        self.absent = settings.absent or (config.extra_answers[0] if ours else "I cannot see that.")
        for text in self.found:
            if text.count(prompts.SEG) != 1:
                raise InputError(
                    f"batches.answers: {text!r} has {text.count(prompts.SEG)} {prompts.SEG}; expected one"
                )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Asked:
        """What is asked about a sample, with its pictures and masks decoded.

        Raises:
            InputError: the sample has no words, or its pictures or masks cannot be read.
        """
        if sample.clip:
            sample = sample.with_frames(self._frames(sample, rng))
        if sample.objects and not sample.clip:
            made = self._of_things(sample, rng)
            if made is not None:
                return made
        if sample.turns:
            exchanges = _exchanges(sample, rng)
            independent = False
        else:
            whole = sample
            sample, exchanges = self._refer(whole, rng)
            if not exchanges and len(whole.frames) > 1:
                # Each frame shows something that is annotated, together they may leave everything open.
                sample, exchanges = self._refer(whole.with_frames([0]), rng)
            independent = self.settings.layout == "branches"
        if not exchanges:
            raise InputError(
                f"{sample.record}: says nothing; expected expressions or a conversation"
            )
        frames = sample.read_frames()
        masks, regions = sample.read_masks(), sample.read_regions()
        variant, disturbance = self._variant(sample, rng)
        things = _things(sample) if self.things else []
        others = np.stack([thing.mask for thing in things]) if things else None
        frames, masks, regions, others = augment(
            frames, masks, regions, disturbance, self.settings.augment, others
        )
        if others is not None:
            things = [
                CollageObject(thing.name, mask)
                for thing, mask in zip(things, others, strict=True)
                if mask.sum() > 0.5 * thing.mask.sum()
            ]
        keys = tuple(
            f"{picture.name}@{variant}" if picture.name and variant is not None else ""
            for picture in sample.frames
        )
        return Asked(
            sample,
            exchanges,
            independent,
            tuple(frames),
            keys,
            masks,
            regions,
            things=tuple(things),
        )

    def _of_things(self, sample: Sample, rng: np.random.Generator) -> Asked | None:
        """A collage, or questions for the names of things; None if it is the turn of neither."""
        settings = self.settings
        album = self.album if rng.random() < settings.collage else None
        naming = rng.random() < settings.naming
        if album is None and not naming:
            return None
        unknown = [o.name for o in sample.objects if o.masks[0] is None]
        if album is not None:
            rgb, things = glue(sample, album, rng)
        else:
            rgb = sample.frames[0].read()
            things = _things(sample)
        if not things:
            return None
        masks = np.stack([thing.mask for thing in things])[:, None]
        (rgb,), masks, _, _ = augment([rgb], masks, masks[:0, 0], rng, settings.augment)
        things = [
            CollageObject(thing.name, mask[0]) for thing, mask in zip(things, masks, strict=True)
        ]
        seen = tuple(thing for thing in things if thing.mask.any()) if self.things else ()
        named = self._named(things, rng) if naming else ()
        if named:
            exchanges = tuple(exchange for exchange, _ in named)
            regions = np.stack([mask for _, mask in named])
            found = _with_targets(sample, ())
            return Asked(found, exchanges, True, (rgb,), ("",), masks[:0], regions, things=seen)
        if album is None:
            return None
        targets, exchanges = self._phrases(things, unknown, album, rng)
        if not exchanges:
            return None
        found = _with_targets(sample, targets)
        chosen = np.zeros((len(targets), 1, *rgb.shape[:2]), bool)
        for k, target in enumerate(targets):
            chosen[k] = target.read(*rgb.shape[:2])
        return Asked(
            found,
            exchanges,
            True,
            (rgb,),
            ("",),
            chosen,
            masks[:0, 0],
            collage=True,
            things=seen,
        )

    def _named(
        self, things: Sequence[CollageObject], rng: np.random.Generator
    ) -> list[tuple[Exchange, np.ndarray]]:
        """What some things are called, with their masks."""
        found: list[tuple[Exchange, np.ndarray]] = []
        for n in rng.permutation(len(things)):
            thing = things[int(n)]
            if len(found) == self.settings.expressions:
                break
            if int(region_cells(thing.mask, self.config).sum()) >= _MIN_CELLS:
                question = reworded(DESCRIBE_REGION, rng)
                found.append(
                    (Exchange(question, called(thing.name), region=len(found)), thing.mask)
                )
        return found

    def _phrases(
        self,
        things: Sequence[CollageObject],
        unknown: Sequence[str],
        album: Album,
        rng: np.random.Generator,
    ) -> tuple[tuple[ObjectMasks, ...], tuple[Exchange, ...]]:
        """Questions that names alone answer: mostly about what is there, some about what is not.

        Args:
            unknown: names of what may be in the picture without a mask; nothing is asked that would fit them.
        """
        one, none = album.meant([thing.name for thing in things], unknown)
        by_thing: dict[int, list[str]] = {}
        for text, n in one.items():
            if things[n].mask.mean() >= SMALLEST:
                by_thing.setdefault(n, []).append(text)
        order = list(by_thing)
        wanted = self.settings.expressions
        missing = int(rng.binomial(wanted, self.settings.denied)) if none else 0
        targets: list[ObjectMasks] = []
        exchanges: list[Exchange] = []
        for n in rng.permutation(len(order))[: wanted - missing]:
            texts = by_thing[order[int(n)]]
            thing = things[order[int(n)]]
            asked = self._question(texts[int(rng.integers(len(texts)))], rng)
            exchanges.append(Exchange(asked, self._yes(rng), (len(targets),)))
            targets.append(ObjectMasks((ArrayMask(thing.mask),), thing.name))
        near = nearly([thing.name for thing in things], none) if self.settings.near else []
        for _ in range(missing):
            texts = near if near and rng.random() < self.settings.near else none
            asked = self._question(texts[int(rng.integers(len(texts)))], rng)
            exchanges.append(self._no(asked, rng))
        return tuple(targets), tuple(exchanges)

    def _frames(self, sample: Sample, rng: np.random.Generator) -> list[int]:
        """Which frames of a clip are shown, in order."""
        total, wanted = len(sample.frames), self.settings.frames
        known = [t for t in range(total) if _annotated(sample, t)] or list(range(total))
        if not self.window:
            if wanted > 1 and rng.random() < self.settings.alone:
                wanted = 1
            chosen = rng.choice(len(known), min(wanted, len(known)), replace=False)
            return sorted(known[int(i)] for i in chosen)
        stride = int(rng.integers(1, self.settings.stride + 1))
        while stride > 1 and (wanted - 1) * stride >= len(known):
            stride -= 1
        reach = max(len(known) - (wanted - 1) * stride, 1)
        first = int(rng.integers(reach))
        chosen_window = known[first : first + (wanted - 1) * stride + 1 : stride]
        return chosen_window[::-1] if rng.random() < 0.3 else chosen_window

    def _refer(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[Sample, tuple[Exchange, ...]]:
        """Some of the expressions, as questions.

        What nobody annotated on the shown frames is not asked for; what is known not to be on any of them is denied.
        """
        order = [sample.referrings[int(i)] for i in rng.permutation(len(sample.referrings))]
        targets: list[ObjectMasks] = []
        exchanges: list[Exchange] = []
        for referring in order:
            if len(exchanges) == self.settings.expressions:
                break
            target = None if referring.absent else _opened(referring.target, sample)
            seen = False if referring.absent else _shown(target)
            if seen is None:
                continue
            asked = self._question(referring.text, rng)
            if not seen:
                exchanges.append(self._no(asked, rng))
                continue
            assert target is not None
            exchanges.append(Exchange(asked, self._yes(rng), (len(targets),)))
            targets.append(target)
        # The sample's own checks want the [SEG] in turns; here they stand in the exchanges.
        found = _with_targets(sample, tuple(targets))
        return found, tuple(exchanges)

    def _question(self, text: str, rng: np.random.Generator) -> str:
        if rng.random() < _PLAIN:
            return prompts.referring_question(text)
        return segment_request(text, rng)

    def _yes(self, rng: np.random.Generator) -> str:
        return self.found[int(rng.integers(len(self.found)))]

    def _no(self, asked: str, rng: np.random.Generator) -> Exchange:
        if self.scored and rng.random() < _FED:
            return Exchange(asked, self._yes(rng), (-1,), decision=self.absent)
        return Exchange(asked, self.absent)

    def _variant(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[int | None, np.random.Generator | None]:
        """How the pictures are disturbed: the variant's number (None = never again) and its randomness."""
        if self.settings.augment == "none" or not sample.frames:
            return 0, None
        if not self.settings.variants:
            return None, rng
        variant = int(rng.integers(self.settings.variants))
        name = zlib.crc32("|".join(p.name for p in sample.frames).encode())
        return variant, np.random.default_rng([self.seed, name, variant])


def _exchanges(sample: Sample, rng: np.random.Generator) -> tuple[Exchange, ...]:
    """A finished conversation as pairs; targets are counted through its `[SEG]`."""
    found: list[Exchange] = []
    question, used = "", 0
    for turn in sample.turns:
        if turn.role == "user":
            text = turn.text.replace(prompts.IMAGE_PLACEHOLDER, "").strip("\n ")
            question = reworded(text, rng)
            continue
        count = turn.text.count(prompts.SEG)
        found.append(Exchange(question, turn.text, tuple(range(used, used + count))))
        used += count
    return tuple(found)


def _things(sample: Sample) -> list[CollageObject]:
    """The named objects of one image, where they are."""
    if sample.clip or len(sample.frames) != 1 or not sample.objects:
        return []
    size = sample.size()
    known = [(o.name, o.masks[0]) for o in sample.objects]
    found = [CollageObject(name, mask.read(*size)) for name, mask in known if mask is not None]
    return [thing for thing in found if thing.mask.any()]  # drawn empty: it is not there


def _annotated(sample: Sample, frame: int) -> bool:
    targets = (*sample.targets, *(r.target for r in sample.referrings if r.target is not None))
    return not targets or any(target.masks[frame] is not None for target in targets)


def _opened(target: ObjectMasks | None, sample: Sample) -> ObjectMasks | None:
    """A target with its masks decoded, so that they are read once."""
    if target is None:
        return None
    size = sample.size()
    masks = [None if mask is None else ArrayMask(mask.read(*size)) for mask in target.masks]
    return replace(target, masks=tuple(masks))


def _shown(target: ObjectMasks | None) -> bool | None:
    """Whether any of the frames shows a target that `_opened` returned; None = nobody knows."""
    masks = () if target is None else target.masks
    if any(isinstance(mask, ArrayMask) and mask.array.any() for mask in masks):
        return True
    return None if not masks or None in masks else False


def _with_targets(sample: Sample, targets: tuple[ObjectMasks, ...]) -> Sample:
    answer = " ".join([prompts.SEG] * len(targets))
    return replace(sample, referrings=(), targets=targets, turns=(Message("assistant", answer),))


def augment(
    frames: Sequence[np.ndarray],
    masks: np.ndarray,
    regions: np.ndarray,
    rng: np.random.Generator | None,
    strength: str,
    others: np.ndarray | None = None,
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray | None]:
    """Disturbs pictures as other cameras might have taken them; all frames of a clip alike.

    "light" changes light, colour, noise and blur; "strong" also cuts out a part, which keeps every object that is
    asked about. Nothing is mirrored: "left" has to stay left.

    Args:
        frames: T arrays uint8 [H, W, 3].
        masks: bool [K, T, H, W]; regions: bool [R, H, W].
        rng: None = leave them as they are.
        others: bool [O, H, W], masks of what is cut along but need not stay.
    """
    if rng is None or strength == "none" or not frames:
        return list(frames), masks, regions, others
    clip = np.stack(frames)
    if strength == "strong" and rng.random() < _CROPPED:
        window = _window(masks, regions, clip.shape[1:3], rng)
        clip, masks, regions = (
            clip[(slice(None), *window)],
            masks[(..., *window)],
            regions[(..., *window)],
        )
        others = None if others is None else others[(..., *window)]
    return list(disturb_clip(np.ascontiguousarray(clip), rng)), masks, regions, others


def _window(
    masks: np.ndarray, regions: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[slice, slice]:
    """Rows and columns of a cut that holds all masks."""
    used = np.zeros(size, bool)
    for part in (masks.reshape(-1, *size), regions):
        used |= part.any(0) if len(part) else False
    cuts = []
    for axis, length in ((1, size[0]), (0, size[1])):
        inside = np.flatnonzero(used.any(axis))
        low, high = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (length // 2,) * 2
        extent = max(round(length * rng.uniform(_SMALLEST_CROP, 1.0)), high - low)
        first = int(rng.integers(max(0, high - extent), min(low, length - extent) + 1))
        cuts.append(slice(first, first + extent))
    return cuts[0], cuts[1]
