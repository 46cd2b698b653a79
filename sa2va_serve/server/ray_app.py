# SPDX-License-Identifier: Apache-2.0
"""The same server under Ray Serve, for many GPUs: replicas, fractions of a GPU, autoscaling by requests in flight.

Ray's gRPC proxy takes the robots' calls; a robot cannot tell it from `sa2va serve`. Each replica has the model, its own
queue and prefixes, and reads an adapter when the first robot asks for it (`serve.multiplexed`); robots name theirs in
the call's metadata too, so that Ray sends them where it is.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ray import serve

from sa2va_model.errors import InputError
from sa2va_serve.server.config import ServerLimits
from sa2va_serve.server.errors import NoAdapterError, ServeError
from sa2va_serve.server.identity import PUSHBACK, is_known, read_tokens
from sa2va_serve.server.service import GroundingServer
from sa2va_serve.wire import grounding_pb2 as pb

APP_FILE = Path(__file__).parents[1] / "serving.yaml"
ADAPTERS = 16  # names that Ray remembers of each replica


@serve.deployment(name="grounding")
class RayGrounding:
    """One replica.

    Args:
        model: folder or hub name; "" = the model that ships. device, dtype, bits: as of the commands.
        adapters: name -> folder, each read when it is first asked for.
        tokens: file with a token in each line; "" = none needed.
        limits: fields of `ServerLimits`.
    """

    def __init__(
        self,
        model: str = "",
        device: str = "auto",
        dtype: str = "auto",
        bits: int | None = None,
        adapters: dict[str, str] | None = None,
        tokens: str = "",
        limits: dict[str, Any] | None = None,
    ) -> None:
        from sa2va_model.checkpoints.load import load_model, suit_threads

        loaded = load_model(model or None, device=device, dtype=dtype, bits=bits)
        suit_threads(loaded)
        self._folders = adapters or {}
        self._tokens = read_tokens(tokens) if tokens else ()
        self._server = GroundingServer(loaded, ServerLimits(**(limits or {})), name=model or "tiny")

    async def Describe(self, request: pb.DescribeRequest, grpc_context: Any) -> pb.DescribeReply:  # noqa: N802 - the name on the wire
        """See the .proto file; an adapter that robots may ask for is read here at the latest."""
        try:
            self._check(grpc_context)
            for name in self._folders:
                await self._adapter(name)
            return self._server.describe()
        except ServeError as error:
            raise _told(grpc_context, error) from error

    async def Ground(self, request: pb.GroundRequest, grpc_context: Any) -> pb.GroundReply:  # noqa: N802
        """See the .proto file."""
        try:
            self._check(grpc_context)
            await self._ready(request.header)
            return await self._server.ground(request)
        except ServeError as error:
            raise _told(grpc_context, error) from error

    async def Ask(self, request: pb.AskRequest, grpc_context: Any) -> AsyncIterator[pb.AskReply]:  # noqa: N802
        """See the .proto file."""
        try:
            self._check(grpc_context)
            await self._ready(request.header)
            async for reply in self._server.ask(request):
                yield reply
        except ServeError as error:
            raise _told(grpc_context, error) from error

    @serve.multiplexed(max_num_models_per_replica=ADAPTERS)  # type: ignore[untyped-decorator]
    async def _adapter(self, name: str) -> str:
        folder = self._folders.get(name)
        if folder is None:
            raise NoAdapterError(
                f"adapter is {name!r}; known are {sorted(self._folders) or 'none'}"
            )
        await self._server.add_adapter(folder, name)
        return name

    async def _ready(self, header: pb.Header) -> None:
        if header.adapter:
            await self._adapter(header.adapter)

    def _check(self, grpc_context: Any) -> None:
        if self._tokens and not is_known(dict(grpc_context.invocation_metadata()), self._tokens):
            raise _UnknownError("authorization: no token that is known; expected 'Bearer TOKEN'")

    def check_health(self) -> None:
        """Called by Ray; a replica whose engine died is replaced."""
        if not self._server.engine.alive:
            raise RuntimeError("the engine's thread has ended")


class _UnknownError(ServeError):
    code = "UNAUTHENTICATED"


def _told(grpc_context: Any, error: ServeError) -> Exception:
    """A refusal in the words of gRPC; Ray's proxy sends what the context says."""
    import grpc

    grpc_context.set_code(getattr(grpc.StatusCode, error.code))
    grpc_context.set_details(str(error))
    if error.retry_after is not None:
        wait = str(max(1, round(error.retry_after * 1e3)))
        grpc_context.set_trailing_metadata([(PUSHBACK, wait)])
    return RuntimeError(str(error))


def build(args: dict[str, Any]) -> Any:
    """The app, with the arguments of its YAML file."""
    return RayGrounding.bind(**args)  # type: ignore[attr-defined]


def run_app(file: str) -> int:
    """Run the app of a YAML file until SIGTERM or Ctrl-C, which both let it finish; returns the exit status.

    `serve run` finishes what replicas have begun on SIGINT alone; SIGTERM breaks it off.

    Raises:
        InputError: there is no such file.
    """
    path = Path(file) if file else APP_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the YAML of a Ray Serve app")
    words = [sys.executable, "-m", "ray.serve.scripts", "run", str(path)]
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # a shell's background job ignores it, and so would the child
    # A session of its own: the terminal's Ctrl-C comes once, from here.
    process = subprocess.Popen(words, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
    return process.wait()
