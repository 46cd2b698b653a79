# SPDX-License-Identifier: Apache-2.0
"""One stamp that lies changes nothing; a clock that was set is believed after a few images."""

from __future__ import annotations

import pytest

from sa2va_model.errors import InputError
from sa2va_model.io.stamp_order import StampOrder


def judged(*stamps: float) -> list[str]:
    """For each image: "" = used, "x" = not used, else why what came before is forgotten."""
    order, out = StampOrder(), []
    for stamp in stamps:
        try:
            out.append(order.check(stamp))
            order.accept(stamp)
        except InputError:
            out.append("x")
    return out


@pytest.mark.parametrize("wrong", [1e9, -1e9, 3600.0, 0.0, 0.93])
def test_one_wrong_stamp_is_one_image(wrong: float) -> None:
    assert judged(1.0, 1.1, 1.2, wrong, 1.3, 1.4) == ["", "", "", "x", "", ""]


def test_a_jump_is_believed_at_the_fifth_image() -> None:
    back = judged(100.0, 100.1, *(7.0 + n / 10 for n in range(7)))
    assert back[2:6] == ["x"] * 4
    assert back[6].startswith("time jumped back by 92.7")
    assert back[7:] == ["", ""]
    ahead = judged(100.0, 100.1, *(700.0 + n / 10 for n in range(7)))
    assert ahead == ["", "", "x", "x", "x", "x", "", "", ""]  # a long pause forgets nothing
    assert judged(100.0, 100.1, 50.0, 30.0, 50.1, 30.1, 50.2, 30.2, 50.3)[2:] == ["x"] * 7


def test_a_slow_camera_is_no_jump() -> None:
    assert judged(*(60.0 * n for n in range(8))) == [""] * 8


def test_what_is_not_used_counts_for_nothing() -> None:
    """The caller may refuse what was judged: it cannot be decoded, say."""
    order = StampOrder()
    order.accept(10.0)
    assert order.check(15.0) == ""
    with pytest.raises(InputError, match=r"0\.500 s before the last one"):
        order.check(9.5)
    assert order.check(10.1) == ""


def test_a_recording_that_is_played_fast_makes_long_steps() -> None:
    order = StampOrder()
    for stamp in (1.0, 1.1):
        order.check(stamp)
        order.accept(stamp)
    assert order.check(41.0, waited=2.0) == ""
    with pytest.raises(InputError, match="after the last one"):
        order.check(41.0, waited=0.1)
