# SPDX-License-Identifier: Apache-2.0
"""Heads and losses that exist only while training: they tell inner layers what an object is and where it is.

Without them a model this small does not leave the plateau where every mask is the whole foreground.

Letters: B images, N prompts, C channels, h = w map side, O objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa2va_sim.words.vocabulary import SHAPES as TOYS
from sa2va_training.tiny.data.batches import PictureBatch
from sa2va_training.tiny.data.scenes import (
    BOX,
    COLOUR,
    COLOUR_NAMES,
    PRESENT,
    SHAPE,
    SHAPE_NAMES,
    VISIBLE,
)
from sa2va_training.tiny.objectives.losses import plain

COLOURS, SHAPES = len(COLOUR_NAMES), len(SHAPE_NAMES)
CELL_SHAPES = len(TOYS) + 1
"""A cell seldom shows what a thing is: there all that is no toy is one kind."""
DENSE = COLOURS + 1 + CELL_SHAPES + 1 + 4
_BACKGROUND_WEIGHT = 0.3


@dataclass(frozen=True)
class DenseTargets:
    """What each cell of a map shows.

    Attributes:
        colours: [B, COLOURS + 1, h, w] shares, background first; shapes likewise, of `CELL_SHAPES`.
        boxes: [B, 4, h, w] of the object that covers most of the cell.
        covered: [B, h, w], 1 where an object covers more than a fifth of the cell.
    """

    colours: Tensor
    shapes: Tensor
    boxes: Tensor
    covered: Tensor


def object_shares(batch: PictureBatch, side: int) -> Tensor:
    """[B, O + 1, side, side]: the share of each cell that the background and every object cover."""
    count = batch.objects.shape[1] + 1
    planes = F.one_hot(batch.instances.long(), count).permute(0, 3, 1, 2).float()
    return F.adaptive_avg_pool2d(planes, side)


def dense_targets(batch: PictureBatch, shares: Tensor) -> DenseTargets:
    """Targets at the resolution of `shares`."""
    table = batch.objects
    seen = table[:, :, PRESENT].long()

    def named(column: int, count: int) -> Tensor:
        known = table[:, :, column].long().clamp(max=count - 1)
        names = F.pad((known + 1) * seen, (1, 0))  # [B, O + 1], 0 = background
        return torch.einsum("bohw,boc->bchw", shares, F.one_hot(names, count + 1).float())

    most, owner = shares[:, 1:].max(dim=1)
    side = owner.shape[-1]
    index = owner.flatten(1)[:, :, None].expand(-1, -1, 4)
    boxes = table[:, :, BOX].gather(1, index).transpose(1, 2).unflatten(2, (side, side))
    return DenseTargets(
        named(COLOUR, COLOURS), named(SHAPE, CELL_SHAPES), boxes, (most > 0.2).float()
    )


def dense_loss(logits: Tensor, targets: DenseTargets, *, absolute: bool) -> tuple[Tensor, Tensor]:
    """Cross entropy of soft colour and shape shares plus box L1; returns (classes, boxes).

    Args:
        logits: [B, DENSE, h, w].
        absolute: boxes are predicted as such instead of as an offset from the cell. A language model has to say
            where an object is, so its tokens must know it absolutely; a mask decoder sees the map itself.
    """
    side = logits.shape[-1]
    colours, shapes, boxes = logits.split([COLOURS + 1, CELL_SHAPES + 1, 4], dim=1)
    weight = 1 - (1 - _BACKGROUND_WEIGHT) * targets.colours[:, :1]
    entropy = -(targets.colours * colours.log_softmax(1)).sum(1, keepdim=True)
    entropy = entropy - (targets.shapes * shapes.log_softmax(1)).sum(1, keepdim=True)
    classes = (entropy * weight).sum() / weight.sum()
    middle = (torch.arange(side) + 0.5) / side
    base = torch.full((4, side, side), 0.25)
    base[0], base[1] = (0.5, 0.5) if absolute else (middle[None, :], middle[:, None])
    distance = (0.2 * boxes + base - targets.boxes).abs() * targets.covered[:, None]
    return classes, distance.sum() / (4 * targets.covered.sum() + 1)


def object_loss(
    head: nn.Linear, cells: Tensor, shares: Tensor, batch: PictureBatch
) -> tuple[Tensor, float]:
    """Cross entropy of every object's names read from the mean of its own cells; and the share of right shapes.

    A single cell seldom shows a shape. Without this the encoder learns colours at once and shapes hardly ever.

    Args:
        cells: [B, C, V], shares: [B, O + 1, h, w] with V = h · w.
    """
    weights = shares[:, 1:].flatten(2)  # [B, O, V]
    table = batch.objects
    seen = (table[:, :, PRESENT] > 0) & (table[:, :, VISIBLE] > 0.3) & (weights.sum(2) > 0.5)
    if not bool(seen.any()):
        return torch.zeros(()), 0.0
    means = torch.einsum("bcv,bov->boc", cells, weights)[seen] / weights.sum(2)[seen][:, None]
    colours, shapes = head(means).split([COLOURS, SHAPES], dim=1)
    meant = table[:, :, SHAPE][seen].long()
    names = F.cross_entropy(colours, table[:, :, COLOUR][seen].long())
    right = plain((shapes.argmax(1) == meant).float().mean())
    return names + F.cross_entropy(shapes, meant), right


class MapAids(nn.Module):
    """Dense heads on SAM-2's pyramid, at stride 4 and 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(channels, DENSE, 1)
        self.coarse = nn.Conv2d(channels, DENSE, 1)

    def loss(
        self, fine: Tensor, coarse: Tensor, batch: PictureBatch
    ) -> tuple[Tensor, dict[str, float]]:
        """Of the pyramid's finest and coarsest level, [B, C, h, w]."""
        shares = object_shares(batch, fine.shape[-1])
        pooled = F.avg_pool2d(shares, fine.shape[-1] // coarse.shape[-1])
        total, report = torch.zeros(()), {}
        for name, head, level, cells in (
            ("4", self.fine, fine, shares),
            ("16", self.coarse, coarse, pooled),
        ):
            classes, boxes = dense_loss(head(level), dense_targets(batch, cells), absolute=False)
            total = total + classes + 8 * boxes
            report[f"map{name}"], report[f"box{name}"] = plain(classes), plain(boxes)
        return total, report


class WordAids(nn.Module):
    """Heads on the language half: on its stem, its visual tokens, its [SEG] states and where it decides to answer."""

    def __init__(self, hidden: int, vision: int) -> None:
        super().__init__()
        self.stem_names = nn.Linear(vision, COLOURS + SHAPES)
        self.visual = nn.Linear(hidden, DENSE)
        self.visual_object = nn.Linear(hidden, COLOURS + SHAPES)
        self.seg_box = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 4))
        self.seg_names = nn.Linear(hidden, COLOURS + SHAPES)
        self.decide_box = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 4))
        self.decide_names = nn.Linear(hidden, COLOURS + SHAPES)

    def visual_loss(self, visual: Tensor, batch: PictureBatch) -> tuple[Tensor, dict[str, float]]:
        """Of the projected visual tokens [B, V, C]."""
        side = int(visual.shape[1] ** 0.5)
        logits = self.visual(visual).transpose(1, 2).unflatten(2, (side, side))
        shares = object_shares(batch, side)
        classes, boxes = dense_loss(logits, dense_targets(batch, shares), absolute=True)
        pooled, right = object_loss(self.visual_object, visual.transpose(1, 2), shares, batch)
        report = {"token": plain(classes), "tokenbox": plain(boxes), "shape": right}
        return classes + 8 * boxes + pooled, report

    def state_loss(
        self, seg: Tensor, decide: Tensor, batch: PictureBatch
    ) -> tuple[Tensor, dict[str, float]]:
        """Box and names of the target from states [N, C]; nothing is asked where there is no target."""
        found, meant = batch.found, batch.meant[batch.found]
        seen, plan = self.told(seg[found], meant), self.planned(decide[found], meant)
        report = {"segiou": plain(seen[1]), "deciou": plain(plan[1])}
        return seen[0] + 0.5 * plan[0], report

    def told(self, states: Tensor, meant: Tensor) -> tuple[Tensor, Tensor]:
        """Box and names of what a [SEG] is for: states [N, C] and table rows [N, columns] to (loss, mean box IoU)."""
        return _read_off(self.seg_box(states), self.seg_names(states), meant)

    def planned(self, states: Tensor, meant: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what is about to be named, before its first word."""
        return _read_off(self.decide_box(states), self.decide_names(states), meant)


def _read_off(boxes: Tensor, names: Tensor, meant: Tensor) -> tuple[Tensor, Tensor]:
    boxes = boxes.sigmoid()
    colours, shapes = names.split([COLOURS, SHAPES], dim=1)
    distance = F.l1_loss(boxes, meant[:, BOX])
    right = F.cross_entropy(colours, meant[:, COLOUR].long())
    right = right + F.cross_entropy(shapes, meant[:, SHAPE].long())
    # Distances alone neglect small things.
    overlap = box_iou(boxes, meant[:, BOX]).mean()
    return 8 * distance + 0.3 * right + 0.5 * (1 - overlap), overlap


def box_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes [N, 4] as (cx, cy, w, h)."""
    low = torch.maximum(one[:, :2] - one[:, 2:] / 2, other[:, :2] - other[:, 2:] / 2)
    high = torch.minimum(one[:, :2] + one[:, 2:] / 2, other[:, :2] + other[:, 2:] / 2)
    common = (high - low).clamp(min=0).prod(1)
    return common / (one[:, 2:].prod(1) + other[:, 2:].prod(1) - common).clamp(min=1e-6)
