# SPDX-License-Identifier: Apache-2.0
"""`sa2va train`: fine-tune a model on one's own data, on one process or, under a launcher, on many."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sa2va_cli.inputs import positive
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_training.run.settings import Settings

NAME = "train"
HELP = "Fine-tune a model: LoRA on the language model, SAM-2's mask decoder and the projections."
LONGER = ("steps", "epochs", "save_every", "validate_every", "patience", "measure")
"""What may be changed when a run goes on: how long, and how often it is looked at."""
EXAMPLES = """examples:
  sa2va train finetune.yaml data=my_folder
  sa2va train finetune.yaml data=my_folder --dry-run        what a step costs, nothing is written
  sa2va train finetune.yaml data=my_folder --overfit 4      does it learn four samples by heart?
  sa2va train --resume runs/finetune                        go on after an interruption
  sa2va train --resume runs/finetune steps=2000             make a run longer, also a finished one
  accelerate launch --num_processes 8 $(which sa2va) train finetune.yaml data=my_folder

CONFIG is a YAML file, here or one that ships; key=value overrides any of its keys (train.rank=64, steps=500).
writes to OUTPUT (runs/finetune): adapter/ for --adapter and LoadAdapter, merged/ as a checkpoint, results.json,
loss.png, qualitative.png, metrics.jsonl, tensorboard/, checkpoints/. docs/training.md says more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va train`."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="settings")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ")
    parser.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    parser.add_argument("--dry-run", action="store_true", help="a few steps, nothing is written")
    parser.add_argument(
        "--overfit", type=positive, default=0, metavar="N", help="train and measure on N samples"
    )


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit status."""
    from sa2va_training.run.settings_files import load_settings

    _check_options(args)
    if args.resume is not None:
        settings = _resumed(args)
    elif args.config is None:
        raise InputError("no settings; expected CONFIG.yaml (as in finetune.yaml) or --resume DIR")
    else:
        config, overrides = args.config, list(args.overrides)
        if "=" in config:  # `sa2va train data=my_folder` means the settings that ship
            config, overrides = "finetune.yaml", [config, *overrides]
        settings = load_settings(config, overrides)
    if args.model is not None:
        settings = replace(settings, model=args.model)
    if args.device != "auto":
        settings = replace(settings, device=args.device)
    if args.bits is not None:
        settings = replace(settings, train=replace(settings.train, bits=args.bits))
    from sa2va_cli.output import write_json
    from sa2va_training.run.finetune import finetune

    results = finetune(
        settings, resume=args.resume is not None, dry_run=args.dry_run, overfit=args.overfit
    )
    if results:
        write_json(args.json, results)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Common options that would change nothing here are refused."""
    if args.dtype != "auto":
        raise InputError(
            f"--dtype {args.dtype}: trained numbers are float32; expected precision=bf16 or precision=fp32"
        )


def _resumed(args: argparse.Namespace) -> Settings:
    """The settings that the run was started with; only where it lies may have changed."""
    from sa2va_training.run import state

    words = [word for word in (args.config, *args.overrides) if word is not None]
    wrong = [word for word in words if word.partition("=")[0] not in LONGER or "=" not in word]
    if wrong or args.overfit:
        raise InputError(
            f"--resume goes on with the settings of the run, of which {', '.join(LONGER)} may be changed; "
            f"expected no {wrong[0] if wrong else '--overfit'} beside it"
        )
    settings = state.settings_of(Path(args.resume), words)
    return replace(settings, output=args.resume)
