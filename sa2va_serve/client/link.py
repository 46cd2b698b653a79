# SPDX-License-Identifier: Apache-2.0
"""Link: whether the server can be asked, and when to look again. Pure logic: clock and network are the caller's."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sa2va_serve.client.config import RemoteConfig


@dataclass(frozen=True)
class LinkChange:
    """The link was lost, or it is back; `why` for people."""

    up: bool
    why: str


class Link:
    """Up or not.

    Attributes:
        up: the server answered, and it is the right one.
        why: it is not up; "" at first, while nobody knows.
        next_probe: when to look again.
        most_bytes: of a request, as the server says.
        plurals: the model was taught sentences that mean many.
    """

    def __init__(self, config: RemoteConfig, decoder: str, now: float) -> None:
        self._config, self._decoder = config, decoder
        self.up, self.why = False, ""
        self.next_probe, self._pause = now, config.shortest_pause
        self.most_bytes, self.plurals = 0, False
        self._told: bool | None = None
        self._changes: list[LinkChange] = []

    def changes(self) -> list[LinkChange]:
        """What changed since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def answered(
        self, decoders: dict[str, str], most_bytes: int, now: float, *, plurals: bool = False
    ) -> None:
        """The server said who it is."""
        adapter = self._config.adapter
        its = decoders.get(adapter)
        self.most_bytes, self.plurals = most_bytes, plurals and not adapter
        if its is None:
            self.lost(f"{self._config.address} has no adapter {adapter!r}", now)
        elif its != self._decoder:
            self.lost(
                f"{self._config.address} serves another model: its embeddings are for mask decoder {its}, "
                f"the one on board is {self._decoder}",
                now,
            )
        else:
            self.next_probe, self._pause = (
                now + self._config.probe_period,
                self._config.shortest_pause,
            )
            self._set(True, f"{self._config.address} answers")

    def doubted(self, now: float) -> None:
        """A question failed on its way: look at once."""
        self.next_probe = min(self.next_probe, now)

    def lost(self, why: str, now: float) -> None:
        """It cannot be used; look again after a pause that grows."""
        config = self._config
        self.next_probe = now + self._pause * random.uniform(
            0.8, 1.2
        )  # robots do not come all at once
        self._pause = min(self._pause * 2, config.longest_pause)
        self._set(False, why)

    def _set(self, up: bool, why: str) -> None:
        self.up, self.why = up, "" if up else why
        if up == self._told or (up and self._told is None):
            self._told = up
            return
        self._told = up
        self._changes.append(LinkChange(up, why))
