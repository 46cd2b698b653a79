# SPDX-License-Identifier: Apache-2.0
"""`sa2va export`: SAM-2 of a checkpoint and its vision tower as ONNX graphs, each checked against PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sa2va_cli.inputs import positive
from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from sa2va_model.mllm.tiled import TiledMllm
    from sa2va_model.segmentation.sam2 import Sam2

NAME = "export"
HELP = (
    "Write SAM-2 of a checkpoint as static ONNX graphs (image encoder, memory attention, decoder, memory encoder), and "
    "its language half's vision tower with the projector as a fifth, with a manifest. Every "
    "graph is checked against PyTorch. track, bench and the node then take --backend onnx --onnx DIR."
)
EXAMPLES = """examples:
  sa2va export -o tiny_onnx                                   the tiny model that ships
  sa2va export Sa2VA-1B -o sa2va_1b_onnx --resolution 512     at 512 pixels
  sa2va export sam2.1_hiera_tiny.pt -o tiny512 --resolution 512,1024
  sa2va export Sa2VA-4B --sam2 sam2.1_hiera_tiny.pt -o both --resolution 512   and the one of propagation handover
  sa2va export Sa2VA-1B -o half --half                        float16 inside, for CUDA and TensorRT

then:
  sa2va doctor tiny_onnx
  sa2va track table.mp4 -e "the red mug" -o out --backend onnx --onnx tiny_onnx"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sa2va export`."""
    parser.add_argument(
        "source", nargs="?", metavar="MODEL", help="checkpoint folder, or a published SAM-2 (.pt)"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--resolution",
        type=_sizes,
        default=(),
        metavar="S,...",
        help="sides of the image, pixels: 1024, 512, 256 (default: the model's own)",
    )
    parser.add_argument(
        "--sam2", metavar="FILE.pt", help="also this SAM-2 or SAM-2.1, which follows by handover"
    )
    parser.add_argument(
        "--no-vision", action="store_true", help="without the language half's vision tower"
    )
    parser.add_argument("--half", action="store_true", help="float16 inside, float32 at the edges")


def run(args: argparse.Namespace) -> int:
    """Export; returns the exit status."""
    from sa2va_cli.output import write_json

    folder = Path(args.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; expected a new folder")
    try:
        from sa2va_model.export.writer import ExportOptions, export
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'sa2va_ros[onnx]'") from error
    options = ExportOptions(args.resolution, half=args.half)
    source, weights, mllm = _weights(args)
    manifest = export(source, weights, folder, options, say=print, mllm=mllm)
    print(f"{folder}: for --backend onnx --onnx {folder}")
    write_json(args.json, {"folder": str(folder), "sizes": manifest.sizes()})
    return 0


def _weights(args: argparse.Namespace) -> tuple[str, list[Sam2], TiledMllm | None]:
    """What it is called, every SAM-2 of it, and the language half whose vision tower is exported; on the CPU."""
    from sa2va_model.checkpoints.files.sam2_files import load_stock
    from sa2va_model.checkpoints.load import has_language_half, load_eyes, load_half
    from sa2va_model.mllm.tiled import TiledMllm

    if args.source is not None and args.model is not None:
        raise InputError("MODEL is given twice, with and without --model")
    source = args.source if args.source is not None else args.model
    size = args.resolution[0] if args.resolution else None
    mllm = None
    if source is not None and source.endswith((".pt", ".pth")):
        found = [load_stock(source, image_size=size)]
    elif args.no_vision or not has_language_half(source):
        found = [load_half(source, device="cpu").sam2]
    else:
        model = load_eyes(source)
        found = [model.sam2]
        if isinstance(model.mllm, TiledMllm):
            mllm = model.mllm
        else:
            print("vision tower: sees grids of any size, stays in PyTorch")
    if args.sam2 is not None:
        found.append(load_stock(args.sam2, image_size=size))
    return Path(source).name if source else "tiny", found, mllm


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positive(part) for part in text.split(",")))
