# SPDX-License-Identifier: Apache-2.0
"""What each stage on still pictures minimises.

`sam`: the mask decoder learns to read teacher codes. `stem`: the ViT's stem learns to name things cut out of pictures
(`crops.py`). `sight`: the ViT learns what is where. `words`: the language model learns to write teacher codes at [SEG],
and when not to.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.mllm.tiled import TiledMllm
from sa2va_sim.words.vocabulary import COLOURS, SHAPES
from sa2va_training.run.precision import half_precision
from sa2va_training.tiny.data.batches import PictureBatch, fitted
from sa2va_training.tiny.data.language import ABSENT, FOUND, phrase
from sa2va_training.tiny.data.packing import IGNORED, Packed, Question, Read, block_mask, look, read
from sa2va_training.tiny.data.pointing import native_prompts
from sa2va_training.tiny.data.scenes import BOX, COLOUR, PRESENT, SHAPE
from sa2va_training.tiny.data.talk import talk_loss
from sa2va_training.tiny.learner import Encoded, TinyLearner, repeat_rows
from sa2va_training.tiny.objectives.losses import answer_loss, decoded_loss, mask_loss, plain
from sa2va_training.tiny.objectives.spoken import spoken_loss

Report = dict[str, float]
_LIKENESS = 2.0
_WEIGHTS = {"visual": 0.5, "states": 1.0, "answers": 1.0, "gaze": 0.5}
_TALK_WEIGHTS = {"visual": 0.5, "answers": 1.0, "plan": 0.7, "gaze": 0.5, "told": 0.5}


def questions(batch: PictureBatch, rng: np.random.Generator | None) -> list[list[Question]]:
    """What is asked about a batch; without `rng` plainly, as written."""
    rows = []
    for row in batch.expressions:
        asked = []
        for expression in row:
            text = expression.text if rng is None else phrase(expression.text, rng)
            if expression.target >= 0:
                asked.append(Question(text, FOUND))
            elif rng is not None and rng.random() < 0.3:
                asked.append(Question(text, ABSENT))
            else:  # feeds the wrong answer to see its [SEG], grades only the decision
                asked.append(Question(text, FOUND, decision=ABSENT))
        rows.append(asked)
    return rows


def exact_codes(learner: TinyLearner, batch: PictureBatch) -> Tensor:
    """What [SEG] should be: box and names of the target, or the code of absence; [N, C]."""
    meant = batch.meant
    codes = learner.teacher(meant[:, BOX], meant[:, COLOUR].long(), meant[:, SHAPE].long())
    chosen: Tensor = torch.where(batch.found[:, None], codes, learner.teacher.absent)
    return chosen


def prompt_codes(learner: TinyLearner, batch: PictureBatch, rng: np.random.Generator) -> Tensor:
    """Codes as prompts: parts are left out where the rest suffices, and absent ones are near misses; [N, C]."""
    meant, found = batch.meant, batch.found
    boxes, colours, shapes = meant[:, BOX].clone(), meant[:, COLOUR].long(), meant[:, SHAPE].long()
    keep_box = torch.ones(len(meant), dtype=torch.bool)
    boxes = _inexact(boxes, rng)
    absent = torch.zeros(len(meant), dtype=torch.bool)
    table = batch.objects.repeat_interleave(batch.targets.shape[1], 0)
    for i in range(len(meant)):
        rows = table[i][table[i, :, PRESENT] > 0]
        same = (rows[:, COLOUR] == colours[i]) & (rows[:, SHAPE] == shapes[i])
        chance = rng.random()
        if found[i]:
            # Names alone would do for most objects; without pressure the decoder never learns to read the box.
            if chance < 0.2 and int(same.sum()) == 1:
                keep_box[i] = False
            elif chance < 0.6:
                colours[i], shapes[i] = -1, -1
            continue
        near = rows[int(rng.integers(len(rows)))]
        boxes[i] = near[BOX]
        colour, shape = int(near[COLOUR]), int(near[SHAPE])
        if rng.random() < 0.5:
            colour = int(rng.integers(len(COLOURS)))
        else:
            shape = int(rng.integers(len(SHAPES)))
        colours[i], shapes[i] = colour, shape
        real = bool(((rows[:, COLOUR] == colour) & (rows[:, SHAPE] == shape)).any())
        absent[i] = real or chance < 0.4
        keep_box[i] = chance < 0.75
    codes = learner.teacher(boxes, colours, shapes, keep_box)
    chosen: Tensor = torch.where(absent[:, None], learner.teacher.absent, codes)
    return chosen


def _inexact(boxes: Tensor, rng: np.random.Generator) -> Tensor:
    """Boxes [N, 4] about as wrong as a language model says them: the picture has to tell the rest."""
    error = torch.from_numpy(rng.standard_normal(boxes.shape, np.float32) * rng.uniform(0, 0.2))
    error = error.to(boxes.device)
    sides = boxes[:, 2:].repeat(1, 2)
    return (boxes + error * sides).clamp(min=0.01, max=0.99)


def sam_stage(
    learner: TinyLearner, batch: PictureBatch, rng: np.random.Generator
) -> tuple[Tensor, Report]:
    """Masks from teacher codes."""
    codes = prompt_codes(learner, batch, rng)
    with half_precision():
        encoded = learner.encode(batch.pixels)
        decoded = learner.decode(encoded.features, codes, batch.targets.shape[1])
    loss, report = decoded_loss(decoded, batch.cover(learner.cells), batch.found)
    maps, more = learner.map_aids.loss(encoded.fine.float(), encoded.coarse.float(), batch)
    return loss + 0.5 * maps, {**report, **more}


def sight_stage(
    learner: TinyLearner,
    batch: PictureBatch,
    rng: np.random.Generator,
    example: TiledMllm | None = None,
) -> tuple[Tensor, Report]:
    """What visual tokens show, without any words: the cheapest way to many pictures.

    Args:
        example: a model whose visual tokens are imitated as well.
    """
    visual = look(learner.mllm, batch.pixels)
    loss, report = learner.word_aids.visual_loss(visual, batch)
    if example is None:
        return loss, report
    with torch.no_grad():
        wanted = example.visual_tokens(fitted(batch.pixels, example.tile_size))
    apart = F.mse_loss(visual, wanted) / wanted.var()
    return loss + _LIKENESS * apart, {**report, "apart": plain(apart)}


def words_stage(
    learner: TinyLearner,
    batch: PictureBatch,
    rng: np.random.Generator,
    talk: float = 0.35,
    listing: float = 0.6,
    masks: float = 0.0,
    codes: float = 0.5,
) -> tuple[Tensor, Report]:
    """Answers, and teacher codes at [SEG], or the masks that are drawn from it.

    Args:
        talk: share of the steps that are about something else than referring expressions.
        listing: share of these that are about captions and regions.
        masks: weight of the masks; 0 draws none.
        codes: weight of the distance to teacher codes.
    """
    more = {"masks": masks, "code": codes}
    if rng.random() < talk:
        parts, report = talk_loss(learner, batch, rng, listing, masks > 0)
        return weighted(parts, _TALK_WEIGHTS | more), report
    packed = learner.packer.pack(questions(batch, rng))
    seen = read(learner.mllm, batch.pixels, packed)
    parts, report = word_losses(learner, batch, packed, seen)
    if masks:
        parts["masks"], drawn = _drawn(learner, batch, packed.has_seg.flatten(), seen)
        report |= drawn
    return weighted(parts, _WEIGHTS | more), report


def _drawn(
    learner: TinyLearner, batch: PictureBatch, asked: Tensor, seen: Read
) -> tuple[Tensor, Report]:
    """The masks of those expressions whose answer has a [SEG]: bool [N]."""
    image = torch.arange(len(batch.pixels)).repeat_interleave(batch.targets.shape[1])[asked]
    codes = learner.model.text_hidden_fcs(seen.seg[asked])
    cover = batch.cover(learner.cells)[asked]
    return spoken_loss(learner, batch, image, codes, cover, batch.found[asked])


def taught_loss(
    learner: TinyLearner, encoded: Encoded, batch: PictureBatch, rng: np.random.Generator
) -> Tensor:
    """Masks from teacher codes or, as often, from the clicks and boxes that users may give as well."""
    each, cover, found = batch.targets.shape[1], batch.cover(learner.cells), batch.found
    if rng.random() < 0.5:
        taught = learner.decode(encoded.features, prompt_codes(learner, batch, rng), each)
        return decoded_loss(taught, cover, found)[0]
    rows = repeat_rows(encoded.features, each)
    points, labels = native_prompts(batch, learner.side, rng)
    plain = learner.sam2.without_memory(rows)
    pointed = learner.sam2.decode_tokens(rows, plain, points=points, labels=labels)
    shown = (pointed.logits[:, 0][found].float(), cover[found])
    score = pointed.object_scores[found, 0].float()
    present = F.binary_cross_entropy_with_logits(score, torch.ones_like(score))
    return mask_loss(*shown)[0] + 0.3 * present


def weighted(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The sum of all parts by their weights."""
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


