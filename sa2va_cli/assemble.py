# SPDX-License-Identifier: Apache-2.0
"""`sa2va assemble`: a base MLLM and a SAM-2 become what training starts from."""

from __future__ import annotations

import argparse

NAME = "assemble"
HELP = "Put a base MLLM and a SAM-2 together as the paper does; then sa2va train paper.yaml model=START."
EXAMPLES = """examples:
  sa2va assemble --mllm InternVL3-2B --sam2 sam2_hiera_large.pt -o start
  sa2va assemble --mllm Qwen3-VL-4B-Instruct --sam2 sam2.1_hiera_large.pt -o start
  sa2va train paper.yaml model=start data=all.yaml

A base is InternVL 2, 2.5 or 3 (not the "-hf" folders), Qwen2.5-VL, Qwen3-VL or LLaVA-1.5. The start finds
nothing before it is trained: [SEG] and text_hidden_fcs are new."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va assemble`."""
    parser.add_argument(
        "--mllm", metavar="FOLDER", required=True, help="base MLLM, or its hub name"
    )
    parser.add_argument("--sam2", metavar="FILE", required=True, help="published SAM-2 or SAM-2.1")
    parser.add_argument("-o", "--output", metavar="START", required=True, help="a new folder")


def run(args: argparse.Namespace) -> int:
    """Assemble; returns the exit status."""
    from sa2va_cli.output import write_json
    from sa2va_model.checkpoints.assemble import assemble

    model = assemble(args.mllm, args.sam2, args.output)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{args.output}: {count / 1e9:.2f}B parameters, a start for sa2va train model={args.output}"
    )
    write_json(args.json, {"folder": args.output, "parameters": count})
    return 0
