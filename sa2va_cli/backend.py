# SPDX-License-Identifier: Apache-2.0
"""Who computes SAM-2 in a command: `--backend`, `--onnx` and what they need."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.onnx.providers import CHOICES, ProviderOptions

if TYPE_CHECKING:
    from sa2va_model.segmentation.backends.registry import Profile


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The options of commands that follow objects."""
    group = parser.add_argument_group("backend")
    group.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        default="torch",
        help="who computes SAM-2: torch (default), or ONNX Runtime with the graphs of --onnx",
    )
    group.add_argument("--onnx", metavar="DIR", help="folder that sa2va export has written")
    add_provider(group)


def add_provider(group: argparse._ActionsContainer) -> None:
    """Who runs graphs."""
    group.add_argument(
        "--provider",
        choices=CHOICES,
        default="auto",
        help="of ONNX Runtime (default: auto = cuda with --device cuda, else cpu)",
    )
    group.add_argument(
        "--fallback",
        action="store_true",
        help="operators that the provider lacks may run elsewhere; otherwise that is an error",
    )
    group.add_argument(
        "--engine-cache",
        default="",
        metavar="DIR",
        help="where TensorRT keeps its engines (default: beside the graphs)",
    )
    group.add_argument(
        "--float16", action="store_true", help="TensorRT may compute in float16 (graphs in float32)"
    )


def provider_options(args: argparse.Namespace) -> ProviderOptions:
    """What the options say."""
    return ProviderOptions(
        args.provider, half=args.float16, cache=args.engine_cache, fallback=args.fallback
    )


def chosen_profile(args: argparse.Namespace) -> Profile:
    """How SAM-2 is computed: a name, or a backend.

    Raises:
        InputError: options that exclude each other, a folder that holds no graphs, a provider that is not there.
    """
    from sa2va_model.segmentation.backends.registry import check_profile

    if args.backend == "torch":
        if args.onnx is not None:
            raise InputError("--onnx is given without --backend onnx")
        check_profile(args.profile)
        return str(args.profile)
    if args.onnx is None:
        raise InputError("--backend onnx needs --onnx DIR, a folder that sa2va export has written")
    if args.profile != "auto":
        raise InputError(f"--profile {args.profile} is for --backend torch; graphs are as exported")
    from sa2va_model.segmentation.backends.onnx.backend import onnx_backend

    return onnx_backend(args.onnx, provider_options(args))
