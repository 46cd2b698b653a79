# SPDX-License-Identifier: Apache-2.0
"""Keyframes that came lately, unpacked: a robot's next sentence brings the same files again."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np

from sa2va_serve.wire import codec


class PictureCache:
    """Unpacks files, each once; the pictures that were not used for longest go first. For any thread.

    Args:
        most_bytes: of pictures; 0 = none is kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self.bytes = most_bytes, 0
        self._pictures: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, data: bytes) -> np.ndarray | None:
        """The uint8 [H, W, 3] picture in a file that was unpacked lately; nobody may write to it."""
        name = _digest(data)
        with self._lock:
            if name in self._pictures:
                self._pictures.move_to_end(name)
            return self._pictures.get(name)

    def unpack(self, data: bytes, where: str) -> np.ndarray:
        """The same of any file.

        Raises:
            InputError: see `codec.decode_image`.
        """
        picture = codec.decode_image(data, where)
        with self._lock:
            self._keep(_digest(data), picture)
        return picture

    def _keep(self, name: bytes, picture: np.ndarray) -> None:
        if name in self._pictures or picture.nbytes > self._most_bytes:
            return
        self._pictures[name] = picture
        self.bytes += picture.nbytes
        while self.bytes > self._most_bytes:
            self.bytes -= self._pictures.popitem(last=False)[1].nbytes


def _digest(data: bytes) -> bytes:
    """No file can be made to have another's: robots share the cache."""
    return hashlib.blake2b(data, digest_size=16).digest()
