# SPDX-License-Identifier: Apache-2.0
"""The tracker against the clock: frames per second beside the `sam2` package's own predictor, stages, and a soak.

Both sides get the same weights and the same tensors and give masks at the size of the image. Frames alternate between
them, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils._triton import has_triton

from sa2va_cli.bench.sam2_predictor import propagate, stock_predictor
from sa2va_model.device import most_bytes, synchronize, traits_of
from sa2va_model.segmentation.backends.base import Runtime, Segmenter
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig
from sa2va_model.segmentation.types import Prompt

WARM_UP = 8
"""Frames left out of medians: memories fill, buffers are made, graphs are captured."""


@dataclass
class Timing:
    """Milliseconds of the frames of one contestant.

    Attributes:
        wall: by the clock; `cpu`: time of the process on the processors, which other processes do not inflate.
        masks: the last frames' masks, bool [N, S, S], for agreement.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)

    def median(self, kind: str = "wall") -> float:
        """Of the frames after the warm-up, milliseconds."""
        values = getattr(self, kind)
        return float(np.median(values[min(WARM_UP, len(values) // 2) :]))

    def percentile(self, q: float) -> float:
        """Of the frames after the warm-up, milliseconds."""
        return float(np.percentile(self.wall[min(WARM_UP, len(self.wall) // 2) :], q))


def moving_squares(
    count: int, side: int, objects: int, seed: int = 0
) -> tuple[Tensor, list[Prompt]]:
    """A made clip: bright squares that move over texture.

    Returns:
        (float32 [T, 3, S, S], normalised; a box for each square on the first frame).
    """
    generator = torch.Generator().manual_seed(seed)
    texture = torch.randn(1, 3, side // 8, side // 8, generator=generator)
    texture = torch.nn.functional.interpolate(texture, size=(side, side), mode="bilinear")
    frames = texture.expand(count, -1, -1, -1) + 0.1 * torch.randn(
        count, 3, side, side, generator=generator
    )
    edge, prompts = side // 6, []
    for index in range(objects):
        x0, y0 = (index % 4) * side // 4 + side // 40, (index // 4) * side // 4 + side // 40
        colour = 2 * torch.randn(3, 1, 1, generator=generator)
        for t in range(count):
            shift = abs((t % 40) - 20) * side // 800
            frames[t, :, y0 : y0 + edge, x0 + shift : x0 + shift + edge] += colour
        first = x0 + 20 * side // 800
        prompts.append(
            Prompt.box(first / side, y0 / side, (first + edge) / side, (y0 + edge) / side)
        )
    return frames, prompts


def ours(segmenter: Segmenter, frames: Tensor, prompts: Sequence[Prompt]) -> Iterator[Tensor]:
    """Mask logits [N, 1, S, S] frame by frame."""
    tracker = OnlineTracker(segmenter, TrackerConfig(max_objects=max(16, len(prompts))))
    for index, prompt in enumerate(prompts):
        tracker.add(str(index), prompt)
    for frame in frames:
        with torch.inference_mode():
            pixels = frame[None].to(segmenter.device)
            seen = tracker.step(segmenter.encode_image(pixels))
            logits = segmenter.image_logits(torch.cat([one.logits for one in seen.values()]))
        yield logits  # outside, or whoever draws the frame computes in inference mode, and others after it


def race(
    contestants: dict[str, Iterator[Tensor]], frames: int, device: torch.device
) -> dict[str, Timing]:
    """Draws one frame from each in turn, and times it."""
    timings = {name: Timing() for name in contestants}
    for _ in range(frames):
        for name, contestant in contestants.items():
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            masks = next(contestant)
            synchronize(device)
            timings[name].wall.append((time.perf_counter() - wall) * 1e3)
            timings[name].cpu.append((time.process_time() - cpu) * 1e3)
            timings[name].masks.append((masks[:, 0] > 0).cpu())
    return timings


def compare(
    segmenter: Sam2,
    runtimes: dict[str, Runtime],
    frames: Tensor,
    prompts: Sequence[Prompt],
    *,
    against: bool = False,
    optimized: bool = True,
) -> dict[str, Timing]:
    """All profiles and, with `against`, the `sam2` predictor on one clip, interleaved frame by frame.

    Args:
        optimized: with `against` also the package's compiled variant, on a GPU; it compiles for minutes.
    """
    device = segmenter.device
    contestants: dict[str, Iterator[Tensor]] = {}
    if against:
        contestants["sam2"] = _within(_autocast(device), _stock(segmenter, frames, prompts, False))
        if optimized and traits_of(device).captures and has_triton():
            contestants["sam2 vos_optimized"] = _within(
                _autocast(device), _stock(segmenter, frames, prompts, True)
            )
    for name, runtime in runtimes.items():
        contestants[name] = ours(runtime.segmenter(segmenter), frames, prompts)
    return race(contestants, len(frames), device)


def _stock(
    segmenter: Sam2, frames: Tensor, prompts: Sequence[Prompt], optimized: bool
) -> Iterator[Tensor]:
    predictor = stock_predictor(segmenter, optimized=optimized)
    yield from propagate(predictor, frames.to(segmenter.device), prompts)


def _autocast(device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """The package's advice for CUDA: weights in float32, arithmetic in bfloat16."""
    if traits_of(device).captures:
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext


def _within(
    context: Callable[[], AbstractContextManager[object]], source: Iterator[Tensor]
) -> Iterator[Tensor]:
    """Draws from `source` inside the context, and hands over outside of it."""
    while True:
        try:
            with context():
                value = next(source)
        except StopIteration:
            return
        yield value


def agreement(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[float, float]:
    """(mean, smallest) IoU (J) of masks [N, S, S] over all objects and frames; two empty masks agree."""
    values = []
    for a, b in zip(one, other, strict=True):
        common, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
        values += torch.where(either > 0, common / either.clamp(min=1), 1.0).tolist()
    return float(np.mean(values)), float(np.min(values))


def stages(segmenter: Segmenter, frames: Tensor, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Median milliseconds of a frame's stages once memory is full: encode, attend, decode, remember.

    Args:
        segmenter: without graphs, in which nothing could be timed.
    """
    names = {
        "encode": "encode_image",
        "attend": "attend_memory",
        "decode": "decode",
        "remember": "encode_memory",
    }
    spent: dict[str, list[float]] = {name: [] for name in names}
    plain = {method: getattr(segmenter, method) for method in names.values()}

    def timed(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            synchronize(segmenter.device)
            begin = time.perf_counter()
            out = function(*args, **kwargs)
            synchronize(segmenter.device)
            spent[name].append((time.perf_counter() - begin) * 1e3)
            return out

        return call

    for name, method in names.items():
        object.__setattr__(segmenter, method, timed(name, plain[method]))
    try:
        for _ in ours(segmenter, frames, prompts):
            pass
    finally:
        for method in names.values():
            object.__delattr__(segmenter, method)
    return {name: float(np.median(values[len(values) // 2 :])) for name, values in spent.items()}


def soak(
    segmenter: Segmenter,
    count: int,
    tell: Callable[[int, float, float], None],
    *,
    objects: int = 4,
    change_every: int = 50,
) -> None:
    """A long run in which objects come and go.

    Args:
        count: frames.
        tell: called after every frame with its index, its milliseconds by the clock, and those on processors.
        objects: at once; every `change_every` frames the oldest is removed and a new one is added.
    """
    side = segmenter.config.image_size
    clip, prompts = moving_squares(40, side, objects)
    tracker = OnlineTracker(segmenter, TrackerConfig(max_objects=objects))
    born = 0
    for index in range(count):
        if index % change_every == 0:
            if len(tracker.ids) == objects:
                tracker.remove(tracker.ids[0])
            while len(tracker.ids) < objects:
                tracker.add(f"object {born}", prompts[born % objects])
                born += 1
        begin, spent = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            tracker.step(segmenter.encode_image(clip[index % len(clip)][None].to(segmenter.device)))
        synchronize(segmenter.device)
        elapsed = time.perf_counter() - begin, time.process_time() - spent
        tell(index, elapsed[0] * 1e3, elapsed[1] * 1e3)


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: of the device on CUDA, else of the process."""
    most = most_bytes(device)
    if most is not None:
        return most
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Memory that the process holds now; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_bytes(torch.device("cpu"))
    return int(statm.read_text().split()[1]) * resource.getpagesize()
