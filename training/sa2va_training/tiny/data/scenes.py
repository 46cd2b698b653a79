# SPDX-License-Identifier: Apache-2.0
"""Pictures and clips to disk, once, so that training never waits for a renderer.

    python -m sa2va_training.tiny.data.scenes flat train first=1000000 count=4000
    python -m sa2va_training.tiny.data.scenes sim-clips held first=0 count=100

A shard is a folder of memory-mapped arrays plus `expressions.json`, which is written last: a folder without it is
unfinished and is made again. A shard is a function of its kind, `first` and `count`; the expressions of a clip are
about its first frame. Seeds below 100,000 are held out, those of training start at 1,000,000.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_sim.catalogue.colours import NAMES
from sa2va_sim.catalogue.nouns import all_names, class_names
from sa2va_sim.painted.scene import flat_clip, flat_scene
from sa2va_sim.words.expressions import describe
from sa2va_sim.words.facts import LabelledImage, ObjectFact, measure
from sa2va_sim.words.vocabulary import SHAPES

SIZE = 256
MAX_OBJECTS = 10
CLIP_FRAMES = 8
HELD_SEEDS = 100_000
TRAIN_SEEDS = 1_000_000
ROOT = Path("runs/data")
# The last colour is that of things with no single one; the toy world's names come first.
COLOUR_NAMES, SHAPE_NAMES = (*NAMES, ""), class_names()

# Columns of the objects table.
PRESENT, COLOUR, SHAPE, BOX, VISIBLE, AREA, COLUMNS = 0, 1, 2, slice(3, 7), 7, 8, 9


@dataclass(frozen=True)
class ShardSpec:
    """What a shard holds.

    Attributes:
        kind: a key of `PICTURES` or `CLIPS`.
        split: "train" or "held".
        first: the first seed.
        count: pictures or clips.
        size: side of the pictures in pixels.
    """

    kind: str
    split: str
    first: int
    count: int
    size: int = SIZE

    def __post_init__(self) -> None:
        if self.kind not in (*PICTURES, *CLIPS):
            raise InputError(
                f"kind is {self.kind!r}; expected one of {', '.join((*PICTURES, *CLIPS))}"
            )
        held = self.first + self.count <= HELD_SEEDS
        if self.split not in ("train", "held") or (self.split == "held") != held:
            raise InputError(
                f"split is {self.split!r} for seeds {self.first}..; expected 'held' below {HELD_SEEDS}, "
                f"'train' from {TRAIN_SEEDS}"
            )

    @property
    def folder(self) -> Path:
        """Where the shard lies, below the data root."""
        return Path(self.kind) / self.split / f"{self.first}-{self.count}"


def crop_view(
    image: LabelledImage, rng: np.random.Generator, size: int, zoom: float = 0.6
) -> LabelledImage:
    """A part of a picture, squashed to the square as the model squashes wide frames; facts are measured anew.

    Args:
        zoom: the smallest part of the height or width that is kept.
    """
    height, width = image.instances.shape
    columns = max(8, round(width * rng.uniform(zoom, 1.0)))
    rows = max(8, round(height * rng.uniform(zoom, 1.0)))
    x, y = int(rng.integers(width - columns + 1)), int(rng.integers(height - rows + 1))
    window = np.s_[y : y + rows, x : x + columns]
    before = np.bincount(image.instances.ravel(), minlength=len(image.facts) + 1)
    cut = np.bincount(image.instances[window].ravel(), minlength=len(image.facts) + 1)
    kept = [float(cut[f.index + 1]) / max(float(before[f.index + 1]), 1.0) for f in image.facts]
    return _resized(image, image.rgb[window], image.instances[window], kept, size)


def squashed(image: LabelledImage, size: int) -> LabelledImage:
    """The whole picture at `size` x `size`."""
    return _resized(image, image.rgb, image.instances, [1.0] * len(image.facts), size)


def _resized(
    image: LabelledImage, rgb: np.ndarray, instances: np.ndarray, kept: Sequence[float], size: int
) -> LabelledImage:
    if rgb.shape[:2] != (size, size):
        rgb = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA)
        instances = cv2.resize(instances, (size, size), interpolation=cv2.INTER_NEAREST)
    seen = measure(instances, len(image.facts))
    facts = tuple(
        replace(fact, box=box, area=pixels / size**2, visible=fact.visible * share)
        for fact, (box, pixels), share in zip(image.facts, seen, kept, strict=True)
    )
    return LabelledImage(rgb, instances, facts)


def _flat_pictures(seed: int, size: int) -> Iterator[LabelledImage]:
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        yield flat_scene(rng, size)
    else:
        yield crop_view(flat_scene(rng, size * 4 // 3), rng, size)


def _sim_pictures(seed: int, size: int) -> Iterator[LabelledImage]:
    from sa2va_sim.simulator import render_labelled

    rng = np.random.default_rng(seed)
    image = render_labelled(seed, size * 4 // 3)
    yield squashed(image, size)
    if seed >= TRAIN_SEEDS:  # a render is dear, another view of it is not
        yield crop_view(image, rng, size)


def _things_pictures(seed: int, size: int) -> Iterator[LabelledImage]:
    from sa2va_sim.catalogue.room import render_things

    rng = np.random.default_rng(seed)
    image = render_things(seed, "train" if seed >= TRAIN_SEEDS else "all", size * 4 // 3)
    yield squashed(image, size)
    if seed >= TRAIN_SEEDS:
        yield crop_view(image, rng, size)


def _flat_clips(seed: int, size: int) -> list[LabelledImage]:
    return flat_clip(np.random.default_rng(seed), size, CLIP_FRAMES)


def _sim_clips(seed: int, size: int) -> list[LabelledImage]:
    from sa2va_sim.simulator import sim_clip

    return sim_clip(seed, CLIP_FRAMES, size)


def _things_clips(seed: int, size: int) -> list[LabelledImage]:
    from sa2va_sim.catalogue.room import things_clip

    return things_clip(seed, CLIP_FRAMES, size, "train" if seed >= TRAIN_SEEDS else "all")


PICTURES: dict[str, Callable[[int, int], Iterator[LabelledImage]]] = {
    "flat": _flat_pictures,
    "sim": _sim_pictures,
    "things": _things_pictures,
}
CLIPS: dict[str, Callable[[int, int], list[LabelledImage]]] = {
    "flat-clips": _flat_clips,
    "sim-clips": _sim_clips,
    "things-clips": _things_clips,
}


def object_table(facts: Sequence[ObjectFact]) -> np.ndarray:
    """float32 [MAX_OBJECTS, COLUMNS]; boxes as (cx, cy, w, h) in 0..1; rows of unseen objects are zero."""
    table = np.zeros((MAX_OBJECTS, COLUMNS), np.float32)
    for fact in facts:
        if fact.area > 0:
            x0, y0, x1, y1 = fact.box
            box = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
            names = (COLOUR_NAMES.index(fact.colour), SHAPE_NAMES.index(fact.shape))
            table[fact.index] = (1, *names, *box, fact.visible, fact.area)
    return table


def _expressions(image: LabelledImage, seed: int, kind: str) -> list[tuple[str, str, int]]:
    names = all_names() if kind.startswith("things") else SHAPES
    rng = np.random.default_rng([seed, 1])
    found = describe(image.facts, rng, 24, motion=False, shapes=names)
    return [(e.text, e.kind, -1 if e.target is None else e.target) for e in found]


def _views(spec: ShardSpec) -> Iterator[tuple[int, LabelledImage]]:
    seed = spec.first
    while True:
        for view in PICTURES[spec.kind](seed, spec.size):
            if len(view.facts) <= MAX_OBJECTS:
                yield seed, view
        seed += 1


def write_shard(spec: ShardSpec, root: Path = ROOT) -> Path:
    """Renders a shard if it is not there yet; returns its folder."""
    folder = root / spec.folder
    done = folder / "expressions.json"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    frames = (CLIP_FRAMES,) if spec.kind in CLIPS else ()
    shapes = {
        "rgb": ((spec.count, *frames, spec.size, spec.size, 3), np.uint8),
        "instances": ((spec.count, *frames, spec.size, spec.size), np.uint8),
        "objects": ((spec.count, *frames, MAX_OBJECTS, COLUMNS), np.float32),
    }
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
        for name, (shape, kind) in shapes.items()
    }
    texts: list[list[tuple[str, str, int]]] = []
    start = time.monotonic()
    if spec.kind in CLIPS:
        for i in range(spec.count):
            clip = CLIPS[spec.kind](spec.first + i, spec.size)
            for t, image in enumerate(clip):
                _store(arrays, (i, t), image)
            texts.append(_expressions(clip[0], spec.first + i, spec.kind))
    else:
        views = _views(spec)
        while len(texts) < spec.count:
            seed, image = next(views)
            expressions = _expressions(image, seed, spec.kind)
            if any(target >= 0 for _, _, target in expressions):
                _store(arrays, (len(texts),), image)
                texts.append(expressions)
    for array in arrays.values():
        array.flush()
    done.write_text(json.dumps(texts))
    rate = spec.count / (time.monotonic() - start)
    print(f"{folder}: {spec.count} made, {rate:.1f}/s")  # noqa: T201
    return folder


def _store(arrays: Mapping[str, np.ndarray], place: tuple[int, ...], image: LabelledImage) -> None:
    arrays["rgb"][place] = image.rgb
    arrays["instances"][place] = image.instances
    arrays["objects"][place] = object_table(image.facts)


def main(arguments: Sequence[str]) -> int:
    """`KIND SPLIT first=N count=N [root=DIR]`."""
    cv2.setNumThreads(1)
    kind, split, *rest = arguments
    values = dict(item.split("=", 1) for item in rest)
    spec = ShardSpec(kind, split, int(values["first"]), int(values["count"]))
    write_shard(spec, Path(values.get("root", ROOT)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
