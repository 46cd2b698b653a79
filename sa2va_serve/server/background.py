# SPDX-License-Identifier: Apache-2.0
"""A server on a thread of its own, for programs that have something else to do: tests, benchmarks, a robot."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from sa2va_serve.server.config import ServerConfig
from sa2va_serve.server.grpc_app import GrpcServer
from sa2va_serve.server.service import GroundingServer


class BackgroundServer:
    """Serves from `start` to `end`; `config.grace` 0 breaks off what is in work, as a crash does."""

    def __init__(self, service: GroundingServer, config: ServerConfig) -> None:
        self._service, self._config = service, config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="sa2va-server", daemon=True)
        self._port: Future[int] = Future()
        self.port = 0

    def start(self) -> int:
        """Return the port where it listens; raises what kept it from listening."""
        self._thread.start()
        self.port = self._port.result(30)
        return self.port

    def end(self, timeout: float = 30.0) -> bool:
        """Stop; False if that takes longer than `timeout` seconds."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> BackgroundServer:
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.end()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - told to whoever starts it
            if not self._port.done():
                self._port.set_exception(error)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = GrpcServer(self._config)
        port = await server.start()
        await server.serve(self._service)
        self._port.set_result(port)
        await self._stop.wait()
        await server.end(drain=self._config.grace > 0)
