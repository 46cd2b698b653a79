# SPDX-License-Identifier: Apache-2.0
"""The connection to a server. Nothing here waits: calls are futures, and gRPC's own threads have the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from sa2va_model.errors import InputError
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.wire import grounding_pb2 as pb
from sa2va_serve.wire import grounding_pb2_grpc as stubs

PUSHBACK = "grpc-retry-pushback-ms"
MOST = 32 << 20  # bytes of a message; the server says how many it takes


class Channel:
    """A connection that can be made anew.

    Raises:
        InputError: the token or the authority's certificate cannot be read.
    """

    def __init__(self, config: RemoteConfig) -> None:
        self._config = config
        token = config.read_token()
        self._metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {token}"),) if token else ()
        )
        if config.adapter:  # Ray Serve sends the call to where it is loaded
            self._metadata += (("multiplexed_model_id", config.adapter),)
        self._authority = _read(config.authority) if config.authority else None
        self._open()

    def _open(self) -> None:
        options = [
            ("grpc.max_send_message_length", MOST),
            ("grpc.max_receive_message_length", MOST),
            ("grpc.initial_reconnect_backoff_ms", 250),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.enable_retries", 0),  # what is still worth asking is decided here
            ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
        ]
        address = self._config.address
        if self._config.tls:
            trust = grpc.ssl_channel_credentials(self._authority)
            self._channel = grpc.secure_channel(address, trust, options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._stub = stubs.GroundingStub(self._channel)

    def reopen(self) -> None:
        """A new connection: one that hangs is not waited for."""
        self._channel.close()
        self._open()

    def close(self) -> None:
        """End; calls that are open fail."""
        self._channel.close()

    def describe(self, seconds: float, done: Callable[[Any], None]) -> None:
        """Ask who serves; `done` is told the finished call, on a thread of gRPC."""
        request = pb.DescribeRequest(robot_id=self._config.name)
        call = self._stub.Describe.future(request, timeout=seconds, metadata=self._metadata)
        call.add_done_callback(done)

    def ground(self, request: pb.GroundRequest, seconds: float, done: Callable[[Any], None]) -> Any:
        """Ask what sentences mean; returns the call, `done` is told it when it is finished."""
        call = self._stub.Ground.future(request, timeout=seconds, metadata=self._metadata)
        call.add_done_callback(done)
        return call

    def ask(self, request: pb.AskRequest, seconds: float) -> Any:
        """Ask a question; returns the call, an iterator of replies."""
        return self._stub.Ask(request, timeout=seconds, metadata=self._metadata)


def pushback(call: Any) -> float | None:
    """Seconds after which the server wants to be asked again; None = it does not say."""
    for key, value in call.trailing_metadata() or ():
        if key == PUSHBACK and str(value).isdigit():
            return int(value) / 1e3
    return None


def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a finished call failed: the code, and words for people."""
    code = call.code() or grpc.StatusCode.UNKNOWN
    detail = " ".join(str(call.details() or "").split())
    return code, detail or code.name


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
