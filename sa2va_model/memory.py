# SPDX-License-Identifier: Apache-2.0
"""The bounded memory of one tracked object: fixed slots that are overwritten, nothing that grows.

As in SAM-2 (arXiv 2408.00714, section 4): spatial memories of conditioning frames and of the last few frames, and
object pointers of more of them. Older ones are never read, so they are not kept.

An object's time is counted in remembered frames: a frame whose mask was not trusted makes no memory older.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor

from sa2va_model.grounding import Grounder


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

    @property
    def shape_key(self) -> tuple[int, int]:
        """Objects with equal keys can be batched."""
        return (self.values.shape[0], self.pointer_tokens)


class ObjectMemory:
    """Conditioning, recent and pointer memory of one object.

    Args:
        grounder: whose weights and sizes are used.
        max_conditioning: conditioning frames kept; beyond it the oldest but the first is dropped.
        distractor_slots: distractor-resolving frames kept; beyond it the oldest is dropped.
    """

    def __init__(
        self, grounder: Grounder, max_conditioning: int, distractor_slots: int = 0
    ) -> None:
        config = grounder.config
        self._grounder = grounder
        self._recent = config.memory_frames - 1
        self._pointer_count = config.max_pointers - 1
        self._max_conditioning = max_conditioning
        device, cells = grounder.device, config.feature_size**2
        # SAM-2 keeps spatial memories in bfloat16 whatever the model's dtype is.
        self._spatial = torch.zeros(
            max_conditioning + self._recent + distractor_slots,
            cells,
            config.memory_dim,
            dtype=torch.bfloat16,
            device=device,
        )
        self._pointers = torch.zeros(
            max_conditioning + self._pointer_count,
            config.hidden_dim,
            dtype=grounder.dtype,
            device=device,
        )
        self._conditioning: list[tuple[int, int]] = []  # (slot, time), oldest first
        self._distractor_slots, self._distractors = distractor_slots, 0
        self._time = 0
        self._times = [-1] * self._pointer_count  # time of each recent pointer slot
        self._cells = grounder.memory_position(device).flatten(1).T  # [cells, memory_dim]

    @property
    def empty(self) -> bool:
        """Nothing was ever remembered."""
        return not self._conditioning

    @torch.inference_mode()
    def write(self, spatial: Tensor, pointer: Tensor, *, conditioning: bool) -> None:
        """Remembers one frame.

        Args:
            spatial: [memory_dim, h, w].
            pointer: [C].
            conditioning: the frame was prompted.
        """
        if conditioning:
            slot = self._conditioning_slot()
            self._conditioning.append((slot, self._time))
            spatial_slot = pointer_slot = slot
        else:
            spatial_slot = self._max_conditioning + self._time % self._recent
            pointer_slot = self._max_conditioning + self._time % self._pointer_count
        if not conditioning:
            self._times[self._time % self._pointer_count] = self._time
        self._spatial[spatial_slot] = spatial.flatten(1).T.to(torch.bfloat16)
        self._pointers[pointer_slot] = pointer
        self._time += 1

    @torch.inference_mode()
    def write_distractor(self, spatial: Tensor) -> None:
        """Remembers a frame on which a distractor was told apart; read without age, and without a pointer.

        Args:
            spatial: [memory_dim, h, w].
        """
        if self._distractor_slots:
            slot = self._distractors % self._distractor_slots
            base = self._max_conditioning + self._recent
            self._spatial[base + slot] = spatial.flatten(1).T.to(torch.bfloat16)
            self._distractors += 1

    def _conditioning_slot(self) -> int:
        """A free slot, or that of the oldest conditioning frame after the first."""
        used = {slot for slot, _ in self._conditioning}
        for slot in range(self._max_conditioning):
            if slot not in used:
                return slot
        return self._conditioning.pop(min(1, self._max_conditioning - 1))[0]

    def tokens(self) -> MemoryTokens:
        """Memory for the next frame, in SAM-2's order."""
        grounder, sam = self._grounder, self._grounder.sam2_model
        temporal = sam.maskmem_tpos_enc[:, 0, 0]  # [memory_frames, memory_dim]
        slots = [slot for slot, _ in self._conditioning]
        codes = [self._recent] * len(slots)
        for distance in range(self._recent, 0, -1):
            if self._is_recent(self._time - distance):
                slots.append(self._max_conditioning + (self._time - distance) % self._recent)
                codes.append(distance - 1)
        for slot in range(min(self._distractors, self._distractor_slots)):
            slots.append(self._max_conditioning + self._recent + slot)
            codes.append(self._recent)
        values = self._spatial[slots].to(grounder.dtype)  # [S, cells, memory_dim]
        positions = self._cells + temporal[codes][:, None]
        pointers, pointer_positions = self._pointer_tokens()
        return MemoryTokens(
            torch.cat([values.flatten(0, 1), pointers]),
            torch.cat([positions.flatten(0, 1), pointer_positions]),
            len(pointers),
        )

    def _is_recent(self, time: int) -> bool:
        return time >= 0 and self._times[time % self._pointer_count] == time

    def _pointer_tokens(self) -> tuple[Tensor, Tensor]:
        """Object pointers split into tokens of the memory's width, and their temporal codes."""
        config, sam = self._grounder.config, self._grounder.sam2_model
        slots = [slot for slot, _ in self._conditioning]
        distances = [self._time - time for _, time in self._conditioning]
        for distance in range(1, self._pointer_count + 1):
            time = self._time - distance
            if self._is_recent(time):
                slots.append(self._max_conditioning + time % self._pointer_count)
                distances.append(distance)
        parts = config.hidden_dim // config.memory_dim
        values = self._pointers[slots].reshape(-1, config.memory_dim)
        if not config.pointer_positions:
            return values, torch.zeros_like(values)
        steps = torch.tensor(distances, device=values.device) / self._pointer_count
        codes = sam.obj_ptr_tpos_proj(get_1d_sine_pe(steps, dim=config.hidden_dim).to(values.dtype))
        return values, codes.repeat_interleave(parts, dim=0)
