# SPDX-License-Identifier: Apache-2.0
"""Whether a stream's time goes on, jumps, or one image lies: one rule for live cameras and recordings.

An image that is a little late is not used. One whose stamp is far from where the stream is may be a mistake of its
driver, or the clock was set, or a bag began anew: only several in a row that go on from each other decide that.
"""

from __future__ import annotations

from sa2va_model.errors import InputError

JUMP_BACK = 0.5  # seconds; less is an image that came late
JUMP_AHEAD = 10.0  # seconds, and as many steps of the stream; less is a pause
SLOWEST = 120.0  # seconds between the first two images, of which nothing is known yet
PATIENCE = 5  # images in a row before a jump is believed


class StampOrder:
    """The stamps of one stream, in seconds."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._step = 0.0
        self._odd: list[float] = []  # stamps of images in a row that do not go on from the last one

    def check(self, stamp: float) -> str:
        """Judge the next image: "" = time goes on; else why what came before must be forgotten.

        Raises:
            InputError: the image cannot be used; nothing has changed for the next one.
        """
        last = self._last
        if last is None:
            self._last = stamp
            return ""
        ahead = stamp - last
        if 0 < ahead <= (max(JUMP_AHEAD, 10 * self._step) if self._step else SLOWEST):
            self._last, self._step, self._odd = stamp, ahead, []
            return ""
        if -JUMP_BACK <= ahead <= 0:
            raise InputError(f"stamp is {-ahead:.3f} s before the last one; expected a newer one")
        if self._odd and not stamp > self._odd[-1]:
            self._odd = []
        self._odd.append(stamp)
        way = "back" if ahead < 0 else "ahead"
        if len(self._odd) < PATIENCE:
            raise InputError(
                f"stamp is {abs(ahead):.3f} s {way} of the last one; expected time to go on, "
                f"or {PATIENCE} such images in a row"
            )
        self._step = self._odd[-1] - self._odd[-2]
        self._last, self._odd = stamp, []
        return f"time jumped back by {-ahead:.3f} s" if ahead < 0 else ""
