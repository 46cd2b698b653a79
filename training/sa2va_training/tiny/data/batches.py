# SPDX-License-Identifier: Apache-2.0
"""Batches from shards: which picture, which objects and which words are a function of (seed, step) alone.

Letters: B images, K expressions or objects of each, N = B · K, O = `scenes.MAX_OBJECTS`, S image size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.io.preprocessing import MEAN, STD
from sa2va_training.batches.augmentation import disturb
from sa2va_training.tiny.data.scenes import AREA, BOX, COLOUR, PRESENT, ROOT, SHAPE, VISIBLE

MIN_VISIBLE, MIN_AREA = 0.3, 0.002


@dataclass(frozen=True)
class StoredExpression:
    """A sentence as `describe` wrote it; `target` is an object's index or -1."""

    text: str
    kind: str
    target: int


class Shard:
    """One finished shard; nothing is in memory but the object tables and the texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rgb = np.load(folder / "rgb.npy", mmap_mode="r")
        self.instances = np.load(folder / "instances.npy", mmap_mode="r")
        self.objects = np.load(folder / "objects.npy")
        rows = json.loads((folder / "expressions.json").read_text())
        self.expressions = [[StoredExpression(*row) for row in found] for found in rows]

    def __len__(self) -> int:
        return len(self.objects)


class Library:
    """All finished shards of one split, drawn from by kind. Shards that appear later join at `refresh`."""

    def __init__(self, shares: Mapping[str, float], split: str, root: Path = ROOT) -> None:
        self.shares, self.split, self.root = dict(shares), split, root
        self.shards: dict[Path, Shard] = {}
        self.refresh()
        if not self.shards:
            raise InputError(
                f"{root}: no finished shard of {', '.join(shares)} for {split!r}; "
                "make one with python -m sa2va_training.tiny.data.scenes"
            )

    def refresh(self) -> None:
        """Looks for new shards."""
        for kind in self.shares:
            for done in sorted((self.root / kind / self.split).glob("*/expressions.json")):
                if done.parent not in self.shards:
                    self.shards[done.parent] = Shard(done.parent)

    def draw(self, rng: np.random.Generator, count: int) -> list[tuple[Shard, int]]:
        """`count` pictures: the kind by its share, then any picture of that kind."""
        by_kind: dict[str, list[Shard]] = {}
        for folder in sorted(self.shards):
            by_kind.setdefault(folder.parts[-3], []).append(self.shards[folder])
        kinds = sorted(by_kind)
        weights = np.array([self.shares[kind] for kind in kinds])
        chosen = rng.choice(len(kinds), count, p=weights / weights.sum())
        return [self._picture(by_kind[kinds[k]], rng) for k in chosen]

    @staticmethod
    def _picture(shards: Sequence[Shard], rng: np.random.Generator) -> tuple[Shard, int]:
        place = int(rng.integers(sum(map(len, shards))))
        for shard in shards:
            if place < len(shard):
                return shard, place
            place -= len(shard)
        raise AssertionError("place is within the sum of lengths")


@dataclass(frozen=True)
class PictureBatch:
    """Pictures and what is asked about them.

    Attributes:
        pixels: float32 [B, 3, S, S], normalised.
        instances: uint8 [B, S, S].
        objects: float32 [B, O, columns].
        targets: long [B, K], object index, -1 = nothing.
        expressions: [B][K].
    """

    pixels: Tensor
    instances: Tensor
    objects: Tensor
    targets: Tensor
    expressions: tuple[tuple[StoredExpression, ...], ...]

    @property
    def found(self) -> Tensor:
        """bool [N]: the expression means an object."""
        return self.targets.flatten() >= 0

    @property
    def meant(self) -> Tensor:
        """[N, columns]: the table row of each target; that of object 0 where there is none."""
        index = self.targets.clamp(min=0)[:, :, None].expand(-1, -1, self.objects.shape[-1])
        return self.objects.gather(1, index).flatten(0, 1)

    def cover(self, side: int) -> Tensor:
        """float32 [N, side, side]: covered share of each cell by the target; zero without one."""
        wanted = (self.targets + 1)[:, :, None, None]
        hit = (self.instances[:, None] == wanted) & (wanted > 0)
        return F.adaptive_avg_pool2d(hit.flatten(0, 1).float(), side)

    def masks(self, side: int) -> Tensor:
        """bool [N, side, side]: the target."""
        return self.cover(side) > 0.5


def fitted(pixels: Tensor, side: int) -> Tensor:
    """Pictures [B, 3, S, S] at [B, 3, side, side], resampled as `sa2va_model.io.preprocessing` does."""
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bicubic", antialias=True)


def normalised(rgb: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures [S, S, 3] to float32 [B, 3, S, S], as `sa2va_model.io.preprocessing` does."""
    pixels = torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return ((pixels - mean) / std).contiguous()


