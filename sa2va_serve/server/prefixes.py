# SPDX-License-Identifier: Apache-2.0
"""What was read of each robot's last frames, so that its next sentence about them costs one small forward."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from sa2va_model.mllm.session import MllmSession
from sa2va_model.sa2va import Sa2VA


class PrefixCache:
    """One session of the language model for each robot and adapter; those not used for longest go first.

    Args:
        most_bytes: of visual tokens, keys and values in all; the newest session is kept in any case.
        most: sessions.
    """

    def __init__(self, model: Sa2VA, most_bytes: int, most: int = 256) -> None:
        self._model, self._most_bytes, self._most = model, most_bytes, most
        self._sessions: OrderedDict[tuple[str, str], MllmSession] = OrderedDict()
        self._sizes: dict[tuple[str, str], int] = {}
        self._used: set[tuple[str, str]] = (
            set()
        )  # since the last `trim`; the others are as they were
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, robot: str, adapter: str) -> MllmSession:
        """The session of one robot."""
        key = (robot, adapter)
        if key not in self._sessions:
            self._sessions[key] = self._model.new_session()
        self._sessions.move_to_end(key)
        self._used.add(key)
        return self._sessions[key]

    def read(self, robot: str, adapter: str) -> tuple[object, ...]:
        """Fingerprints of the frames that the robot's next sentence costs no reading of."""
        session = self._sessions.get((robot, adapter))
        return () if session is None else session.read

    def trim(self) -> None:
        """Forget what is too much; costs the same however many robots there are."""
        for key in self._used:
            size = held_bytes(self._sessions[key])
            self.bytes += size - self._sizes.get(key, 0)
            self._sizes[key] = size
        self._used.clear()
        while len(self._sessions) > 1 and (
            self.bytes > self._most_bytes or len(self._sessions) > self._most
        ):
            key, _ = self._sessions.popitem(last=False)
            self.bytes -= self._sizes.pop(key)


def held_bytes(session: MllmSession) -> int:
    """What a session keeps on the device."""
    seen = session.seen
    if seen is None:
        return 0
    tensors: list[Tensor] = [seen.visual.tokens, *seen.visual.deep]
    if seen.prefix is not None:
        tensors.append(seen.prefix.states)
        for layer in seen.prefix.cache.layers:
            tensors += [t for t in (layer.keys, layer.values) if t is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
