# SPDX-License-Identifier: Apache-2.0
"""The server over gRPC: identity, health, and the words of refusals.

Standard health checks (`grpc.health.v1`) say NOT_SERVING while the model loads and while the server ends. A refusal
that may be tried again carries `grpc-retry-pushback-ms` in its trailing metadata, as gRPC's own retries read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from sa2va_model.errors import InputError
from sa2va_serve.server.config import ServerConfig
from sa2va_serve.server.errors import BusyError, ServeError
from sa2va_serve.server.identity import PUSHBACK, is_known, read_tokens
from sa2va_serve.server.service import GroundingServer
from sa2va_serve.wire import grounding_pb2 as pb
from sa2va_serve.wire import grounding_pb2_grpc as stubs

SERVICE = "sa2va.grounding.v1.Grounding"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LOADING_SECONDS = 1.0  # after which a robot tries again while the model loads


class GrpcServer:
    """Listens at once, and serves when it has a model.

    Attributes:
        port: where it listens, once it is started.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config, self.port = config, 0
        self._service: GroundingServer | None = None
        self._health = health.HealthServicer()
        tokens = read_tokens(config.tokens) if config.tokens else ()
        self._server = grpc.aio.server(
            interceptors=[_Identity(tokens)] if tokens else [],
            options=_options(config),
            maximum_concurrent_rpcs=config.limits.calls,
        )

    async def start(self) -> int:
        """Listen; return the port.

        Raises:
            InputError: the address cannot be had, or a file of TLS cannot be read.
        """
        config = self._config
        stubs.add_GroundingServicer_to_server(_Servicer(self), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self._tell(NOT_SERVING)
        address = f"{config.host}:{config.port}"
        try:
            if config.certificate:
                self.port = self._server.add_secure_port(address, _credentials(config))
            else:
                self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise InputError(f"{address}: cannot listen there ({error})") from error
        if not self.port:
            raise InputError(f"{address}: cannot listen there")
        await self._server.start()
        return self.port

    async def serve(self, service: GroundingServer) -> None:
        """Answer with that from now on."""
        self._service = service
        await self._tell(SERVING)

    async def end(self, *, drain: bool = True) -> bool:
        """Finish what was begun and close; False if that took longer than the grace period.

        Args:
            drain: False = break off; the service can be used by another server.
        """
        if not drain:
            await self._server.stop(0)
            return True
        await self._tell(NOT_SERVING)
        grace, service = self._config.grace, self._service
        drained = service is None or await service.drain(grace)
        await self._server.stop(grace if drained else 0)
        return drained

    def service(self) -> GroundingServer:
        """Raise `BusyError` while there is none."""
        if self._service is None:
            raise BusyError("the model is being loaded", LOADING_SECONDS, draining=True)
        return self._service

    async def _tell(self, status: Any) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)


class _Servicer(stubs.GroundingServicer):
    """Messages to the service, and its refusals to status codes."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server

    async def Describe(  # noqa: N802 - the name on the wire
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribeReply:
        """See the .proto file."""
        return await _told(context, self._describe())

    async def _describe(self) -> pb.DescribeReply:
        return self._server.service().describe()

    async def Ground(  # noqa: N802
        self, request: pb.GroundRequest, context: grpc.aio.ServicerContext
    ) -> pb.GroundReply:
        """See the .proto file."""
        return await _told(context, self._ground(request))

    async def _ground(self, request: pb.GroundRequest) -> pb.GroundReply:
        return await self._server.service().ground(request)

    async def Ask(  # noqa: N802
        self, request: pb.AskRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.AskReply]:
        """See the .proto file."""
        try:
            async for reply in self._server.service().ask(request):
                yield reply
        except ServeError as error:
            await _refuse(context, error)


async def _told(context: grpc.aio.ServicerContext, answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except ServeError as error:
        return await _refuse(context, error)


async def _refuse(context: grpc.aio.ServicerContext, error: ServeError) -> None:
    trailing: tuple[tuple[str, str], ...] = ()
    if error.retry_after is not None:
        trailing = ((PUSHBACK, str(max(1, round(error.retry_after * 1e3)))),)
    await context.abort(getattr(grpc.StatusCode, error.code), str(error), trailing)


class _Identity(grpc.aio.ServerInterceptor):
    """Whoever has no token is turned away before anything is read; health may be asked by all."""

    def __init__(self, tokens: tuple[bytes, ...]) -> None:
        self._tokens = tokens

        async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "authorization: no token that is known; expected 'Bearer TOKEN'",
            )

        self._refusal = grpc.unary_unary_rpc_method_handler(refuse)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Called by gRPC for each call."""
        if details.method.startswith("/grpc.health.v1.Health/"):
            return await continuation(details)
        if is_known(dict(details.invocation_metadata), self._tokens):
            return await continuation(details)
        return self._refusal


def _credentials(config: ServerConfig) -> Any:
    files = {}
    for name in ("certificate", "key", "clients"):
        path = getattr(config, name)
        try:
            files[name] = Path(path).read_bytes() if path else None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
    return grpc.ssl_server_credentials(
        [(files["key"], files["certificate"])],
        root_certificates=files["clients"],
        require_client_auth=files["clients"] is not None,
    )


def _options(config: ServerConfig) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", config.limits.bytes),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
        # Robots behind a bad link ask every few seconds whether it is up.
        ("grpc.http2.min_ping_interval_without_data_ms", 4000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]


async def run(
    config: ServerConfig,
    load: Callable[[], GroundingServer],
    stop: asyncio.Event,
    say: Callable[[str], None],
) -> bool:
    """Serve until `stop` is set; False if work had to be left.

    Args:
        load: makes the service, on a thread.
    """
    from prometheus_client import start_http_server

    server = GrpcServer(config)
    port = await server.start()
    say(
        f"listening on {config.host}:{port}{' (TLS)' if config.certificate else ''}, loading the model"
    )
    loop = asyncio.get_running_loop()
    loading: asyncio.Future[Any] = loop.run_in_executor(None, load)
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        service = loading.result()
        if config.metrics_port >= 0:
            _, thread = start_http_server(
                config.metrics_port, "127.0.0.1", registry=service.metrics.registry
            )
            del thread
        await server.serve(service)
        say(f"serving {service.name} on {config.host}:{port}")
        await stopping
        say(f"ending: {service.queue_length} requests wait and are finished")
    return await server.end()
