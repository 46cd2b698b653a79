# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a run, in numbers that do not grow with it."""

from __future__ import annotations

import resource
import sys
from array import array
from pathlib import Path

import numpy as np

WARM_UP = 200  # frames before memory must be flat
SAMPLES = 16


def resident_mb() -> float:
    """Memory the process holds now, in MB (10^6 bytes)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return peak_mb()


def peak_mb() -> float:
    """The most memory the process has held, in MB; kernels count it in kB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class Slope:
    """Least-squares slope of y over x, from running sums."""

    def __init__(self) -> None:
        """Start without points."""
        self.count = 0
        self._mean_x = self._mean_y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """Take one point (Welford's update: no loss of digits far from the origin)."""
        self.count += 1
        dx = x - self._mean_x
        self._mean_x += dx / self.count
        self._mean_y += (y - self._mean_y) / self.count
        self._xx += dx * (x - self._mean_x)
        self._xy += dx * (y - self._mean_y)

    def value(self) -> float | None:
        """The slope; None from fewer than 20 points."""
        return self._xy / self._xx if self.count >= 20 else None


class Memory:
    """Resident memory frame by frame: its slope after the warm-up, and a few samples over the whole run."""

    def __init__(self) -> None:
        """Start at frame 0."""
        self._slope = Slope()
        self._samples: list[tuple[int, float]] = []
        self._every = 1

    def frame(self, index: int) -> None:
        """Measure after one frame."""
        now = resident_mb()
        if index >= WARM_UP:
            self._slope.add(index, now)
        if index % self._every == 0:
            self._samples.append((index, round(now, 2)))
            if len(self._samples) > SAMPLES:
                self._samples = self._samples[::2]
                self._every *= 2

    def report(self) -> dict[str, object]:
        """Peak, slope in kB (1000 bytes) a frame after the warm-up, and MB at some frames."""
        slope = self._slope.value()
        return {
            "peak_memory_mb": round(peak_mb(), 1),
            "rss_slope_kb_per_frame": None if slope is None else round(slope * 1000, 4),
            "rss_slope_frames": self._slope.count,
            "rss_mb": {str(index): value for index, value in self._samples},
        }


class Times:
    """Milliseconds of every step; eight bytes each."""

    def __init__(self) -> None:
        """Start empty."""
        self._values = array("d")

    def add(self, milliseconds: float) -> None:
        """Take one step."""
        self._values.append(milliseconds)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._values)

    def percentiles(self) -> dict[str, float | None]:
        """{p50, p95}; None without steps."""
        if not self._values:
            return {"p50": None, "p95": None}
        p50, p95 = np.percentile(np.frombuffer(self._values), [50, 95])
        return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}

    def median(self) -> float | None:
        """The median; None without steps."""
        return self.percentiles()["p50"]
