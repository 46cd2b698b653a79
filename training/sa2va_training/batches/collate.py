# SPDX-License-Identifier: Apache-2.0
"""Samples become a batch: one padded row of tokens for each sample, frames for both encoders, masks for every `[SEG]`.

Two layouts of a row. A conversation is read from left to right. Independent questions about one picture are branches
that all begin right after the picture and do not see each other: each gets the states that it would get alone, as at
run time, while the picture is read once. A label per token says which (`owner`), and `batch.attention` follows it.

Letters as in `batch.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.io import preprocessing as images
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.base import Mllm
from sa2va_training.batches.batch import IGNORED, PADDING, Batch
from sa2va_training.batches.collage import CollageObject
from sa2va_training.data.sample import Sample
from sa2va_training.families import family_of
from sa2va_training.families.base import Shown
from sa2va_training.objectives.names import named_things


@dataclass(frozen=True)
class Exchange:
    """A question and what the model has to answer.

    Attributes:
        question: without `<image>`.
        targets: which targets of the sample the answer's `[SEG]` mean, in order; -1 = nothing that is there.
        decision: if set, only the first token of the answer is graded, against the first one of this text, while
            `answer` is fed. This is how the `[SEG]` state of something absent is seen.
        region: which region of the sample this exchange alone is about, as its region1; None = whatever the whole
            sample has.
    """

    question: str
    answer: str
    targets: tuple[int, ...] = ()
    decision: str | None = None
    region: int | None = None


@dataclass(frozen=True)
class Asked:
    """A sample with the words that are said about it.

    Attributes:
        independent: the exchanges do not see each other.
        frames: uint8 [H, W, 3] as the model shall see them (augmented); `masks` bool [K, T, H, W] likewise.
        keys: names of the frames, including how they were augmented; "" = never the same again.
        collage: the picture was made of several.
        things: what has a name in the one picture, as far as it is to be read off its visual tokens.
    """

    sample: Sample
    exchanges: tuple[Exchange, ...]
    independent: bool
    frames: tuple[np.ndarray, ...]
    keys: tuple[str, ...]
    masks: np.ndarray
    regions: np.ndarray
    collage: bool = False
    things: tuple[CollageObject, ...] = ()


@dataclass
class _Row:
    """One sample's tokens while they are laid out."""

    ids: list[int]
    labels: list[int]
    owner: list[int]
    positions: list[tuple[int, ...]]
    first: list[bool]
    seg: list[int]
    targets: list[int]
    frames: list[int | None]  # that each [SEG] is for; None = all


