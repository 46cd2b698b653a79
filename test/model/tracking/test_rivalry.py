# SPDX-License-Identifier: Apache-2.0
"""Two of a kind cross: each keeps its own mask. Both memories claim all that looks alike, as those of twins do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sa2va_model.tracking.judgement.rivalry import NOTHING, Rivalry

SIDE, THING = 64, 10
ROWS = torch.tensor([0, 2])


def squares(k: int, up: int = 4, side: int = THING) -> tuple[Tensor, Tensor]:
    """What is seen of two squares on frame k, bool [S, S] each: the first passes in front of the other.

    Args:
        up: cells by which the one behind stands higher; `side`: its own.
    """
    front, behind = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    front[26 : 26 + THING, 4 + k : 4 + k + THING] = True
    low, left = 26 + THING - up, SIDE - 4 - THING - k
    behind[low - side : low, left : left + side] = True
    return front, behind & ~front


def started(*how: int, groups: tuple[int, int] = (1, 1)) -> Rivalry:
    """Both are shown once, alone."""
    rivalry = Rivalry(4, torch.device("cpu"))
    for row, group, mask in zip(ROWS.tolist(), groups, squares(0, *how), strict=True):
        rivalry.join(row, group)
        rivalry.update(torch.tensor([row]), mask[None, None] * 10.0 - 5.0, torch.tensor([True]))
    return rivalry


def claimed(k: int, *how: int) -> Tensor:
    """Logits [2, 1, S, S] of two memories that take both squares for their own; noise decides which more."""
    seen = torch.stack(squares(k, *how)).any(0)
    noise = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(k))
    return torch.where(seen, 4.0 + noise, -5.0)


@pytest.mark.parametrize("up", [1, 2, 4, 8])
def test_each_id_stays_on_its_thing_through_a_crossing(up: int) -> None:
    rivalry = started(up)
    for k in range(1, 47):
        masks = rivalry.part(ROWS, claimed(k, up))
        kept = (masks > 0)[:, 0]
        assert not (kept[0] & kept[1]).any(), "never on the same pixels"
        rivalry.update(ROWS, masks, kept.flatten(1).any(1))
        front, behind = squares(k, up)
        assert (kept[0] & front).sum() >= 0.7 * front.sum(), f"frame {k}"
    assert (kept[0] & front).sum() >= 0.9 * front.sum()
    assert (kept[1] & behind).sum() >= 0.9 * behind.sum()


def test_one_that_is_hidden_has_no_mask_until_it_is_seen_again() -> None:
    how = (2, 6)  # it stands behind, and is smaller
    rivalry = started(*how)
    empty = []
    for k in range(1, 47):
        masks = rivalry.part(ROWS, claimed(k, *how))
        kept = (masks > 0)[:, 0]
        rivalry.update(ROWS, masks, kept.flatten(1).any(1))
        front, behind = squares(k, *how)
        if not behind.any():
            empty.append(not kept[1].any())
            assert (kept[0] & front).sum() >= 0.9 * front.sum()
    assert len(empty) == 3
    assert all(empty)
    assert (kept[0] & front).sum() >= 0.9 * front.sum()
    assert (kept[1] & behind).sum() >= 0.9 * behind.sum()


def test_others_keep_what_they_claim() -> None:
    rivalry = started(groups=(1, 2))
    claims = claimed(5)
    assert torch.equal(rivalry.part(ROWS, claims), claims)
    assert rivalry.active
    for row in ROWS.tolist():
        rivalry.forget(row)
    assert not rivalry.active


def test_what_nobody_contests_is_left_as_it_is() -> None:
    rivalry = started()
    front, behind = squares(1)
    claims = torch.stack([front, behind])[:, None] * 10.0 - 5.0
    assert torch.equal(rivalry.part(ROWS, claims), claims)
    one = rivalry.part(ROWS, claims[:1].repeat(2, 1, 1, 1))
    assert torch.equal(one[0], claims[0])
    assert (one[1] <= 0).all()
    assert one.min() == NOTHING
