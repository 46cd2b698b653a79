# SPDX-License-Identifier: Apache-2.0
"""The bounded memory of all tracked objects: tables of fixed size that are overwritten, nothing that grows.

As in SAM-2 (arXiv 2408.00714, section 4): spatial memories of conditioning frames and of the last few frames, and
object pointers of more of them. Beside them slots for distractor-resolving frames (DAM4SAM, arXiv 2411.17576).
Older ones are never read, so they are not kept. Every object has a row; a slot that is written again is
not moved: only its time changes, and temporal codes are looked up by age. Attention does not mind the order of what
it reads.

An object's time is counted in remembered frames: a frame whose mask was not trusted makes no memory older.

Where only some conditioning frames are attended as such (SAM 3: the four nearest), the others stay in their slots and
are read as recent frames, for as long as those are read.

Letters: R rows; S spatial slots: recent, then conditioning, then distractor; P pointer slots: recent, then
conditioning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor

if TYPE_CHECKING:
    from sa2va_model.segmentation.sam2 import Sam2

EMPTY = -(1 << 40)
"""The time of a slot that holds nothing."""


@dataclass(frozen=True)
class MemoryTokens:
    """What memory attention reads for one object.

    Attributes:
        values, positions: [L, memory_dim]; spatial memories first, object pointers last.
        pointer_tokens: how many of the L rows are pointers.
    """

    values: Tensor
    positions: Tensor
    pointer_tokens: int


@dataclass(frozen=True)
class BankView:
    """Memories of N objects slot by slot, used spatial slots before others.

    Attributes:
        spatial: [N, M, cells, memory_dim], as it is stored.
        code: int64 [N, M], which of the temporal codes each slot has; `used`: bool [N, M].
        pointers: [N, P, C]; `age`: int64 [N, P], frames, 0 where it is not used; `pointer_used`: bool [N, P].
    """

    spatial: Tensor
    code: Tensor
    used: Tensor
    pointers: Tensor
    age: Tensor
    pointer_used: Tensor


@dataclass(frozen=True)
class PaddedTokens:
    """What memory attention reads for N objects of any age.

    Attributes:
        values, positions: [N, L, memory_dim]; object pointers first, then spatial memories, used ones before others.
        lengths: int32 [N]; no row from there on is used.
        bias: float32 [N, pointer_tokens], 0 where a pointer is used and -inf where it is not.
        pointer_tokens: how many of the L rows are pointers.
    """

    values: Tensor
    positions: Tensor
    lengths: Tensor
    bias: Tensor
    pointer_tokens: int


class MemoryBank:
    """Conditioning, recent, distractor-resolving and pointer memory of up to `rows` objects.

    Args:
        segmenter: whose weights and sizes are used.
        rows: objects at once. One more row is kept: what fills a batch up to its bucket reads and writes that.
        max_conditioning: conditioning frames of an object; beyond it the oldest but the first is overwritten.
        distractor_slots: distractor-resolving frames of an object; beyond it the oldest is overwritten.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self, segmenter: Sam2, rows: int, max_conditioning: int, distractor_slots: int = 0
    ) -> None:
        config, device = segmenter.config, segmenter.device
        self._segmenter, self._config = segmenter, config
        self.recent = config.memory_frames - 1
        self.max_conditioning, self.distractor_slots = max_conditioning, distractor_slots
        self.recent_pointers = config.max_pointers - 1
        self._attended = config.attended_prompts or max_conditioning
        slots = self.recent + max_conditioning + distractor_slots
        pointers = self.recent_pointers + max_conditioning
        shape = (rows + 1, slots, config.memory_cells, config.memory_dim)
        # SAM-2 keeps spatial memories in bfloat16 whatever the model's dtype is.
        self._spatial = torch.zeros(shape, dtype=torch.bfloat16, device=device)
        self._pointers = torch.zeros(
            rows + 1, pointers, config.hidden_dim, dtype=segmenter.dtype, device=device
        )
        self._spatial_time = torch.full((rows + 1, slots), EMPTY, device=device)
        self._pointer_time = torch.full((rows + 1, pointers), EMPTY, device=device)
        self._now = torch.zeros(rows + 1, dtype=torch.long, device=device)
        self._distractors = torch.zeros(rows + 1, dtype=torch.long, device=device)
        self._span = torch.full((), float(self.recent_pointers), device=device)
        self._prompted: list[list[int]] = [[] for _ in range(rows + 1)]  # slots, oldest first
        self.spare_row = rows
        self._spatial_time[rows, self.recent] = 0  # a batch's filling must have something to read
        cells = segmenter.memory_position(device).float()  # [cells, memory_dim]
        temporal = segmenter.sam2_model.maskmem_tpos_enc.detach()[:, 0, 0].float()
        self._positions = cells + temporal[:, None]  # [memory_frames, cells, memory_dim]

    def empty(self, row: int) -> bool:
        """Nothing was ever remembered of this row's object."""
        return not self._prompted[row]

    @torch.inference_mode()
    def belongs_to_clip(self, length: int | None) -> None:
        """Says how many frames there will be; None = a stream of unknown length. See `clip_codes`.

        Codes of pointers are divided by it where it is below `max_pointers`; the table stays where it is.
        """
        most = self.recent_pointers
        known = length is not None and self._config.clip_codes
        self._span.fill_(max(1, min(length - 1, most)) if known and length else most)

    def conditioning(self, row: int) -> int:
        """How many conditioning frames are kept."""
        return len(self._prompted[row])

    @torch.inference_mode()
    def reset(self) -> None:
        """Forgets all objects; tables stay where they are, so that graphs that were captured with them stay good."""
        for slots in self._prompted:
            slots.clear()
        for table in (self._spatial, self._pointers, self._now, self._distractors):
            table.zero_()  # what was no number would stay none, even where nothing is read
        self._spatial_time.fill_(EMPTY)
        self._pointer_time.fill_(EMPTY)
        self.belongs_to_clip(None)
        self._spatial_time[self.spare_row, self.recent] = (
            0  # a batch's filling must have something to read
        )

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """Forgets the row's object."""
        self._prompted[row].clear()
        self._spatial_time[row] = EMPTY
        self._pointer_time[row] = EMPTY
        self._now[row] = 0
        self._distractors[row] = 0

    @torch.inference_mode()
    def prompt(self, row: int, spatial: Tensor, pointer: Tensor) -> None:
        """Remembers a prompted frame of one object.

        Args:
            spatial: [cells, memory_dim]; `pointer`: [C].
        """
        slot = self._conditioning_slot(row)
        self._prompted[row].append(slot)
        now = self._now[row].clone()
        self._spatial[row, self.recent + slot] = spatial.to(torch.bfloat16)
        self._pointers[row, self.recent_pointers + slot] = pointer.to(self._pointers.dtype)
        self._spatial_time[row, self.recent + slot] = now
        self._pointer_time[row, self.recent_pointers + slot] = now
        self._now[row] += 1

    def _conditioning_slot(self, row: int) -> int:
        """A free slot, or that of the oldest conditioning frame; after the first, where all are attended."""
        used = self._prompted[row]
        for slot in range(self.max_conditioning):
            if slot not in used:
                return slot
        return used.pop(0 if self._config.attended_prompts else min(1, self.max_conditioning - 1))

    @torch.inference_mode()
    def write(
        self,
        rows: Tensor,
        spatial: Tensor,
        pointers: Tensor,
        recent: Tensor,
        distractor: Tensor | None = None,
    ) -> None:
        """Remembers a tracked frame of N objects. Nothing is read back from the device.

        Args:
            rows: int64 [N].
            spatial: [N, cells, memory_dim]; `pointers`: [N, C].
            recent: bool [N]; where false nothing is written and nothing grows older.
            distractor: bool [N]; where true the frame also enters a distractor-resolving slot.
        """
        spatial, now = spatial.to(torch.bfloat16), self._now[rows]
        slot = now % self.recent
        _put(self._spatial, rows, slot, spatial, recent)
        _put(self._spatial_time, rows, slot, now, recent)
        place = now % self.recent_pointers
        _put(self._pointers, rows, place, pointers.to(self._pointers.dtype), recent)
        _put(self._pointer_time, rows, place, now, recent)
        if distractor is not None and self.distractor_slots:
            count = self._distractors[rows]
            slot = self.recent + self.max_conditioning + count % self.distractor_slots
            _put(self._spatial, rows, slot, spatial, distractor)
            _put(self._spatial_time, rows, slot, now, distractor)
            self._distractors[rows] = count + distractor.long()
        self._now[rows] = now + recent.long()

    # Reading.

    def tokens(self, row: int) -> MemoryTokens:
        """One object's memory without unused slots, in SAM-2's order: conditioning, recent (oldest first), distractors.

        Reads the tables back from the device: for CPUs and comparisons.
        """
        now = int(self._now[row])
        used = self._prompted[row]
        first, rest = used[-self._attended :], used[: -self._attended]
        slots = [self.recent + slot for slot in first]
        codes = [self.recent] * len(slots)
        ages = [now - time for time in self._spatial_time[row].tolist()]
        passing = [*range(self.recent), *(self.recent + slot for slot in rest)]
        recent = sorted((s for s in passing if ages[s] <= self.recent), key=lambda s: -ages[s])
        slots += recent
        codes += [ages[slot] - 1 for slot in recent]
        special = [
            s for s in range(self.recent + self.max_conditioning, len(ages)) if ages[s] <= now
        ]
        slots += special
        codes += [self.recent] * len(special)
        pointer_ages = [now - time for time in self._pointer_time[row].tolist()]
        passing = [*range(self.recent_pointers), *(self.recent_pointers + slot for slot in rest)]
        places = [self.recent_pointers + slot for slot in first] + sorted(
            (p for p in passing if pointer_ages[p] <= self.recent_pointers),
            key=lambda p: pointer_ages[p],
        )
        pointers = self._pointers[row, places].reshape(-1, self._config.memory_dim)
        age = torch.tensor([pointer_ages[p] for p in places], device=pointers.device)
        values = self._spatial[row, slots].to(pointers.dtype).flatten(0, 1)
        positions = self._positions[codes].flatten(0, 1)
        return MemoryTokens(
            torch.cat([values, pointers]),
            torch.cat([positions, self._pointer_codes(age).reshape(pointers.shape)]).to(
                values.dtype
            ),
            len(pointers),
        )

    def padded(self, rows: Tensor, conditioning: int) -> PaddedTokens:
        """N objects' memories in one shape, whatever their ages. Nothing is read back from the device.

        Args:
            rows: int64 [N].
            conditioning: conditioning slots to read; at least what any of the objects uses.
        """
        config, count = self._config, len(rows)
        view = self.view(rows, conditioning)
        values, cells = view.spatial, view.spatial.shape[2]
        positions, pointers = self._positions[view.code], view.pointers
        codes, dtype = self._pointer_codes(view.age), pointers.dtype
        parts = config.hidden_dim // config.memory_dim
        read = view.pointer_used.repeat_interleave(parts, 1)
        bias = torch.zeros(read.shape, device=rows.device).masked_fill_(~read, -torch.inf)
        return PaddedTokens(
            torch.cat(
                [pointers.view(count, -1, config.memory_dim), values.flatten(1, 2).to(dtype)], 1
            ),
            torch.cat([codes.flatten(1, 2), positions.flatten(1, 2).to(dtype)], 1),
            (read.shape[1] + view.used.sum(1) * cells).int(),
            bias,
            read.shape[1],
        )

    def view(self, rows: Tensor, conditioning: int, *, trimmed: bool = False) -> BankView:
        """N objects' memories in one shape, whatever their ages.

        Args:
            rows: int64 [N].
            conditioning: conditioning slots to read; at least what any of the objects uses.
            trimmed: leave out slots that none of the objects uses, which is read back from the device.
        """
        first = self.recent + conditioning
        slots = torch.arange(self._spatial.shape[1], device=rows.device)
        slots = torch.cat([slots[:first], slots[self.recent + self.max_conditioning :]])
        now = self._now[rows, None]
        age = now - self._spatial_time[rows][:, slots]
        fresh = (slots < self.recent).expand(age.shape).clone()
        fresh[:, self.recent : first] = self._passed(age[:, self.recent : first])
        used = torch.where(fresh, age <= self.recent, age <= now)
        order = used.long().argsort(dim=1, descending=True, stable=True)
        if trimmed:
            order = order[:, : int(used.sum(1).max())]
        slots, used, age = slots[order], used.gather(1, order), age.gather(1, order)
        fresh = fresh.gather(1, order)
        code = torch.where(fresh, (age - 1).clamp(0, self.recent - 1), self.recent)
        places = self.recent_pointers + conditioning
        pointer_age = now - self._pointer_time[rows, :places]
        recent = torch.cat(
            [
                torch.ones_like(pointer_age[:, : self.recent_pointers], dtype=torch.bool),
                self._passed(pointer_age[:, self.recent_pointers :]),
            ],
            1,
        )
        pointer_used = torch.where(recent, pointer_age <= self.recent_pointers, pointer_age <= now)
        return BankView(
            self._spatial[rows[:, None], slots],
            code,
            used,
            self._pointers[rows, :places],
            torch.where(pointer_used, pointer_age, 0),
            pointer_used,
        )

    def _passed(self, age: Tensor) -> Tensor:
        """Which conditioning frames are no longer attended as such, for so many are newer.

        Args:
            age: int64 [N, conditioning]; what is empty is older than anything.

        Returns:
            bool [N, conditioning].
        """
        newer = (age[:, None, :] < age[:, :, None]).sum(2)
        return newer >= self._attended

    def _pointer_codes(self, age: Tensor) -> Tensor:
        """Temporal codes of object pointers, equal for all parts of one.

        Args:
            age: int64 [...], frames.

        Returns:
            [..., C / memory_dim, memory_dim].
        """
        config, sam = self._config, self._segmenter.sam2_model
        shape = (*age.shape, config.hidden_dim // config.memory_dim, config.memory_dim)
        if not config.pointer_positions:
            return torch.zeros(shape, device=age.device, dtype=self._pointers.dtype)
        steps = age.flatten() / self._span
        sine = get_1d_sine_pe(steps, dim=config.hidden_dim).to(sam.obj_ptr_tpos_proj.weight.dtype)
        codes = sam.obj_ptr_tpos_proj(sine).to(self._pointers.dtype)
        return codes.view(*age.shape, 1, config.memory_dim).expand(shape)


def _put(table: Tensor, rows: Tensor, slots: Tensor, values: Tensor, where: Tensor) -> None:
    """table[rows, slots] = values where `where`; what is not meant is written back unchanged."""
    old = table[rows, slots]
    where = where.view(-1, *[1] * (old.ndim - 1))
    table[rows, slots] = torch.where(where, values, old)
