# SPDX-License-Identifier: Apache-2.0
"""Memory stage: an object is named, pointed at or outlined on the first frame of a clip and followed through the rest.

Letters: B clips, K objects of each, N = B · K, T frames, L memory tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sa2va_model.segmentation.types import Decoded, ImageFeatures
from sa2va_training.batches.augmentation import disturb_clip, without
from sa2va_training.objectives.clip_memory import ClipMemory
from sa2va_training.run.precision import half_precision
from sa2va_training.tiny.data.batches import (
    Library,
    PictureBatch,
    Shard,
    StoredExpression,
    fitted,
    normalised,
    seen_objects,
)
from sa2va_training.tiny.data.packing import read
from sa2va_training.tiny.data.pointing import native_prompts
from sa2va_training.tiny.learner import TinyLearner, repeat_rows
from sa2va_training.tiny.objectives.losses import decoded_loss
from sa2va_training.tiny.stages import exact_codes, questions

_MEMORY = (
    "memory_attention",
    "memory_encoder",
    "maskmem_tpos_enc",
    "obj_ptr",
    "no_obj",
    "mask_downsample",
)
_FROZEN = ("image_encoder", "no_mem")
_MIN_PIXELS = 16
_GOES_AWAY = 0.6  # of the clips


def is_memory(name: str) -> bool:
    """A parameter that only tracking uses."""
    return name.removeprefix("model.sam2.sam2_model.").startswith(_MEMORY)


def is_trained(name: str) -> bool:
    """A parameter that the memory stage moves: all of SAM-2 but the image encoder."""
    return not name.removeprefix("model.sam2.sam2_model.").startswith(_FROZEN)


@dataclass(frozen=True)
class ClipBatch:
    """Clips as one still batch per frame; `targets` are the same objects throughout.

    Attributes:
        frames: T batches; expressions belong to the first frame.
        spoken: the first frame may be prompted with the model's own words for it (not in a clip played backwards,
            and not before there is a language half).
    """

    frames: tuple[PictureBatch, ...]
    spoken: bool


class ClipBatches:
    """The stream of training clips of one run."""

    def __init__(
        self, library: Library, *, images: int, each: int, seed: int, spoken: bool = True
    ) -> None:
        self.library, self.images, self.each, self.seed = library, images, each, seed
        self.spoken = spoken

    def at(self, step: int) -> ClipBatch:
        """The clips of that step."""
        rng = np.random.default_rng([self.seed, step])
        if step % 100 == 0:
            self.library.refresh()
        backwards = bool(rng.random() < 0.4)
        chosen: list[tuple[Shard, int, list[StoredExpression]]] = []
        while len(chosen) < self.images:
            shard, i = self.library.draw(rng, 1)[0]
            asked = _objects(shard, i, self.each, backwards, rng)
            if asked:
                chosen.append((shard, i, asked))
        clip = assemble(chosen, backwards, rng)
        return replace(clip, spoken=clip.spoken and self.spoken)


def _objects(
    shard: Shard, index: int, each: int, backwards: bool, rng: np.random.Generator
) -> list[StoredExpression]:
    """K expressions for objects that the first frame shows; empty if it shows none."""
    good = {int(i) for i in seen_objects(shard.objects[index, -1 if backwards else 0])}
    if backwards:
        pool = [StoredExpression("", "attribute", target) for target in sorted(good)]
    else:
        pool = [e for e in shard.expressions[index] if e.target in good]
    by_target: dict[int, list[StoredExpression]] = {}
    for i in rng.permutation(len(pool)):
        by_target.setdefault(pool[i].target, []).append(pool[i])
    queue = [group[n] for n in range(8) for group in by_target.values() if n < len(group)]
    return [queue[i % len(queue)] for i in range(each)] if queue else []


def assemble(
    chosen: Sequence[tuple[Shard, int, list[StoredExpression]]],
    backwards: bool,
    rng: np.random.Generator | None,
) -> ClipBatch:
    """Frame batches of the chosen clips; with `rng` they are disturbed, all frames of a clip alike."""
    order = slice(None, None, -1) if backwards else slice(None)
    clips = [np.array(shard.rgb[i])[order] for shard, i, _ in chosen]
    shown = [np.array(shard.instances[i])[order] for shard, i, _ in chosen]
    if rng is not None:
        for clip, labels, (_, _, asked) in zip(clips, shown, chosen, strict=True):
            if rng.random() < _GOES_AWAY:
                take_away(clip, labels, asked[int(rng.integers(len(asked)))].target, rng)
        clips = [disturb_clip(clip, rng) for clip in clips]
    instances = np.stack(shown)
    objects = np.stack([shard.objects[i][order] for shard, i, _ in chosen])
    targets = torch.tensor([[e.target for e in asked] for _, _, asked in chosen])
    expressions = tuple(tuple(asked) for _, _, asked in chosen)
    frames = tuple(
        PictureBatch(
            normalised([clip[t] for clip in clips]),
            torch.from_numpy(np.ascontiguousarray(instances[:, t])),
            torch.from_numpy(np.ascontiguousarray(objects[:, t])),
            targets,
            expressions,
        )
        for t in range(instances.shape[1])
    )
    return ClipBatch(frames, not backwards)


def take_away(
    clip: np.ndarray, instances: np.ndarray, target: int, rng: np.random.Generator
) -> None:
    """Removes an object from a few frames in a row after the first; in place.

    Objects that leave are rare in the clips, and a tracker that never saw one leave clings to what stands nearby.

    Args:
        clip: uint8 [T, H, W, 3]; instances: uint8 [T, H, W].
    """
    start = int(rng.integers(1, len(clip)))
    for t in range(start, min(len(clip), start + int(rng.integers(1, 4)))):
        mask = instances[t] == target + 1
        clip[t] = without(clip[t], mask)
        instances[t][mask] = 0


def unroll(
    learner: TinyLearner, clip: ClipBatch, first: Decoded, features: Sequence[ImageFeatures]
) -> list[Decoded]:
    """Follows all objects from frame 1 on, given the answer on frame 0.

    Args:
        features: of every frame, one row for each object.
    """
    memory = ClipMemory(learner.sam2, gated=True)
    memory.write(features[0], first, prompted=True)
    seen = []
    for t in range(1, len(clip.frames)):
        values, positions, pointers = memory.tokens()
        conditioned = learner.sam2.attend(features[t], values, positions, pointers)
        decoded = learner.sam2.decode_tokens(features[t], conditioned)
        seen.append(decoded)
        memory.write(features[t], decoded, prompted=False)
    return seen


def clip_features(learner: TinyLearner, clip: ClipBatch) -> list[ImageFeatures]:
    """Features of every frame with a row for each object; the encoder is frozen here."""
    each = clip.frames[0].targets.shape[1]
    pixels = fitted(torch.cat([f.pixels for f in clip.frames]), learner.side)
    with torch.no_grad():
        together = learner.sam2.sam2_model.image_encoder(pixels)
    decoder, count = learner.sam2.sam2_model.sam_mask_decoder, len(clip.frames[0].pixels)
    fine, middle, top = together["backbone_fpn"]
    position = together["vision_pos_enc"][-1]
    rows = []
    for t in range(len(clip.frames)):
        part = slice(t * count, (t + 1) * count)
        high = (decoder.conv_s0(fine[part]), decoder.conv_s1(middle[part]))
        rows.append(repeat_rows(ImageFeatures(top[part], position[part], high), each))
    return rows


def spoken_codes(learner: TinyLearner, batch: PictureBatch) -> Tensor:
    """The model's own [SEG] embeddings for a batch's expressions, [N, C]; the language half is frozen here."""
    with torch.no_grad():
        packed = learner.packer.pack(questions(batch, None))
        states = read(learner.mllm, batch.pixels, packed)
        codes: Tensor = learner.model.text_hidden_fcs(states.seg)
    return codes


def _first_frame(
    learner: TinyLearner, clip: ClipBatch, features: ImageFeatures, rng: np.random.Generator
) -> Decoded:
    """The answer on frame 0 to what a user may do: speak (mostly), point, draw a box, give a mask."""
    batch, segmenter = clip.frames[0], learner.sam2
    chance = rng.random()
    plain = segmenter.without_memory(features)
    if chance < 0.55:
        codes = spoken_codes(learner, batch) if clip.spoken else exact_codes(learner, batch)
        return segmenter.decode_tokens(features, plain, extra=codes[:, None])
    if chance < 0.8:
        points, labels = native_prompts(batch, learner.side, rng)
        return segmenter.decode_tokens(features, plain, points=points, labels=labels)
    one = [_row(features, n) for n in range(len(features.top))]
    masks = batch.masks(learner.side)
    given = [segmenter.adopt_mask(one[n], masks[n]) for n in range(len(one))]
    return _stacked(given)


def _stacked(given: Sequence[Decoded]) -> Decoded:
    """Answers to given masks, which have no tokens, as one batch."""
    names = [name for name in Decoded.__dataclass_fields__ if name != "tokens"]
    return Decoded(*(torch.cat([getattr(g, name) for g in given]) for name in names))


def _row(features: ImageFeatures, row: int) -> ImageFeatures:
    fine, middle = (level[row : row + 1] for level in features.high)
    part = slice(row, row + 1)
    return ImageFeatures(features.top[part], features.position[part], (fine, middle))


def memory_stage(
    learner: TinyLearner, clip: ClipBatch, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Masks and object scores on all frames, through the model's own memory of its own masks."""
    with half_precision():
        features = clip_features(learner, clip)
        first = _first_frame(learner, clip, features[0], rng)
        answers = [first, *unroll(learner, clip, first, features)]
    total, report = torch.zeros(()), {"iou": 0.0, "score": 0.0, "J": 0.0}
    for t, (decoded, batch) in enumerate(zip(answers, clip.frames, strict=True)):
        if not decoded.logits.requires_grad:  # a given mask
            continue
        cover = batch.cover(learner.cells)
        visible = batch.masks(learner.side).flatten(1).sum(1) >= _MIN_PIXELS
        loss, more = decoded_loss(decoded, cover, visible, score_weight=0.6)
        total = total + loss
        report["score"] += more["score"] / len(answers)
        if t:
            report["J"] += (more["iou"] if visible.any() else 0.0) / (len(answers) - 1)
        else:
            report["iou"] = more["iou"]
    return total / len(answers), report


