# SPDX-License-Identifier: Apache-2.0
"""The model that a command works with: `--model`, `--adapter`, `--device`, `--dtype` and `--bits`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sa2va_model.sa2va import Sa2VA


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """The option of commands that use a model."""
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        help="fine-tuned adapter to put into the model (made by sa2va train)",
    )


def open_model(args: argparse.Namespace) -> Sa2VA:
    """The loaded model, with its adapter.

    Raises:
        InputError: a folder cannot be read, or the adapter belongs to another model.
    """
    from sa2va_model.checkpoints.adapters import load_adapter
    from sa2va_model.checkpoints.load import load_model, suit_threads

    model = load_model(args.model, device=args.device, dtype=args.dtype, bits=args.bits)
    suit_threads(model)
    if getattr(args, "adapter", None):
        load_adapter(model, args.adapter)
    return model
