# SPDX-License-Identifier: Apache-2.0
"""`sa2va serve`: one model for many robots."""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import TYPE_CHECKING

from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_serve.server.config import ServerConfig
    from sa2va_serve.server.service import GroundingServer

NAME = "serve"
HELP = "Understand the sentences of many robots on one GPU; each follows its objects on board (docs/serving.md)."
EXAMPLES = """examples:
  sa2va serve --model Sa2VA-4B                       for this machine only
  sa2va serve --model Sa2VA-4B --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --tokens tokens.txt
  sa2va serve --adapter runs/kitchen/adapter --adapter runs/garden/adapter      robots choose by name
  sa2va serve --ray serving.yaml                     many GPUs, with Ray Serve (pip install 'sa2va_ros[serve]')

a robot: ros2 run sa2va_ros tracker_node --ros-args -p grounder:=grpc://HOST:50151, or
         sa2va track table.mp4 -e "the blue mug" --grounder grpc://HOST:50151 -o out
SIGTERM: takes nothing more, finishes what it began and ends."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va serve`."""
    from sa2va_serve.server.config import METRICS_PORT, PORT, ServerLimits

    limits = ServerLimits()
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="DIR",
        help="fine-tuned adapter that robots may ask for by its name; may be given several times",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address (default: 127.0.0.1; any other needs TLS and tokens)",
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0 = any")
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=METRICS_PORT,
        metavar="P",
        help=f"Prometheus metrics on 127.0.0.1 (default: {METRICS_PORT}; -1 = none)",
    )
    parser.add_argument("--tls-cert", default="", metavar="PEM", help="certificate chain")
    parser.add_argument("--tls-key", default="", metavar="PEM", help="its private key")
    parser.add_argument(
        "--tls-client-ca",
        default="",
        metavar="PEM",
        help="authority whose certificates clients must have",
    )
    parser.add_argument(
        "--tokens", default="", metavar="FILE", help="a token in each line; robots send one of them"
    )
    parser.add_argument(
        "--waiting", type=int, default=limits.waiting, metavar="N", help="requests that may wait"
    )
    parser.add_argument(
        "--together",
        type=int,
        default=limits.together,
        metavar="N",
        help="robots whose sentences share a forward (default: 8 on a CPU, 1 on CUDA)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        metavar="R",
        help="requests a second of one robot; 0 = any",
    )
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="S", help="seconds that ending may take"
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="YAML",
        help="run as a Ray Serve app, from its YAML file",
    )


def run(args: argparse.Namespace) -> int:
    """Serve; returns the exit status."""
    from sa2va_serve.needs import need

    if args.ray is not None:
        _only_ray(args)
        need("ray", "serve")
        from sa2va_serve.server.ray_app import run_app

        return run_app(args.ray)
    need("grpc", "remote")
    need("grpc_health", "remote")
    need("prometheus_client", "remote")
    return asyncio.run(_serve(args, _config(args)))


def _only_ray(args: argparse.Namespace) -> None:
    """Refuse what the YAML file of a Ray Serve app has to say, above all tokens: it would not be heard."""
    from sa2va_cli.main import add_common

    parser = argparse.ArgumentParser()
    add_common(parser)
    add_arguments(parser)
    for name, value in vars(parser.parse_args([])).items():
        if name not in ("ray", "json", "debug") and getattr(args, name) != value:
            raise InputError(
                f"--{name.replace('_', '-')} is given with --ray; expected it in the YAML file of the app"
            )


def _config(args: argparse.Namespace) -> ServerConfig:
    from sa2va_serve.server.config import ServerConfig, ServerLimits

    return ServerConfig(
        host=args.host,
        port=args.port,
        metrics_port=args.metrics_port,
        certificate=args.tls_cert,
        key=args.tls_key,
        clients=args.tls_client_ca,
        tokens=args.tokens,
        grace=args.grace,
        limits=ServerLimits(waiting=args.waiting, rate=args.rate, together=args.together),
    )


async def _serve(args: argparse.Namespace, config: ServerConfig) -> int:
    from sa2va_serve.server.grpc_app import run as run_server

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ended = await run_server(
        config, lambda: _load(args, config), stop, lambda text: print(text, flush=True)
    )
    if not ended:
        raise InputError(f"work was left after {config.grace:g} s; expected it to end (--grace)")
    return 0


def _load(args: argparse.Namespace, config: ServerConfig) -> GroundingServer:
    from sa2va_model.checkpoints.load import load_model, suit_threads
    from sa2va_serve.server.service import GroundingServer

    model = load_model(args.model, device=args.device, dtype=args.dtype, bits=args.bits)
    suit_threads(model)
    return GroundingServer(model, config.limits, args.adapter, args.model or "tiny")