class Collator:
    """Writes questions exactly as the run time does, tokenises them and stacks what they need.

    Args:
        mask_target: "area" = the share of a cell that is covered, "nearest" = as the official code.
        max_tokens: rows longer than this are refused.
        words: of the names that are read off visual tokens.
    """

    def __init__(
        self,
        mllm: Mllm,
        *,
        mask_target: str = "area",
        max_tokens: int = 8192,
        words: Sequence[str] = (),
    ) -> None:
        self.words = tuple(words)
        self.mllm, self.config, self.family = mllm, mllm.config, family_of(mllm)
        self.mask_target, self.max_tokens = mask_target, max_tokens
        self._head, _, self._tail = mllm.template.instruction.partition("{input}")
        self._system = mllm.template.system
        self._end = mllm.template.stop_words[0]
        self._known: dict[tuple[str, bool], list[int]] = {}

    def __call__(
        self, asked: Sequence[Asked], seeds: Sequence[int], *, rehearsed: bool = False
    ) -> Batch:
        """One batch.

        Args:
            rehearsed: the model knows what these samples teach.

        Raises:
            InputError: a row is too long, or a sample's masks do not fit its answers.
        """
        frames: list[Shown] = []
        pixels: list[Tensor] = []
        tile_keys: list[str] = []
        pixel_keys: list[str] = []
        rows: list[_Row] = []
        visual: list[Tensor] = []
        seg: list[tuple[int, int]] = []
        pairs: list[tuple[int, int]] = []
        masks: list[Tensor] = []
        owners: list[int] = []
        things: list[tuple[int, Tensor, str]] = []
        per_tile, mask_size = self.config.region_size**2, self.config.sam2.mask_size
        seen = pictures = 0  # visual tokens, and pictures of the vision model
        for b, item in enumerate(asked):
            single = item.sample.clip
            shown = [self.family.shown(frame, clip=single) for frame in item.frames]
            row = self._row(item, shown)
            rows.append(row)
            first, seen = seen, seen + sum(frame.tokens for frame in shown)
            visual.append(torch.arange(first, seen))
            visual += [seen - per_tile + c.nonzero()[:, 0] for c in self._repeated(item)]
            for key, frame in zip(item.keys, shown, strict=True):
                count = len(frame.pictures)
                pictures += count
                frames.append(frame)
                tile_keys += [f"{key}#{n}/{count}" if key else "" for n in range(count)]
            # As with regions, it is the last tile that shows the whole picture.
            things += [
                (pictures - 1, self._share(thing.mask), thing.name)
                for thing in (item.things if self.words else ())
            ]
            if not row.seg:
                continue
            start = len(pixels)
            needed = self._needed(item, row)
            for t in needed:
                pixels.append(images.sam_pixels(item.frames[t], self.config.sam2))
                pixel_keys.append(item.keys[t])
            for place, target, only in zip(row.seg, row.targets, row.frames, strict=True):
                seg.append((b, place))
                for f, t in enumerate(needed):
                    if only not in (None, t):
                        continue
                    if target >= 0 and item.sample.targets[target].masks[t] is None:
                        continue  # nobody annotated it
                    height, width = item.frames[t].shape[:2]
                    empty = np.zeros((height, width), bool)
                    truth = item.masks[target, t] if target >= 0 else empty
                    pairs.append((len(seg) - 1, start + f))
                    masks.append(self._cover(truth, mask_size))
                    owners.append(b)
        stacked = torch.stack(masks) if masks else torch.zeros(0, mask_size, mask_size)
        sam_side = self.config.sam2.image_size
        return Batch(
            **self._padded(rows),
            tiles=self.family.stacked(frames),
            tile_keys=tuple(tile_keys),
            visual=torch.cat(visual) if visual else torch.zeros(0, dtype=torch.long),
            pixels=torch.cat(pixels) if pixels else torch.zeros(0, 3, sam_side, sam_side),
            pixel_keys=tuple(pixel_keys),
            seg=torch.tensor(seg, dtype=torch.long).reshape(-1, 2),
            pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
            masks=stacked,
            seen=stacked.flatten(1).any(1),
            owners=torch.tensor(owners, dtype=torch.long),
            seeds=tuple(seeds),
            kept=torch.tensor(
                [rehearsed and not asked[b].collage for b, _ in seg], dtype=torch.bool
            ),
            things=named_things(things, self.words, per_tile),
        )

    def _needed(self, item: Asked, row: _Row) -> list[int]:
        """Frames on which at least one of the answered objects is annotated."""
        known: set[int] = set()
        for target in row.targets:
            known |= set(
                item.sample.targets[target].annotated if target >= 0 else range(len(item.frames))
            )
        return sorted(known)

    def _cells(self, item: Asked) -> list[Tensor]:
        """Which visual tokens of the last tile each region covers, flat; a very small one the token in its middle."""
        found = []
        for region in item.regions:
            cells = images.region_cells(region, self.config)
            if not cells.any():
                rows, columns = np.nonzero(region)
                if not len(rows):
                    raise InputError(
                        f"{item.sample.record}: a region is empty; expected pixels in it"
                    )
                y = int(rows.mean() * len(cells) / region.shape[0])
                cells[y, int(columns.mean() * len(cells) / region.shape[1])] = True
            found.append(cells.flatten())
        return found

    def _repeated(self, item: Asked) -> list[Tensor]:
        """The cells of the regions in the order in which a row repeats them."""
        if not len(item.regions):
            return []
        cells, own = self._cells(item), [e.region for e in item.exchanges if e.region is not None]
        return [cells[region] for region in own] if own else cells

    def _share(self, mask: np.ndarray) -> Tensor:
        """float32 [V], how much of each visual token's cell a mask covers."""
        given = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
        return F.interpolate(given, size=(self.config.region_size,) * 2, mode="area").flatten()

    def _cover(self, mask: np.ndarray, size: int) -> Tensor:
        """float32 [size, size]."""
        given = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
        if self.mask_target == "nearest":
            return F.interpolate(given, size=(size, size), mode="nearest")[0, 0]
        return F.interpolate(given, size=(size, size), mode="area")[0, 0]

    def _ids(self, text: str, *, start: bool = False) -> list[int]:
        """Token ids; with `start` what the tokenizer puts before a text is put there."""
        key = (text, start)
        if key not in self._known:
            if len(self._known) > 50_000:
                self._known.clear()
            ids = self.mllm.tokenizer.encode(text, add_special_tokens=start)
            self._known[key] = [int(i) for i in ids]
        return self._known[key]

    def _row(self, item: Asked, shown: Sequence[Shown]) -> _Row:
        if len(item.regions) and not self.family.regions:
            raise InputError(
                f"{item.sample.record}: asks about regions, which the model's family does not have; "
                "expected data without them"
            )
        block = self.family.block([frame.tokens for frame in shown])
        counts = [int(cells.sum()) for cells in self._repeated(item)]
        own = any(exchange.region is not None for exchange in item.exchanges)
        if counts and not own:
            block += prompts.region_text(counts)
        # Where a text may be cut without becoming other tokens: at special tokens, such as those of a picture.
        system = self._ids(self._system, start=True)
        whole = not block and bool(system)
        prefix = system if whole else self._ids(self._system + self._head + block, start=True)
        places = self.family.positions(prefix, shown)  # [A, L]
        following = int(places.max()) + 1
        row = _Row(
            list(prefix),
            [IGNORED] * len(prefix),
            [0] * len(prefix),
            [tuple(place) for place in places.T.tolist()],
            [False] * len(prefix),
            [],
            [],
            [],
        )
        lead = self.family.lead if block else self._head if whole else ""
        shift = following - len(prefix)
        for k, exchange in enumerate(item.exchanges):
            branch = k + 1 if item.independent else 0
            position = shift + (len(prefix) if item.independent else len(row.ids))
            opening = lead if k == 0 or item.independent else f"\n{self._head}"
            if exchange.region is not None:
                opening = prompts.region_text([counts.pop(0)]) + lead
            self._append(row, exchange, opening, branch, position, len(item.frames))
        if len(row.ids) > self.max_tokens:
            raise InputError(
                f"{item.sample.record}: {len(row.ids)} tokens; expected at most {self.max_tokens} (data.max_tokens)"
            )
        return row

    def _append(
        self,
        row: _Row,
        exchange: Exchange,
        opening: str,
        branch: int,
        position: int,
        frames: int,
    ) -> None:
        """One exchange at the end of a row; every token but the last predicts its successor."""
        mode = self.config.seg
        tokens = prompts.seg_tokens(mode, max(frames, 1))
        asked = self._ids(opening + exchange.question + self._tail)
        answer = self._ids(exchange.answer.replace(prompts.SEG, "".join(tokens)) + self._end)
        ids = [*asked, *answer]
        labels = [IGNORED] * (len(asked) - 1) + list(answer) + [IGNORED]
        if exchange.decision is not None:
            labels = [IGNORED] * len(ids)
            labels[len(asked) - 1] = self._ids(exchange.decision)[0]
        if branch:  # nothing follows: the end token is predicted and never read
            ids, labels = ids[:-1], labels[:-1]
        start = len(row.ids)
        row.ids += ids
        row.labels += labels
        row.owner += [branch] * len(ids)
        said = exchange.region is None  # the first word of a name decides nothing
        row.first += [said and n == len(asked) - 1 for n in range(len(ids))]
        axes = len(row.positions[0])
        row.positions += [(place,) * axes for place in range(position, position + len(ids))]
        marks = self.mllm.seg_ids
        places = [start + n for n, i in enumerate(ids) if i in marks and n >= len(asked)]
        if mode == "unique" and frames > len(marks):
            raise InputError(
                f"batches.frames: {frames} frames, and the model has {len(marks)} [SEG] of their own; expected as many"
            )
        if len(places) != len(exchange.targets) * len(tokens):
            raise InputError(
                f"answer {exchange.answer!r} has {len(places) // len(tokens)} {prompts.SEG} for "
                f"{len(exchange.targets)} masks"
            )
        row.seg += places
        row.targets += [target for target in exchange.targets for _ in tokens]
        row.frames += [
            None if mode == "single" else f for _ in exchange.targets for f in range(len(tokens))
        ]

    def _padded(self, rows: Sequence[_Row]) -> dict[str, Tensor]:
        length = max(len(row.ids) for row in rows)
        pad = self.mllm.tokenizer.pad_token_id or 0
        nowhere = (0,) * len(rows[0].positions[0])
        blanks = {
            "ids": pad,
            "labels": IGNORED,
            "owner": PADDING,
            "positions": nowhere,
            "first": False,
        }
        made = {
            name: torch.tensor(
                [getattr(row, name) + [blank] * (length - len(row.ids)) for row in rows]
            )
            for name, blank in blanks.items()
        }
        return made | {"positions": made["positions"].permute(2, 0, 1)}