def seen_objects(table: np.ndarray) -> np.ndarray:
    """Indices of the objects that are seen well enough to be asked for."""
    good = (
        (table[:, PRESENT] > 0) & (table[:, VISIBLE] >= MIN_VISIBLE) & (table[:, AREA] >= MIN_AREA)
    )
    return np.flatnonzero(good)


class Batches:
    """The stream of training batches of one run."""

    def __init__(
        self,
        library: Library,
        *,
        images: int,
        each: int,
        none_share: float,
        seed: int,
        augment: bool = True,
    ) -> None:
        self.library, self.images, self.each = library, images, each
        self.none_share, self.seed, self.augment = none_share, seed, augment

    def at(self, step: int) -> PictureBatch:
        """The batch of that step."""
        rng = np.random.default_rng([self.seed, step])
        if step % 100 == 0:
            self.library.refresh()
        pictures = self.library.draw(rng, self.images)
        expressions = tuple(tuple(self._expressions(shard, i, rng)) for shard, i in pictures)
        rgb = [np.asarray(shard.rgb[i]) for shard, i in pictures]
        if self.augment:
            rgb = [disturb(picture, rng) for picture in rgb]
        return PictureBatch(
            normalised(rgb),
            torch.from_numpy(np.stack([shard.instances[i] for shard, i in pictures])),
            torch.from_numpy(np.stack([shard.objects[i] for shard, i in pictures])),
            torch.tensor([[e.target for e in row] for row in expressions]),
            expressions,
        )

    def _expressions(
        self, shard: Shard, index: int, rng: np.random.Generator
    ) -> list[StoredExpression]:
        """K expressions of one picture, about `none_share` of them without a target."""
        known = shard.expressions[index]
        absent = [e for e in known if e.target < 0]
        present = [e for e in known if e.target >= 0]
        nothing = int(rng.binomial(self.each, self.none_share)) if absent else 0
        nothing = min(nothing, self.each - 1)
        return [*_sample(present, self.each - nothing, rng), *_sample(absent, nothing, rng)]


def _sample(
    pool: Sequence[StoredExpression], count: int, rng: np.random.Generator
) -> list[StoredExpression]:
    """`count` of the pool, each as rarely twice as possible."""
    if not count:
        return []
    order = [int(i) for i in rng.permutation(len(pool))]
    return [pool[order[i % len(order)]] for i in range(count)]


def held_batches(library: Library, *, images: int, each: int, total: int) -> list[PictureBatch]:
    """A fixed sample of a held-out split: the first `total` pictures of every shard, undisturbed, K each."""
    batches = []
    for folder in sorted(library.shards):
        shard = library.shards[folder]
        for start in range(0, min(total, len(shard)), images):
            rng = np.random.default_rng(start)
            rows = list(range(start, min(start + images, total, len(shard))))
            expressions = tuple(tuple(_sample(shard.expressions[i], each, rng)) for i in rows)
            batches.append(
                PictureBatch(
                    normalised([np.asarray(shard.rgb[i]) for i in rows]),
                    torch.from_numpy(np.stack([shard.instances[i] for i in rows])),
                    torch.from_numpy(np.stack([shard.objects[i] for i in rows])),
                    torch.tensor([[e.target for e in row] for row in expressions]),
                    expressions,
                )
            )
    return batches


__all__ = [
    "AREA", "BOX", "COLOUR", "PRESENT", "SHAPE", "VISIBLE",
    "Batches", "Library", "PictureBatch", "Shard", "StoredExpression", "held_batches", "normalised", "seen_objects",
]  # fmt: skip
