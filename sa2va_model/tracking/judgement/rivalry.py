# SPDX-License-Identifier: Apache-2.0
"""Rivalry: no two of a kind keep the same pixels; each is followed by where it was going.

Memory knows an object by its look, and two of a kind look alike: where they cross, both memories claim the one in
front, or parts of it, and either may leave with the wrong one. So what members of a group claim is pooled, and each
pixel of it goes to one of them, as in SAM 2's non-overlapping masks. What decides is the decoder's logit, the object's
outline, moved on as it moved so far, and who stands lower in the image: on a table that one is nearer and hides the
other. One that keeps next to nothing is hidden, and its outline moves on until something is claimed there that is
nobody else's. What shows a part does not enter memory.

All on the device, without reading back. Letters: N objects, h and w of the decoder's masks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EXPECTED = 6.0  # half the logits that the expected outline is worth
NEARER = 60.0  # logits for standing lower by the height of the image
ORDER = 6.0  # at most
HIDDEN = 0.7  # weight of the outline of one that had no mask on the last frame
LIMIT = 4.0  # of the decoder's logits
SOFT = 5  # cells over which an outline fades
KEPT = 0.25  # of an outline, below which a contested mask is given up
NOTHING = -10.0  # logit of a pixel that a rival has, as in SAM 2
TOUCHED = 0.1  # of a claimed mask, that rivals may take without a doubt about the rest
NEAR = 0.02  # of a faded outline, from which on something lies on it
WHOLE = 0.85  # of the outline's area, from which on a contested mask shows all of its object
SHRUNK = 0.95  # of the outline's area, below which a rival beside it may hide the rest
PART = 0.3  # weight of the place of a part, times how much of the object it is
FOLLOW, TURN = 0.7, 0.2  # gains of the place and the speed
SLOWING = 0.995  # of the speed, per frame that does not show it whole


class Rivalry:
    """The rule for a fixed number of rows.

    Attributes:
        active: some rows belong to a group; otherwise nothing has to be called.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._groups = [0] * rows
        self._group = torch.zeros(rows, dtype=torch.long, device=device)
        self._place = torch.zeros(
            rows, 2, device=device
        )  # x, y of the middle, fractions of the image
        self._speed = torch.zeros(rows, 2, device=device)  # per frame
        self._known = torch.zeros(rows, dtype=torch.bool, device=device)
        self._shown = torch.zeros(rows, dtype=torch.bool, device=device)  # on the last frame
        self._contested = torch.zeros(rows, dtype=torch.bool, device=device)  # on the frame at hand
        self._partial = torch.zeros(rows, dtype=torch.bool, device=device)
        self._met = torch.zeros(rows, dtype=torch.bool, device=device)
        self._outlines: Tensor | None = None  # float32 [rows, h, w], with its middle at `_home`
        self._home = torch.zeros(rows, 2, device=device)
        self.active = False

    def join(self, row: int, group: int) -> None:
        """The row competes with those of the same group; 0 = with none."""
        self._groups[row] = group
        self._group[row] = group
        self.active = any(self._groups)

    def forget(self, row: int) -> None:
        """The row belongs to another object."""
        if self._groups[row]:
            self.join(row, 0)
        for table in (self._known, self._shown, self._contested, self._partial, self._met):
            table[row] = False
        self._speed[row] = 0.0

    def part(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Leave each pixel that some of a group claim to one of them, whether it claims it or not.

        Args:
            rows: int64 [N]; logits: [N, 1, h, w], what each claims.

        Returns:
            The same with NOTHING where a rival has it, and with a rival's logits where it has what that one claims.
        """
        claim, values = logits[:, 0] > 0, logits[:, 0].float()
        expected = self._expected(rows, claim)
        sure = torch.where(self._shown[rows], 1.0, HIDDEN)[:, None, None]
        strength = LIMIT * (values / LIMIT).tanh() + 2 * EXPECTED * expected * sure
        low = _bottoms(expected)
        nearer = (NEARER * (low[None] - low[:, None])).clamp(-ORDER, ORDER)[..., None, None]
        behind = torch.where(nearer > 0, expected[:, None], expected[None])
        rivals = self._rivals(rows)[..., None, None]
        fight = (strength[None] + nearer * behind).where(rivals, -torch.inf)  # [N, N, h, w]
        wins = strength >= fight.amax(1)
        highest = values[None].where(rivals, -torch.inf).amax(1)
        lost, won = claim & ~wins, ~claim & wins & (highest > 0)
        kept = (claim & wins) | won
        left = kept.sum((1, 2)) / self._areas(rows, claim).clamp(min=1)
        changed = (lost | won).sum((1, 2))
        few = (changed > 0) & (left < KEPT)
        self._contested[rows] = changed > TOUCHED * claim.sum((1, 2))
        self._partial[rows] = (changed > 0) & (left < WHOLE)
        around = F.max_pool2d(expected[:, None], SOFT, 1, SOFT // 2)[:, 0]
        met = (torch.minimum(around[:, None], around[None]) > NEAR).flatten(2).any(2)
        self._met[rows] = (met & rivals[..., 0, 0]).any(1)
        parted = torch.where(won, highest.to(logits.dtype), logits[:, 0])
        return torch.where(lost | (kept & few[:, None, None]), NOTHING, parted)[:, None]

    def partial(self, rows: Tensor) -> Tensor:
        """Which masks of the frame at hand show a part of their object, as a rival hides the rest: bool [N]."""
        return self._partial[rows]

    def update(self, rows: Tensor, logits: Tensor, trusted: Tensor) -> None:
        """Learn where the objects are and how they move.

        Args:
            logits: [N, 1, h, w], the masks that were taken; trusted: bool [N], those that count.
        """
        masks, known = logits[:, 0] > 0, self._known[rows]
        alone = ~(known & self._contested[rows])
        # Of a contested mask what lies elsewhere is a rival's, as likely as not.
        own = masks & (alone[:, None, None] | (self._expected(rows, masks) > NEAR))
        shown, seen = trusted & own.flatten(1).any(1), _middles(own)
        share = own.sum((1, 2)) / self._areas(rows, masks).clamp(min=1)
        # Beside a rival that may hide the rest the middle of what is seen is not the middle of the object.
        part = known & (self._partial[rows] | (self._met[rows] & (share < SHRUNK)))
        gain = torch.where(part, PART * share.clamp(max=1.0), 1.0)
        place = self._place[rows] + self._speed[rows]
        off = torch.where(known[:, None], seen - place, 0.0) * gain[:, None]
        taught, drawn = shown[:, None], (shown & alone & ~part)[:, None]
        moved = torch.where(known[:, None], place + FOLLOW * off, seen)
        speed = self._speed[rows]
        self._speed[rows] = torch.where(
            taught & ~part[:, None], speed + TURN * off, SLOWING * speed
        )
        self._place[rows] = torch.where(taught, moved, place)
        if self._outlines is None or self._outlines.shape[1:] != masks.shape[1:]:
            self._outlines = torch.zeros(len(self._known), *masks.shape[1:], device=masks.device)
        before = self._outlines[rows]
        self._outlines[rows] = torch.where(drawn[..., None], own.float(), before)
        self._home[rows] = torch.where(drawn, seen, self._home[rows])
        self._known[rows], self._shown[rows] = known | shown, shown

    def _rivals(self, rows: Tensor) -> Tensor:
        """Which of the rows compete, bool [N, N]."""
        group = self._group[rows]
        alike = (group[:, None] == group[None]) & (group > 0)[:, None]
        return alike & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)

    def _areas(self, rows: Tensor, masks: Tensor) -> Tensor:
        """Cells of the outlines, float32 [N]."""
        if self._outlines is None or self._outlines.shape[1:] != masks.shape[1:]:
            return masks.new_zeros(len(masks)).float()
        return self._outlines[rows].sum((1, 2))

    def _expected(self, rows: Tensor, masks: Tensor) -> Tensor:
        """The outlines where they should be on the next frame, faded, float32 [N, h, w]; 0 where nothing is known."""
        if self._outlines is None or self._outlines.shape[1:] != masks.shape[1:]:
            return torch.zeros(masks.shape, device=masks.device)
        outlines = self._outlines[rows]
        ways = torch.eye(2, 3, device=outlines.device).repeat(len(outlines), 1, 1)
        shift = self._place[rows] + self._speed[rows] - self._home[rows]
        ways[:, :, 2] = -2 * shift  # grid_sample's coordinates are 2 wide
        grid = F.affine_grid(ways, [len(outlines), 1, *outlines.shape[1:]], align_corners=False)
        moved = F.grid_sample(outlines[:, None], grid, align_corners=False)
        faded = (moved + F.avg_pool2d(moved, SOFT, 1, SOFT // 2, count_include_pad=False)) / 2
        return faded[:, 0].where(self._known[rows][:, None, None], 0.0)


def _bottoms(expected: Tensor) -> Tensor:
    """Lowest rows of outlines [N, h, w], fractions of the height, [N]; the middle where nothing is known."""
    height = expected.shape[1]
    rows = (expected > 0.5).any(2) * (torch.arange(height, device=expected.device) + 1.0)
    low = rows.amax(1) / height
    return low.where(low > 0, 0.5)


def _middles(masks: Tensor) -> Tensor:
    """Middles of masks, bool [N, h, w]: x, y in fractions of the image, float32 [N, 2]."""
    count, (height, width) = masks.sum((1, 2)).clamp(min=1), masks.shape[1:]
    across = (torch.arange(width, device=masks.device) + 0.5) / width
    down = (torch.arange(height, device=masks.device) + 0.5) / height
    x, y = (masks.sum(1) * across).sum(1) / count, (masks.sum(2) * down).sum(1) / count
    return torch.stack([x, y], 1)
