# SPDX-License-Identifier: Apache-2.0
"""Sentences about moving objects ("the cube that moves"): frames as keyframes, or ten moments as two pictures.

    python benchmarks/mosaic_keyframes.py --clips 20

A clip of the simulator in which one object is carried along; J&F over its frames, and processor time of an answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from sa2va_model.checkpoints.load import load_model
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.sa2va import Sa2VA
from sa2va_sim.simulator import sim_clip
from sa2va_sim.words.expressions import describe
from sa2va_training.metrics.jf import frame_jf

CHOICES = (("first", 5), ("uniform", 5), ("uniform", 2), ("mosaic", 2))
Clip = tuple[list[np.ndarray], list[np.ndarray], str]
"""Frames, true masks, a sentence."""


def clips(count: int, frames: int, size: int) -> Iterator[Clip]:
    """Clips with a sentence that only motion makes true."""
    seed = found = 0
    while found < count:
        images = sim_clip(seed, frames, size)
        said = [
            one
            for one in describe(images[0].facts, np.random.default_rng(seed), 64, motion=True)
            if one.kind == "motion" and one.target is not None
        ]
        seed += 1
        if said:
            found += 1
            target = said[0].target
            assert target is not None
            truth = [image.instances == target + 1 for image in images]
            yield [image.rgb for image in images], truth, said[0].text


def measure(model: Sa2VA, clip: Clip, choice: KeyframeChoice) -> tuple[float, float]:
    """J&F and seconds of processor."""
    frames, truth, sentence = clip
    model.forget()
    start = time.process_time()
    masks = model.segment_video(frames, sentence, keyframes=choice).masks
    spent = time.process_time() - start
    mask = masks[0] if len(masks) else np.zeros((len(frames), *frames[0].shape[:2]), bool)
    each = [frame_jf(m.astype(bool), t).j_and_f for m, t in zip(mask, truth, strict=True)]
    return float(np.mean(each)), spent


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=20, metavar="N")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--model", metavar="FOLDER", help="default: the model that ships")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(args.model, device="cpu")
    found: dict[tuple[str, int], list[tuple[float, float]]] = {choice: [] for choice in CHOICES}
    for clip in clips(args.clips, args.frames, args.size):
        for choice, values in found.items():
            values.append(measure(model, clip, KeyframeChoice(*choice)))
    for (kind, count), values in found.items():
        score, spent = np.mean(values, 0)
        print(f"{kind:8} {count}  J&F {score:.3f}  {spent:.2f} s  ({len(values)} clips)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