def word_losses(
    learner: TinyLearner, batch: PictureBatch, packed: Packed, seen: Read
) -> tuple[dict[str, Tensor], Report]:
    """The losses of the language half, by name."""
    parts: dict[str, Tensor] = {}
    parts["visual"], tokens = learner.word_aids.visual_loss(seen.visual, batch)
    parts["states"], states = learner.word_aids.state_loss(seen.seg, seen.decide, batch)
    graded = packed.labels != IGNORED
    place = torch.arange(packed.labels.shape[2]).expand_as(packed.labels)
    first = (place == packed.decide[:, :, None])[graded]
    logits = learner.mllm.language_model.lm_head(seen.states[graded])
    parts["answers"], answers = answer_loss(logits, packed.labels[graded], first, ~batch.found)
    asked = packed.has_seg.flatten()
    codes = learner.model.text_hidden_fcs(seen.seg)
    parts["code"] = F.mse_loss(codes[asked], exact_codes(learner, batch)[asked])
    parts["gaze"] = _gaze(learner, batch, packed)
    report = {
        **tokens,
        **states,
        **answers,
        "code": plain(parts["code"]),
        "gaze": plain(parts["gaze"]),
    }
    return parts, report


def _gaze(learner: TinyLearner, batch: PictureBatch, packed: Packed) -> Tensor:
    prefix, (each, length) = len(packed.prefix), packed.branches.shape[1:]
    places = prefix + torch.arange(each) * length + packed.seg
    mask, _ = block_mask(prefix, each, length)
    visual = packed.visual(learner.mllm.image_id)
    side = int(visual.shape[1] ** 0.5)
    cells = batch.cover(side).flatten(1).unflatten(0, (-1, each))
    return learner.gaze.loss(places, mask, visual, cells)
