# SPDX-License-Identifier: Apache-2.0
"""Segmenters that follow by hand-over, beside each other: time of a step, and J&F on the simulator's hard clips.

    python benchmarks/hard_set/followers.py --resolution 512                        time, random weights
    python benchmarks/hard_set/followers.py --presets sam3@252,large@256            the same, each at a side of its own
    python benchmarks/hard_set/followers.py edgetam.pt sam2.1_hiera_tiny.pt --clips 60   J&F of published files as well

Every frame is drawn from each in turn, so that what else the machine does hits them alike; times are of the processor.
On the hard clips each is handed the true mask of the first frame, as hand-over hands it the finder's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from clips import DEFAULT_CACHE, clips
from masks import SEEN

from sa2va_cli.bench.tracker_race import moving_squares, ours, race
from sa2va_model.checkpoints.files.sam2_files import load_stock, stock_config
from sa2va_model.io import preprocessing as images
from sa2va_model.segmentation.backends.base import Segmenter
from sa2va_model.segmentation.backends.registry import pick_runtime
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker
from sa2va_model.segmentation.types import Prompt
from sa2va_sim.hard_clips import HardClip
from sa2va_training.metrics.jf import frame_jf


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.pt", help="published files")
    parser.add_argument(
        "--presets", default="edgetam,tiny", help="sizes with random weights: NAME or NAME@SIDE"
    )
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--objects", default="1,4")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clips", type=int, default=0, metavar="N", help="J&F on N hard clips")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR")
    args = parser.parse_args(arguments)
    if args.clips and not args.files:
        parser.error("--clips is for published files: random weights follow nothing")
    torch.set_num_threads(args.threads)
    followers = dict(_followers(args))
    for count in (int(part) for part in args.objects.split(",")):
        running = {}
        for name, one in followers.items():
            running[name] = ours(one, *moving_squares(args.frames, one.config.image_size, count))
        for name, timing in race(running, args.frames, torch.device("cpu")).items():
            # Memory is full, and all that is made once is made, from the ninth frame on.
            print(f"{name:20} {count} objects  {np.median(timing.cpu[8:]):7.1f} ms of processor")
    for name, segmenter in followers.items() if args.clips else ():
        values = [
            v for clip in clips(range(args.clips), args.cache) for v in score(segmenter, clip)
        ]
        print(
            f"{name:20} J&F {np.mean(values):.3f} over {len(values)} frames of {args.clips} clips"
        )
    return 0


def _followers(args: argparse.Namespace) -> Iterator[tuple[str, Segmenter]]:
    device, size = torch.device("cpu"), args.resolution
    for file in args.files:
        stock = load_stock(file, image_size=size)
        yield file.stem, pick_runtime("auto", device, stock.config).segmenter(stock)
    for preset in () if args.files else args.presets.split(","):
        torch.manual_seed(0)
        name, _, own = preset.partition("@")
        stock = Sam2(stock_config(name, image_size=int(own or size))).eval()
        yield preset, pick_runtime("auto", device, stock.config).segmenter(stock)


@torch.inference_mode()
def score(segmenter: Segmenter, clip: HardClip) -> Iterator[float]:
    """J&F of every later frame that shows the target."""
    tracker, size = OnlineTracker(segmenter), clip.rgb.shape[1:3]
    tracker.add("0", Prompt(mask=torch.from_numpy(clip.instances[0] == clip.target)))
    for number, rgb in enumerate(clip.rgb):
        pixels = images.sam_pixels(rgb, segmenter.config)
        logits = tracker.step(segmenter.encode_image(pixels))["0"].logits
        if number and clip.visible[number] >= SEEN:
            mask = images.masks_to_image(logits, segmenter.config.image_size, *size)[0] > 0
            yield frame_jf(mask.numpy(), clip.instances[number] == clip.target).j_and_f


if __name__ == "__main__":
    sys.exit(main())
