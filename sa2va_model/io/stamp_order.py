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
FASTEST = 30.0  # seconds of stamps in a second of waiting: a recording that is played fast
PATIENCE = 5  # images in a row before a jump is believed


class StampOrder:
    """The stamps of one stream, in seconds."""

    def __init__(self) -> None:
        self._last: float | None = None  # stamp of the latest image that was used
        self._step = 0.0  # to it from the one before; 0 = not known
        self._odd: float | None = None  # stamp of the latest image in a row that does not go on
        self._odd_step = 0.0
        self._odds = 0

    def check(self, stamp: float, waited: float = 0.0) -> str:
        """Judge the next image: "" = time goes on; else why what came before must be forgotten.

        Whoever uses the image says so with `accept`; until then it counts for nothing.

        Args:
            waited: seconds since the image before came, for a live stream.

        Raises:
            InputError: the image cannot be used.
        """
        if self._last is None:
            return ""
        ahead = stamp - self._last
        if -JUMP_BACK <= ahead <= max(self._pause, FASTEST * waited):
            if ahead <= 0:
                raise InputError(
                    f"stamp is {-ahead:.3f} s before the last one; expected a newer one"
                )
            self._odd, self._odds = None, 0
            return ""
        self._count(stamp)
        if self._odds < PATIENCE:
            where = f"{abs(ahead):.3f} s {'before' if ahead < 0 else 'after'} the last one"
            raise InputError(
                f"stamp is {where}; expected one that follows it, or {PATIENCE} such images in a row"
            )
        return f"time jumped back by {-ahead:.3f} s" if ahead < 0 else ""

    def accept(self, stamp: float) -> None:
        """Go on from an image that is used."""
        if self._last is not None:
            self._step = self._odd_step if self._odds else stamp - self._last
        self._last, self._odd, self._odds = stamp, None, 0

    @property
    def _pause(self) -> float:
        """The longest step ahead that is no jump."""
        return max(JUMP_AHEAD, 10 * self._step) if self._step else SLOWEST

    def _count(self, stamp: float) -> None:
        """One more that does not go on; in a row are only those that go on from each other."""
        step = 0.0 if self._odd is None else stamp - self._odd
        self._odds = self._odds + 1 if 0 < step <= self._pause else 1
        self._odd, self._odd_step = stamp, step
