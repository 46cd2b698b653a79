# SPDX-License-Identifier: Apache-2.0
"""Whether ids outlive a crossing: two of a kind change places within 100 frames, one passing in front of the other.

    python benchmarks/every_crossing.py --films 24
    python benchmarks/every_crossing.py --films 24 --model FOLDER --json out.json

No GPU. Films come in turns of three sorts: two equal things (`equal`), one of them four fifths as large (`size`), and
two of one shape and colour with proportions and patterns of their own (`alike`). Both are seen well at both ends and
one is half hidden at least between. "every ball" is followed through a film, or with --from-masks what the true masks
of the first frame show: then nothing hangs on the finding. An id belongs to the thing that
it lay on first; counted are the things

    given     that got an id before they crossed
    kept      whose id lies on them at the end (IoU above .5)
    swapped   whose id lies on the other one at the end
    together  mean share of the frames on which two ids lie on one thing
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sa2va_model import Frame, LiveConfig, LiveTracker, Sa2VA, load_model
from sa2va_model.checkpoints.load import SHIPPED
from sa2va_sim.assets.objects import build_object
from sa2va_sim.layout import Motion, Scene, SceneConfig
from sa2va_sim.scene import sample_scene
from sa2va_sim.simulator import SimFrame, Simulator
from sa2va_sim.words.facts import is_referable
from sa2va_sim.words.vocabulary import SHAPES
from sa2va_sim.world import World, sample_world

FIRST = 990_000
FRAMES, PERIOD = 100, 0.1
SIZE = 320, 240
SORTS = {"equal": 1.0, "size": 0.8, "alike": 0.0}  # factor on the other one's size; 0 = made anew
HIDDEN = 0.5  # visible at most, of the one behind
OTHERS = 3  # slots before the pair's
MIN_AREA = 0.012  # of the picture, at both ends: some 28 pixels of 256 a side


@dataclass(frozen=True)
class Film:
    """What a camera saw of two of a kind.

    Attributes:
        shape: what they are called.
        pair: their numbers in the scene.
    """

    sort: str
    shape: str
    pair: tuple[int, int]
    frames: list[SimFrame]


def films(count: int, first: int = FIRST) -> Iterator[Film]:
    """As many films; a function of their numbers."""
    seed, made = first, 0
    while made < count:
        seed += 1
        film = _film(seed, list(SORTS)[made % len(SORTS)])
        if film is not None:
            made += 1
            yield film


def _film(seed: int, sort: str) -> Film | None:
    shape, world = _room(seed, sort)
    simulator: Simulator | None = None
    for k in range(40):
        scene = sample_scene(seed * 100 + k, SceneConfig(objects=(3, 5), camera="fixed"), world)
        slots = [item.slot for item in scene.items]
        if not {OTHERS, OTHERS + 1} <= set(slots):
            continue
        pair = slots.index(OTHERS), slots.index(OTHERS + 1)
        scene = _crossing(scene, pair)
        simulator = simulator or Simulator(scene, *SIZE)
        simulator.arrange(scene)
        if _is_clear(simulator, pair):
            break
    else:
        if simulator is not None:
            simulator.close()
        return None
    simulator.arrange(scene)
    frames = []
    for _ in range(FRAMES):
        frames.append(simulator.render())
        simulator.step(PERIOD)
    simulator.close()
    return Film(sort, shape, pair, frames)


def _room(seed: int, sort: str) -> tuple[str, World]:
    """A room with three other things and the pair."""
    rng = np.random.default_rng([seed, 7])
    shape = str(rng.choice(SHAPES))
    others = rng.choice([s for s in SHAPES if s != shape], OTHERS, replace=False)
    same, scale = SORTS[sort], float(rng.uniform(0.9, 1.3))
    one = build_object(shape, np.random.default_rng([seed, 8]), scale)
    other = build_object(
        shape, np.random.default_rng([seed, 8 if same else 9]), scale * (same or 1.0)
    )
    world = sample_world([seed, 3], shapes=tuple(map(str, others)), extra=(one, other))
    if same:
        world.textures[f"pattern_{OTHERS + 1}"] = world.textures[f"pattern_{OTHERS}"]
    return shape, world


def _crossing(scene: Scene, pair: tuple[int, int]) -> Scene:
    """Let two things of a scene change places; they pass each other at arm's length."""
    items, seconds = list(scene.items), PERIOD * FRAMES
    start, end = (np.asarray(items[n].position) for n in pair)
    aside = np.cross(end - start, [0, 0, 1.0])
    aside *= 0.7 * sum(scene.world.stock[items[n].slot].radius for n in pair)
    aside /= max(float(np.linalg.norm(end - start)), 1e-6)
    for n, here, there, side in ((pair[0], start, end, aside), (pair[1], end, start, -aside)):
        way = [tuple(p.tolist()) for p in (here, (here + there) / 2 + side, there)]
        motion = Motion((0.0, seconds / 2, seconds), (way[0], way[1], way[2]), (0.0, 0.4, 0.8))
        colours = {"colour": items[pair[0]].colour, "rgb": items[pair[0]].rgb}
        items[n] = replace(items[n], motion=motion, moving=True, **colours)
    return replace(scene, items=tuple(items))


