# SPDX-License-Identifier: Apache-2.0
"""How many GPUs a fleet needs: a queue with Poisson arrivals and measured service times, simulated.

    python benchmarks/fleet_plan.py --robots 1000 --each 0.1 --model 4b --target 0.5

`--each`: requests of one robot in a second: new sentences, searches for lost objects, checks (`verify_period` decides
these; 10 s for a fleet). A request costs `first` ms where the robot's pictures are new, `again` where they are those of
its last one (its prefix is kept). `fleet.py --open` compares the simulation with a real server.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ServiceTime:
    """Milliseconds of a request on one GPU: new pictures, the same again."""

    first: float
    again: float


# H200, five frames, random weights in bfloat16, middles of what docs/benchmarks.md ("On a GPU") has.
MEASURED = {
    "1b": ServiceTime(43.0, 25.0),
    "4b": ServiceTime(45.0, 37.0),
    "8b": ServiceTime(58.0, 38.0),
}
SPREAD = 0.15  # of a service time, as a share of it
BUSIEST = 0.9  # share of the time; above it the queue of a simulated hour has not settled
TRANSPORT = 0.015  # seconds: encoding five JPEGs, decoding them, two ways through a good Wi-Fi


def simulate(
    rate: float, samples: np.ndarray, *, servers: int, requests: int, seed: int = 0
) -> np.ndarray:
    """Seconds from arrival to answer, without transport.

    Args:
        rate: arrivals a second in all.
        samples: service times in seconds to draw from.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, requests))
    service = rng.choice(samples, requests)
    free = [0.0] * servers  # when each server is free
    out = np.empty(requests)
    for n, (came, needs) in enumerate(zip(arrivals, service, strict=True)):
        done = max(came, heapq.heappop(free)) + needs
        heapq.heappush(free, done)
        out[n] = done - came
    return out[requests // 10 :]  # the queue was empty at first


def gpus_needed(rate: float, samples: np.ndarray, target: float, requests: int = 20_000) -> int:
    """The fewest servers with which 95 of 100 answers come within `target` seconds."""
    servers = max(1, int(np.ceil(rate * samples.mean() / BUSIEST)))
    while np.percentile(simulate(rate, samples, servers=servers, requests=requests), 95) > target:
        servers += 1
    return servers


def service_samples(time: ServiceTime, again: float, count: int = 5000) -> np.ndarray:
    """Service times in seconds, of which the share `again` is about pictures that were seen."""
    rng = np.random.default_rng(1)
    base = np.where(rng.random(count) < again, time.again, time.first)
    return base * rng.lognormal(0, SPREAD, count) / 1e3


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--each", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--model", choices=MEASURED, nargs="+", default=list(MEASURED))
    parser.add_argument("--again", type=float, default=0.2, help="share with pictures seen before")
    parser.add_argument(
        "--target", type=float, default=0.5, help="seconds, p95, transport included"
    )
    args = parser.parse_args()
    print(
        "| model | robots | requests/s each | GPUs | p50 ms | p95 ms | busy |\n|---|---|---|---|---|---|---|"
    )
    for name in args.model:
        samples = service_samples(MEASURED[name], args.again)
        for robots in args.robots:
            for each in args.each:
                rate = robots * each
                gpus = gpus_needed(rate, samples, args.target - TRANSPORT)
                took = simulate(rate, samples, servers=gpus, requests=50_000) + TRANSPORT
                p50, p95 = np.percentile(took, (50, 95)) * 1e3
                busy = rate * samples.mean() / gpus
                print(
                    f"| {name} | {robots} | {each:g} | {gpus} | {p50:.0f} | {p95:.0f} | {busy:.0%} |"
                )


if __name__ == "__main__":
    main()
