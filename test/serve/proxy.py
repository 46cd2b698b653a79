"""A link that can be cut, delayed or lossy, between a robot and a server."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time


class Proxy:
    """Forwards TCP to a port of this machine.

    Attributes:
        cut: nothing gets through, and nobody is told (a robot out of reach).
        delay: seconds by which every piece comes later; `loss`: share of the pieces that TCP must send again, which
            come half a second later.
    """

    def __init__(self, target: int) -> None:
        self.target, self.cut, self.delay, self.loss = target, False, 0.0, 0.0
        self._random = random.Random(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(near)
            if self.cut:
                continue  # as a packet that gets lost: no answer
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self._sockets.append(far)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                time.sleep(self.delay + (0.5 if self._random.random() < self.loss else 0.0))
                while self.cut:
                    time.sleep(0.01)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def break_connections(self) -> None:
        """As when a cable is pulled and put back: what was open is gone."""
        for end in self._sockets:
            end.close()
        self._sockets.clear()

    def close(self) -> None:
        self._listener.close()
        self.break_connections()