def _is_clear(simulator: Simulator, pair: tuple[int, int]) -> bool:
    """Whether both are seen well at both ends, and one hides the other between."""
    last, least = 0.0, 1.0
    for time in (0.0, 4.0, 4.5, 5.0, 5.5, 6.0, PERIOD * (FRAMES - 1)):
        simulator.step(time - last)
        last = time
        facts = [simulator.render().facts[n] for n in pair]
        least = min(least, *(fact.visible for fact in facts))
        if time in (0.0, PERIOD * (FRAMES - 1)) and not all(
            is_referable(fact, 0.7, MIN_AREA) for fact in facts
        ):
            return False
    return least <= HIDDEN


@dataclass(frozen=True)
class Ids:
    """What became of the two things' ids; see above."""

    given: int
    kept: int
    swapped: int
    together: float


def follow(model: Sa2VA, film: Film, *, from_masks: bool = False) -> Ids:
    """Follow "every ball" through a film."""
    live, words = LiveTracker(model, LiveConfig()), f"every {film.shape}"
    if from_masks:
        for n in film.pair:
            live.prompt(mask=film.frames[0].instances == n + 1, label=words)
    else:
        live.track(words)
    owner: dict[str, int] = {}
    now: dict[str, int] = {}
    shared = 0
    for k, frame in enumerate(film.frames):
        tracks = live.process(Frame(frame.rgb, PERIOD * k, k)).tracks
        now = {}
        for track in tracks:
            if track.mask is not None and (thing := _lies_on(track.mask, frame)) is not None:
                now[track.id] = thing
                if k < FRAMES // 2:
                    owner.setdefault(track.id, thing)
        shared += len(set(now.values())) < len(now)
    live.close()
    mine = {track: thing for track, thing in owner.items() if thing in film.pair}
    kept = {mine[track] for track in mine if now.get(track) == mine[track]}
    swapped = {mine[t] for t in mine if now.get(t, mine[t]) in set(film.pair) - {mine[t]}}
    return Ids(len(set(mine.values())), len(kept), len(swapped - kept), shared / FRAMES)


def _lies_on(mask: np.ndarray, frame: SimFrame) -> int | None:
    """The thing that a mask lies on (IoU above .5)."""
    for n in range(len(frame.facts)):
        thing = frame.instances == n + 1
        if (mask & thing).sum() > 0.5 * (mask | thing).sum():
            return n
    return None


def main() -> None:
    """Follow films, and print a table by their sort."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--films", type=int, default=24)
    parser.add_argument("--first", type=int, default=FIRST, help="seed before the first film")
    parser.add_argument("--from-masks", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = load_model(given.model)
    assert isinstance(model, Sa2VA)
    rows: dict[str, list[Ids]] = defaultdict(list)
    with suppress(KeyboardInterrupt):  # what was measured is told
        for film in tqdm(films(given.films, given.first), total=given.films, unit="film"):
            rows[film.sort].append(follow(model, film, from_masks=given.from_masks))
    table = {}
    for sort, told in [*rows.items(), ("all", [ids for group in rows.values() for ids in group])]:
        things = 2 * len(told)
        table[sort] = {
            "films": len(told),
            "given": round(sum(ids.given for ids in told) / max(things, 1), 3),
            "kept": round(sum(ids.kept for ids in told) / max(things, 1), 3),
            "swapped": round(sum(ids.swapped for ids in told) / max(things, 1), 3),
            "together": round(sum(ids.together for ids in told) / max(len(told), 1), 3),
        }
        print(sort, table[sort])
    if given.json:
        given.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
