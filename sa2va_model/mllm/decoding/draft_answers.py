# SPDX-License-Identifier: Apache-2.0
"""Which answers are worth checking ahead: all known ones at first, then those that this model really gives.

What is checked changes how many forwards an answer takes, never the answer. Every checked token costs a little, and a
model uses one or two of the sentences that it may have learnt, sometimes one of its own.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

Ids = tuple[int, ...]


class DraftAnswers:
    """The known answers of one model and how often it gave them.

    Args:
        known: token ids, each with its stop token.
        patience: so many questions are answered before answers that were not given are left out.
        retry: after so many answers in a row that were none of those checked, all are checked again.
        window: only the newest answers count.
        longest: tokens; a longer answer is not learnt.
    """

    def __init__(
        self,
        known: Sequence[Ids],
        *,
        patience: int = 4,
        retry: int = 16,
        window: int = 64,
        longest: int = 16,
    ) -> None:
        self._known = tuple(known)
        self._patience, self._retry, self._longest = patience, retry, longest
        self._given: deque[Ids] = deque(maxlen=window)
        self._missed = 0

    @property
    def known(self) -> tuple[Ids, ...]:
        """All answers that the model was trained with."""
        return self._known

    def candidates(self) -> tuple[Ids, ...]:
        """The answers to check with the next question, the most frequent first."""
        counts = Counter(self._given)
        learnt = [ids for ids, times in counts.most_common() if ids in self._known or times > 1]
        if len(self._given) < self._patience or self._missed >= self._retry:
            self._missed = 0
            learnt += [ids for ids in self._known if ids not in learnt]
        return tuple(learnt)

    def note(self, given: Sequence[Ids]) -> None:
        """Tells what the model answered."""
        for ids in given:
            familiar = ids in self._known or ids in self._given
            self._missed = 0 if familiar else self._missed + 1
            if len(ids) <= self._longest:
                self._given.append(ids)
