# SPDX-License-Identifier: Apache-2.0
"""Names for tracks, each given once.

`red_mug`, `red_mug_2`, `red_mug_3`: whoever keeps a name, a log or a robot's plan, never finds another object
behind it. A name is words and a number, and the numbers of the same words only grow, so the numbers last given are all
that has to be remembered, and only of the words that were used lately.
"""

from __future__ import annotations

import re
import threading

LONGEST = 40  # characters of the words in a name
REMEMBERED = 4096  # different words whose number is known
_NUMBERED = re.compile(r"(.+)_([2-9]|[1-9]\d+)")


class TrackNames:
    """Gives names out, from any thread; one of these lasts as long as its names must be unique."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[
            str, int
        ] = {}  # the number given last, by words; those used last at the end
        self._floor = 0  # no lower than the number of any words that are no longer remembered

    def give(self, words: str) -> str:
        """A name made of the words that was never given before, safe as a file name and as a topic's value."""
        stem, number = self._next(words)
        return stem if number == 1 else f"{stem}_{number}"

    def give_numbered(self, words: str) -> str:
        """As `give`, with a number also if it is the first: one of several."""
        stem, number = self._next(words)
        return f"{stem}_{number}"

    def _next(self, words: str) -> tuple[str, int]:
        plain = re.sub(r"^(the|a|an)\s+", "", words.lower())
        stem = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:LONGEST].strip("_") or "object"
        number = 1
        if found := _NUMBERED.fullmatch(stem):  # the words have a number of their own: "mug 2"
            stem, number = found[1], int(found[2])
        with self._lock:
            number = max(number, self._last.pop(stem, self._floor) + 1)
            self._last[stem] = number
            if len(self._last) > REMEMBERED:
                self._floor = max(self._floor, self._last.pop(next(iter(self._last))))
        return stem, number
