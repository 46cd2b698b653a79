# SPDX-License-Identifier: Apache-2.0
"""How well "every red mug" is counted: rendered tables with one to five of a kind, followed as live tracks.

    python benchmarks/every_instance.py --scenes 100
    python benchmarks/every_instance.py --scenes 20 --model FOLDER --json out.json

No GPU. Each scene is shown for some frames; what lives at the end is compared with what is there: the count is right,
or all masks are (IoU above .5, one to one); Ctrl-C ends early. `every_crossing.py` asks whether ids stay.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sa2va_model import Frame, LiveConfig, LiveTracker, Sa2VA, TrackState, load_model
from sa2va_model.checkpoints.load import SHIPPED
from sa2va_sim.crowd import crowd_scene, crowd_world
from sa2va_sim.layout import SEEDS_PER_WORLD, Scene
from sa2va_sim.simulator import Simulator
from sa2va_sim.words.facts import ObjectFact, is_referable, seen
from sa2va_sim.words.plurals import MIN_AREA, MIN_VISIBLE
from sa2va_sim.world import World

FIRST = 900_000
FRAMES = 10


@dataclass(frozen=True)
class Case:
    """A picture with `len(truth)` things of one kind.

    Attributes:
        rgb: uint8 [H, W, 3].
        words: of the kind, "red mug".
        truth: their masks, bool [H, W].
    """

    rgb: np.ndarray
    words: str
    truth: list[np.ndarray]


def cases(count: int, first: int = FIRST) -> Iterator[Case]:
    """As many scenes of one to five of a kind each; things have one of two colours, so that kinds repeat.

    The usual stock has at most four things of a shape; fives come last, from rooms with fewer shapes.
    """
    wanted = dict.fromkeys(range(1, 6), -(-count // 5))
    simulator: Simulator | None = None
    seed = first
    while any(wanted.values()):
        seed += 1
        usual = any(wanted[n] for n in range(1, 5))
        scene = crowd_scene(seed, None if usual else _room(seed // SEEDS_PER_WORLD))
        if not any(wanted[n] for n in range(1, _most_alike(scene) + 1)):
            continue
        if simulator is None or simulator.scene.world is not scene.world:
            if simulator is not None:
                simulator.close()
            simulator = Simulator(scene)
        else:
            simulator.arrange(scene)
        frame = simulator.render()
        for words, group in _kinds(seen(frame.facts)):
            if wanted.get(len(group), 0):
                wanted[len(group)] -= 1
                yield Case(frame.rgb, words, [frame.instances == fact.index + 1 for fact in group])
                break


@lru_cache(maxsize=1)
def _room(number: int) -> World:
    return crowd_world(number)


def _most_alike(scene: Scene) -> int:
    """How many things of one shape there are at most (up to 5), seen or not: a scene with fewer is not rendered."""
    shapes = Counter(scene.world.stock[item.slot].shape for item in scene.items)
    return min(max(shapes.values()), 5)


def _kinds(present: list[ObjectFact]) -> list[tuple[str, list[ObjectFact]]]:
    """Kinds of which all can be seen well, those with most members first."""
    kinds: dict[str, list[ObjectFact]] = defaultdict(list)
    for fact in present:
        for words in {fact.shape, f"{fact.colour} {fact.shape}".strip()}:
            kinds[words].append(fact)
    clear = [
        (words, group)
        for words, group in kinds.items()
        if all(is_referable(fact, MIN_VISIBLE, MIN_AREA) for fact in group)
    ]
    return sorted(clear, key=lambda kind: (-len(kind[1]), kind[0]))


def followed(model: Sa2VA, case: Case) -> list[np.ndarray]:
    """The masks that live after some frames of one picture."""
    live = LiveTracker(model, LiveConfig(verify_period=0))
    live.track(f"every {case.words}")
    results = [live.process(Frame(case.rgb, 0.1 * k, k)) for k in range(FRAMES)]
    live.close()
    tracks = [t for t in results[-1].tracks if t.state == TrackState.TRACKING]
    return [track.mask for track in tracks if track.mask is not None]


def matched(masks: list[np.ndarray], truth: list[np.ndarray]) -> int:
    """How many of the truth have a mask of their own."""
    left, hits = list(masks), 0
    for mask in truth:
        ious = [(mask & other).sum() / (mask | other).sum() for other in left]
        if ious and max(ious) > 0.5:
            left.pop(int(np.argmax(ious)))
            hits += 1
    return hits


def main() -> None:
    """Count, and print a table by how many there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--first", type=int, default=FIRST, help="seed before the first scene")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = load_model(given.model)
    assert isinstance(model, Sa2VA)
    rows: dict[int, list[tuple[bool, bool, int, int]]] = defaultdict(list)
    scenes = cases(given.scenes, given.first)
    with suppress(
        KeyboardInterrupt
    ):  # tables with five of a kind are rare: what was measured is told
        for case in tqdm(scenes, total=5 * -(-given.scenes // 5), unit="scene"):
            masks = followed(model, case)
            hits, n = matched(masks, case.truth), len(case.truth)
            rows[n].append((len(masks) == n, hits == n == len(masks), hits, len(masks)))
    table: dict[str, dict[str, float]] = {}
    for n in sorted(rows):
        right, whole, hits, found = np.array(rows[n], float).T
        table[str(n)] = {
            "scenes": len(right),
            "count_right": round(float(right.mean()), 3),
            "all_right": round(float(whole.mean()), 3),
            "recall": round(float(hits.sum() / (n * len(hits))), 3),
            "precision": round(float(hits.sum() / max(found.sum(), 1)), 3),
        }
        print(n, table[str(n)])
    if everything := [row for group in rows.values() for row in group]:
        table["all"] = {"count_right": round(float(np.mean([row[0] for row in everything])), 3)}
        print("all", table["all"])
    if given.json:
        given.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
