# SPDX-License-Identifier: Apache-2.0
"""Do several robots in one forward pay? Questions one by one and together in turns, in one process, without a server.

    OMP_NUM_THREADS=1 python benchmarks/fleet_together.py --robots 32 --together 8

Both ways answer the same questions one right after the other, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict

import torch
from fleet import SENTENCES, STAY, pictures

from sa2va_model.checkpoints.load import load_model, suit_threads
from sa2va_model.freed_memory import keep_freed_memory

ROUNDS = 12


def main() -> None:
    """Run and print one JSON: processor ms of a question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, default=32)
    parser.add_argument("--together", type=int, default=8)
    args = parser.parse_args()
    keep_freed_memory()
    model = load_model(device="cpu")
    suit_threads(model)
    shown = pictures()
    alone, joined = ([model.new_session() for _ in range(args.robots)] for _ in range(2))
    before: list[int | None] = [None] * args.robots
    spent: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    furthest = 0.0
    for n in range(ROUNDS):
        now = [(robot + (n + robot) // STAY) % len(shown) for robot in range(args.robots)]
        for kind in ("new picture", "known picture"):
            waiting = [r for r in range(args.robots) if (before[r] == now[r]) == (kind[0] == "k")]
            for first in range(0, len(waiting), args.together):
                group = waiting[first : first + args.together]
                asked = [([shown[now[r]][0]], shown[now[r]][1][n % SENTENCES]) for r in group]
                start = time.thread_time()
                one_by_one = []
                for robot, (frames, words) in zip(group, asked, strict=True):
                    with model.reading(alone[robot]):
                        one_by_one.append(model.ground(frames, words).embeddings)
                middle = time.thread_time()
                together = model.ground_together(
                    [(joined[r], f, [w]) for r, (f, w) in zip(group, asked, strict=True)]
                )
                end = time.thread_time()
                furthest = max(
                    furthest,
                    *(
                        float((a - b[0].embeddings).abs().max()) if len(a) else 0.0
                        for a, b in zip(one_by_one, together, strict=True)
                    ),
                )
                if n and len(group) > 1:
                    spent[kind, "one by one"] += [(middle - start) / len(group)] * len(group)
                    spent[kind, "together"] += [(end - middle) / len(group)] * len(group)
        before = list(now)
    means = {
        f"{kind}, {way}": round(1e3 * sum(values) / len(values), 2)
        for (kind, way), values in sorted(spent.items())
    }
    print(
        json.dumps(
            {
                "processor ms of a question": means,
                "largest difference of an embedding": furthest,
                "load": round(os.getloadavg()[0], 1),
                "threads": torch.get_num_threads(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
