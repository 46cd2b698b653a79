# SPDX-License-Identifier: Apache-2.0
"""Found again by a picture: an object shown in one room is looked for in another, beside things that look like it.

    python benchmarks/by_example.py --pairs 100
    python benchmarks/by_example.py --pairs 20 --twins --json out.json

No GPU. A pair is a photo with a box around an object, and two streams in another room, in another light, from a moving
camera: with the object (other pose and place), and without it. In both there are a thing of the same shape in another
colour and a thing of the same colour in another shape; with --twins the first has the same colour, too, and differs in
size and pattern alone. The same is done with words alone ("the red mug"). Counted:

    found       the last frame has a mask on the object (IoU above .5)
    look-alike  some frame has a mask on a look-alike
    other       some frame has a mask on anything else
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sa2va_model import Frame, LiveConfig, LiveTracker, Sa2VA, load_model
from sa2va_model.checkpoints.load import SHIPPED
from sa2va_sim.layout import Item, Scene, SceneConfig
from sa2va_sim.scene import sample_scene
from sa2va_sim.simulator import SimFrame, Simulator
from sa2va_sim.words.vocabulary import COLOURS, SHAPES, sample_colour
from sa2va_sim.world import World, sample_world

FIRST = 5000  # the thresholds were chosen on pairs 2000 to 2199
FRAMES = 8
PERIOD = 0.1
PHOTO = SceneConfig(objects=(2, 5), camera="fixed")
STREAM = SceneConfig(objects=(5, 8), camera="any", seconds=2.0)
TRIES = 400


@dataclass(frozen=True)
class Stream:
    """What a camera saw.

    Attributes:
        target: number of the object in the scene; None = it is not there.
        alike: numbers of the things that look like it.
    """

    frames: list[SimFrame]
    target: int | None
    alike: tuple[int, ...]


@dataclass(frozen=True)
class ExamplePair:
    """A photo of an object, and streams with and without it.

    Attributes:
        words: "red mug".
        photo: uint8 [H, W, 3]; `box`: around the object, pixels.
    """

    words: str
    photo: np.ndarray
    box: tuple[int, int, int, int]
    streams: dict[str, Stream]


def pairs(first: int, count: int, *, twins: bool) -> Iterator[ExamplePair]:
    """As many pairs; a function of their numbers."""
    number = first
    while count:
        made = _pair(number, twins=twins)
        number += 1
        if made is not None:
            count -= 1
            yield made


def _pair(number: int, *, twins: bool) -> ExamplePair | None:
    rng = np.random.default_rng([number, 0xE8A])
    room = sample_world([number, 1])
    taken = _photo(number, room, rng)
    if taken is None:
        return None
    photo, index, item = taken
    model = room.stock[item.slot]
    rows, columns = np.nonzero(photo.instances == index + 1)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    others = [shape for shape in SHAPES if shape != model.shape]
    shapes = (model.shape, *(str(shape) for shape in rng.choice(others, 6)))
    elsewhere = sample_world([number, 2], shapes=shapes, extra=(model,))
    mine = len(elsewhere.stock) - 1
    elsewhere.textures[f"pattern_{mine}"] = room.textures[f"pattern_{item.slot}"]
    streams = _streams(number, elsewhere, mine, item, rng, twins=twins)
    if streams is None:
        return None
    return ExamplePair(f"{item.colour} {model.shape}", photo.rgb, box, streams)


def _photo(number: int, room: World, rng: np.random.Generator) -> tuple[SimFrame, int, Item] | None:
    """A picture, and an object on it that is seen well and may have any colour."""
    simulator = Simulator(sample_scene(number * 1000, PHOTO, room))
    try:
        for k in range(60):
            scene = sample_scene(number * 1000 + k, PHOTO, room)
            simulator.arrange(scene)
            frame = simulator.render()
            clear = [
                fact.index
                for fact in frame.facts
                if fact.visible > 0.8
                and 0.01 < fact.area < 0.2
                and room.stock[scene.items[fact.index].slot].colour is None
            ]
            if clear:
                index = clear[int(rng.integers(len(clear)))]
                return frame, index, scene.items[index]
        return None
    finally:
        simulator.close()


def _streams(
    number: int, room: World, mine: int, shown: Item, rng: np.random.Generator, *, twins: bool
) -> dict[str, Stream] | None:
    """The first scenes in which the object and its look-alikes are seen well on all frames."""
    simulator: Simulator | None = None
    try:
        for k in range(TRIES):
            scene = sample_scene(number * 1000 + 100 + k, STREAM, room)
            found = _with_look_alikes(scene, mine, shown, rng, twins=twins)
            if found is None:
                continue
            scene, target, alike = found
            simulator = simulator or Simulator(scene)
            frames = _filmed(simulator, scene)
            if not (_clear(frames, target, 0.004, 0.5) and _clear(frames, alike[0], 0.003, 0.4)):
                continue
            rest = tuple(item for n, item in enumerate(scene.items) if n != target)
            without = _filmed(simulator, replace(scene, items=rest))
            left = tuple(n - (n > target) for n in alike)
            return {
                "present": Stream(frames, target, alike),
                "absent": Stream(without, None, left),
            }
        return None
    finally:
        if simulator is not None:
            simulator.close()


def _with_look_alikes(
    scene: Scene, mine: int, shown: Item, rng: np.random.Generator, *, twins: bool
) -> tuple[Scene, int, tuple[int, int]] | None:
    """The scene with the shown object, a thing of its shape and one of its colour; None if it lacks one."""
    stock, items = scene.world.stock, list(scene.items)
    slots = [item.slot for item in items]
    if mine not in slots or 0 not in slots:  # slot 0 has the same shape
        return None
    target, same_shape = slots.index(mine), slots.index(0)
    rest = [
        n
        for n, item in enumerate(items)
        if n not in (target, same_shape) and stock[item.slot].colour is None
    ]
    if not rest:
        return None
    items[target] = replace(items[target], colour=shown.colour, rgb=shown.rgb)
    others = [colour for colour in COLOURS if colour != shown.colour]
    other = shown.colour if twins else str(rng.choice(others))
    items[same_shape] = _painted(items[same_shape], other, rng)
    same_colour = int(rng.choice(rest))
    for n in rest:
        if n == same_colour:
            items[n] = _painted(items[n], shown.colour, rng)
        elif items[n].colour == shown.colour:
            items[n] = _painted(items[n], str(rng.choice(others)), rng)
    return replace(scene, items=tuple(items)), target, (same_shape, same_colour)


def _painted(item: Item, colour: str, rng: np.random.Generator) -> Item:
    red, green, blue = (sample_colour(rng, colour) / 255.0).tolist()
    return replace(item, colour=colour, rgb=(red, green, blue))


def _filmed(simulator: Simulator, scene: Scene) -> list[SimFrame]:
    simulator.arrange(scene)
    frames = []
    for _ in range(FRAMES):
        frames.append(simulator.render())
        simulator.step(PERIOD)
    return frames


def _clear(frames: list[SimFrame], index: int, area: float, visible: float) -> bool:
    facts = [frame.facts[index] for frame in frames]
    return all(fact.area > area and fact.visible > visible for fact in facts)


def by_example(live: LiveTracker, pair: ExamplePair) -> None:
    """Show the photo and the box."""
    live.prompt(box=pair.box, image=pair.photo)


def by_words(live: LiveTracker, pair: ExamplePair) -> None:
    """Say what it is."""
    live.track(f"the {pair.words}")


def outcome(
    model: Sa2VA, ask: Callable[[LiveTracker, ExamplePair], None], pair: ExamplePair, stream: Stream
) -> dict[str, bool]:
    """What became of one request on one stream."""
    live = LiveTracker(model, LiveConfig())
    ask(live, pair)
    told, found = {"look-alike": False, "other": False}, False
    for k, frame in enumerate(stream.frames):
        tracks = live.process(Frame(frame.rgb, PERIOD * k, k)).tracks
        found = False
        for track in tracks:
            if track.mask is None:
                continue
            index, overlap = _nearest(track.mask, frame)
            if index == stream.target:
                found = overlap > 0.5
            else:
                told["look-alike" if index in stream.alike else "other"] = True
    live.close()
    return {"found": found, **told}


def _nearest(mask: np.ndarray, frame: SimFrame) -> tuple[int | None, float]:
    """The object that a mask overlaps most, and their IoU."""
    best: tuple[int | None, float] = (None, 0.0)
    for index in range(len(frame.facts)):
        own = frame.instances == index + 1
        overlap = float((mask & own).sum() / max((mask | own).sum(), 1))
        best = max(best, (index, overlap), key=lambda pair: pair[1])
    return best


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--first", type=int, default=FIRST)
    parser.add_argument("--twins", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = load_model(given.model)
    assert isinstance(model, Sa2VA)
    rows: dict[str, list[dict[str, bool]]] = defaultdict(list)
    made = pairs(given.first, given.pairs, twins=given.twins)
    with suppress(KeyboardInterrupt):  # what was measured is told
        for pair in tqdm(made, total=given.pairs, unit="pair"):
            for name, ask in (("example", by_example), ("words", by_words)):
                for kind, stream in pair.streams.items():
                    rows[f"{name}, {kind}"].append(outcome(model, ask, pair, stream))
    table = {
        name: {key: round(float(np.mean([o[key] for o in told])), 3) for key in told[0]}
        for name, told in rows.items()
    }
    for name, values in table.items():
        print(f"{name:18s} " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    if given.json:
        given.json.write_text(
            json.dumps({"pairs": max(map(len, rows.values()), default=0), **table}, indent=1)
        )


if __name__ == "__main__":
    main()