@torch.no_grad()
def evaluate_clips(learner: TinyLearner, held: Library, count: int) -> dict[str, dict[str, float]]:
    """Mean IoU on the first frame and through memory, from spoken prompts and from true masks, per kind of clip.

    `J` counts frames that show the object (a mask that the object score erases is empty), `stale` is what the first
    frame's true mask would score, `away` how often an object that is gone gets no mask.
    """
    out: dict[str, dict[str, float]] = {}
    for folder in sorted(held.shards):
        shard = held.shards[folder]
        sums: dict[str, list[Tensor]] = {}
        for i in range(min(count, len(shard))):
            asked = _objects(shard, i, 3, False, np.random.default_rng(i))
            if asked:
                clip = assemble([(shard, i, asked)], False, None)
                for key, value in _measure(learner, clip).items():
                    sums.setdefault(key, []).append(value)
        out[folder.parts[-3]] = {
            key: round(float(torch.cat(values).float().mean()), 4) for key, values in sums.items()
        }
    return out


def _measure(learner: TinyLearner, clip: ClipBatch) -> dict[str, Tensor]:
    features, truth = clip_features(learner, clip), [b.masks(learner.side) for b in clip.frames]
    plain = learner.sam2.without_memory(features[0])
    codes = spoken_codes(learner, clip.frames[0])
    spoken = learner.sam2.decode_tokens(features[0], plain, extra=codes[:, None])
    rows = [_row(features[0], n) for n in range(len(codes))]
    given = [learner.sam2.adopt_mask(row, mask) for row, mask in zip(rows, truth[0], strict=True)]
    drawn = _stacked(given)
    out = {"first": _iou(_masks(learner, spoken), truth[0])}
    for name, first in (("J", spoken), ("Jmask", drawn)):
        seen = unroll(learner, clip, first, features)
        shown = [_masks(learner, decoded) for decoded in seen]
        there = [t.flatten(1).sum(1) >= _MIN_PIXELS for t in truth[1:]]
        out[name] = torch.cat(
            [_iou(m, t)[v] for m, t, v in zip(shown, truth[1:], there, strict=True)]
        )
        if name == "Jmask":
            gone = [(~m.flatten(1).any(1))[~v] for m, v in zip(shown, there, strict=True)]
            out["away"] = torch.cat(gone)
            out["stale"] = torch.cat(
                [_iou(truth[0], t)[v] for t, v in zip(truth[1:], there, strict=True)]
            )
    return out


def _masks(learner: TinyLearner, decoded: Decoded) -> Tensor:
    """bool [N, S, S]; nothing where the object score says so."""
    masks = learner.sam2.image_logits(decoded.logits)[:, 0] > 0
    return masks & (decoded.object_scores[:, :, None] > 0)


def _iou(guess: Tensor, truth: Tensor) -> Tensor:
    common = (guess & truth).flatten(1).sum(1)
    return common / (guess | truth).flatten(1).sum(1).clamp(min=1)
