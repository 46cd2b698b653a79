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
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, robot: str, adapter: str) -> MllmSession:
        """The session of one robot."""
        key = (robot, adapter)
        if key not in self._sessions:
            self._sessions[key] = self._model.new_session()
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def trim(self) -> None:
        """Forget what is too much."""
        sizes = {key: held_bytes(session) for key, session in self._sessions.items()}
        self.bytes = sum(sizes.values())
        for key in list(sizes)[:-1]:
            if self.bytes <= self._most_bytes and len(self._sessions) <= self._most:
                return
            self.bytes -= sizes[key]
            del self._sessions[key]


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
