# SPDX-License-Identifier: Apache-2.0
"""Memory gating: which masks `OnlineTracker` takes and which frames it remembers, by evidence.

Each part can be switched off; what each is worth on the simulator's hard clips is in docs/benchmarks.md.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sa2va_model.checkpoints.calibration import Calibration, EvidenceWeights
from sa2va_model.segmentation.backends.base import Segmenter
from sa2va_model.segmentation.memory_policy import Admission, overlaps
from sa2va_model.segmentation.types import Decoded, ImageFeatures
from sa2va_model.tracking.config import GateConfig
from sa2va_model.tracking.judgement.distractors import DistractorRule
from sa2va_model.tracking.judgement.evidence import (
    EVIDENCE_LIMIT,
    Appearance,
    appearance,
    area_change,
    weigh,
)
from sa2va_model.tracking.judgement.motion import BoxFilter, box_overlaps, boxes

MOTION_SHARE = 0.15  # of a mask's score, as in SAMURAI
_LEARN = 0.1  # of a trusted frame in what the object looks like; `prompted` frames count more
_LEARN_PROMPTED = 0.5


class Measured(NamedTuple):
    """Of an object's masks on the last frame; NaN = there was none.

    Attributes:
        evidence: of the mask that was taken.
        agreement: IoU of memory's mask and that of the [SEG] embedding.
        memory, spoken: the evidence of each.
    """

    evidence: float
    agreement: float
    memory: float
    spoken: float


class EvidenceModel(Protocol):
    """Evidence of N masks, as `evidence.weigh`."""

    def __call__(
        self,
        weights: EvidenceWeights,
        decoded: Decoded,
        likeness: Tensor,
        change: Tensor,
        *,
        scored: bool,
    ) -> Tensor:
        """Return log-likelihood ratios, float32 [N]."""


class MemoryGate:
    """A `MemoryPolicy` that weighs evidence.

    Args:
        rows: objects at most.
        weigh: the evidence of masks; tests put in a known one.

    Attributes:
        evidence: float32 [rows], of the masks that were taken on the last frame; NaN = none.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        rows: int,
        calibration: Calibration,
        config: GateConfig,
        weigh: EvidenceModel = weigh,
    ) -> None:
        sam, device = segmenter.config, segmenter.device
        self._weigh = weigh
        self.calibration, self._config = calibration, config
        self._scored = sam.object_score_gate
        self._cells = sam.mask_size**2
        width = sam.hidden_dim + sam.hidden_dim // 4 + sam.hidden_dim // 8
        self._look = torch.zeros(rows, width, device=device)
        self._area = torch.zeros(rows, device=device)
        self._known = torch.zeros(rows, dtype=torch.bool, device=device)
        self.memory_evidence = torch.full((rows,), torch.nan, device=device)
        self.spoken_evidence = torch.full((rows,), torch.nan, device=device)
        self.evidence = torch.full((rows,), torch.nan, device=device)
        self._agreement = torch.full((rows,), torch.nan, device=device)
        self._filter = BoxFilter(rows, device)
        self._rule = DistractorRule(rows, device, calibration.admit + 1.0)
        self._features: ImageFeatures | None = None
        self._rivals: tuple[Tensor, Tensor] | None = None
        self._expected = torch.zeros(rows, 4, device=device)  # boxes on the image at hand
        self.camera_moves = False

    def frame(self, features: ImageFeatures) -> None:
        """Take the image that the next calls are about."""
        self._features, self._rivals = features, None

    def begin(self, row: int) -> None:
        """Give the row to a new object."""
        self._known[row] = False
        for table in (self.memory_evidence, self.spoken_evidence, self.evidence, self._agreement):
            table[row] = torch.nan
        self._filter.forget(row)
        self._rule.forget(row)

    def prompted(self, row: int, decoded: Decoded) -> None:
        """Learn from a prompt's mask what the object looks like."""
        rows = torch.tensor([row], device=self._area.device)
        seen = (decoded.logits > 0).flatten(1).any(1)
        assert self._features is not None, "frame() comes first"
        shown = appearance(self._features, decoded.logits)
        self._learn(rows, shown, seen, _LEARN_PROMPTED)
        self._filter.update(rows, boxes(decoded.logits), seen)
        self.evidence[row] = torch.where(seen[0], EVIDENCE_LIMIT, -EVIDENCE_LIMIT)

    def weigh(
        self,
        weights: EvidenceWeights,
        rows: Tensor,
        decoded: Decoded,
        seen: Appearance | None = None,
    ) -> Tensor:
        """Return the evidence for masks of the image at hand, [N]; `seen` is what they show, if known already."""
        assert self._features is not None, "frame() comes first"
        seen = seen or appearance(self._features, decoded.logits)
        likeness = (seen.look * self._look[rows]).sum(1)
        change = area_change(seen.area, self._area[rows], self._cells)
        return self._weigh(weights, decoded, likeness, change, scored=self._scored)

    def evidence_for(self, row: int, features: ImageFeatures, decoded: Decoded) -> float:
        """Return the evidence that an embedding's mask on some image is the object of that row."""
        self.frame(features)
        rows = torch.tensor([row], device=self._area.device)
        return float(self.weigh(self.calibration.spoken, rows, decoded))

    def choose(self, rows: Tensor, decoded: Decoded) -> Tensor | None:
        """Take SAM-2's choice, or with the motion prior the candidate that fits both."""
        if not self._use_motion():
            return None
        self._expected[rows] = self._filter.predict(rows)
        count = decoded.candidates.shape[1]
        own = boxes(decoded.candidates.flatten(0, 1)[:, None]).reshape(-1, count, 4)
        fits = box_overlaps(own, self._expected[rows][:, None])
        mixed = (1 - MOTION_SHARE) * decoded.ious + MOTION_SHARE * fits
        return torch.where(self._filter.ready(rows), mixed.argmax(1), decoded.best)

    def prefer(self, rows: Tensor, memory: Decoded, spoken: Decoded) -> Tensor:
        """Take the embedding's mask where it is better by predicted IoU, and the two are not far apart."""
        values = self.calibration
        self.memory_evidence[rows] = self.weigh(values.memory, rows, memory)
        self.spoken_evidence[rows] = self.weigh(values.spoken, rows, spoken)
        self._rivals = rows, torch.stack([memory.logits, spoken.logits], dim=1)[:, :, 0]
        gain = spoken.quality.float() - memory.quality.float()
        if self._use_motion():
            expected = self._expected[rows]
            fits = [box_overlaps(boxes(d.logits), expected) for d in (memory, spoken)]
            mixed = (1 - MOTION_SHARE) * gain + MOTION_SHARE * (fits[1] - fits[0])
            gain = torch.where(self._filter.ready(rows), mixed, gain)
        self._agreement[rows] = overlaps(memory, spoken)
        alike = self._agreement[rows] >= values.prefer_overlap
        nothing = ~(memory.logits > 0).flatten(1).any(1)
        seen = (spoken.logits > 0).flatten(1).any(1)
        return (gain > values.prefer_margin) & (alike | nothing) & seen

    def admit(self, rows: Tensor, decoded: Decoded) -> Admission:
        """Remember the frames whose masks have enough evidence."""
        assert self._features is not None, "frame() comes first"
        shown = appearance(self._features, decoded.logits)
        own = self.weigh(self.calibration.memory, rows, decoded, shown)
        evidence = own
        if self._rivals is not None:  # the embedding's masks are weighed by their own head
            said, pair = self._rivals
            taken = torch.zeros_like(self._known)
            same = (pair[:, 1] == decoded.logits[self._places(rows, said), 0]).flatten(1).all(1)
            taken[said] = same
            evidence = torch.where(taken[rows], self.spoken_evidence[rows], own)
        self.evidence[rows] = evidence
        trusted = evidence >= self.calibration.admit
        recent = trusted if self._config.gate else torch.isfinite(evidence)
        box = boxes(decoded.logits)
        if self._use_motion():
            off = box_overlaps(box, self._expected[rows]) <= 0
            recent = recent & ~(off & self._filter.ready(rows))
        distractor = None
        if self._config.distractors:
            rivals = self._alternatives(rows, decoded)
            distractor = self._rule(rows, decoded.logits, rivals, evidence, trusted)
        self._filter.update(rows, box, trusted)
        self._learn(rows, shown, trusted, _LEARN)
        self._rivals = None  # they belong to these rows alone
        return Admission(recent, distractor)

    def measured(self, rows: Tensor) -> Tensor:
        """Return the numbers of `Measured`, [N, 4]."""
        tables = (self.evidence, self._agreement, self.memory_evidence, self.spoken_evidence)
        return torch.stack([table[rows] for table in tables], 1)

    def _use_motion(self) -> bool:
        if self._config.motion and self.camera_moves:
            self._filter.forget_all()
        return self._config.motion and not self.camera_moves

    @staticmethod
    def _places(rows: Tensor, some: Tensor) -> Tensor:
        """Where each of `some` stands in `rows`."""
        return (rows[None] == some[:, None]).float().argmax(1)

    def _alternatives(self, rows: Tensor, decoded: Decoded) -> Tensor:
        """Masks that might have been taken, [N, A, H, W]."""
        found = decoded.candidates
        if self._rivals is not None:
            said, pair = self._rivals
            more = decoded.logits.expand(-1, 2, -1, -1).clone()
            more[self._places(rows, said)] = pair
            found = torch.cat([found, more], dim=1)
        return found

    def _learn(self, rows: Tensor, shown: Appearance, trusted: Tensor, share: float) -> None:
        """Move what the object looks like towards what it looks like now."""
        known = self._known[rows]
        share_now = torch.where(known, share, 1.0) * trusted
        mixed = torch.lerp(self._look[rows], shown.look, share_now[:, None])
        self._look[rows] = torch.nn.functional.normalize(mixed, dim=1)
        own = self._area[rows]
        self._area[rows] = torch.where(share_now > 0, torch.lerp(own, shown.area, share_now), own)
        self._known[rows] = known | trusted
