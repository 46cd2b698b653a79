#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The way of one tracked image through the house: files, rooms, and how often it crosses from one into another.

A crossing is a call from one file of the project into another one (calls through libraries count for the file that made
them). Rooms are folders of the project. Few crossings mean that a reader seldom has to open the next file.

    python tools/trace_image.py             # files and rooms, in the order of entry
    python tools/trace_image.py --calls     # and the crossings, most frequent first
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
CLIP = 0  # of the hard clips
WARM_UP = 4  # frames until nothing is done for the first time


class Trace:
    """What `sys.setprofile` reports, by files of the project.

    Attributes:
        files: in the order of entry; crossings: (from, to) and how often.
    """

    def __init__(self, root: Path) -> None:
        self._root = f"{root}/"
        self.files: dict[str, int] = {}
        self.crossings: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """One call or return."""
        if event != "call" or (here := self._file(frame)) is None:
            return
        self.files[here] = self.files.get(here, 0) + 1
        caller = frame.f_back
        while caller is not None and (there := self._file(caller)) is None:
            caller = caller.f_back
        if caller is not None and there != here and there is not None:
            self.crossings[there, here] += 1

    def _file(self, frame: FrameType) -> str | None:
        name = frame.f_code.co_filename
        inside = name.startswith(self._root) and not name.endswith("trace_image.py")
        return name[len(self._root) :] if inside and "/.venv/" not in name else None


def trace(root: Path = ROOT) -> Trace:
    """Follow a sentence with the model that ships; trace a frame after the object was found."""
    sys.path.insert(0, str(root))
    from sa2va_model.checkpoints.load import load_model
    from sa2va_model.io.frames import Frame
    from sa2va_model.tracking.live import LiveConfig, LiveTracker
    from sa2va_sim.hard_clips import hard_clip

    clip = hard_clip(CLIP)
    live = LiveTracker(load_model(), LiveConfig(verify_period=0))
    live.track(clip.expression)
    found = Trace(root)
    for number in range(WARM_UP + 1):
        frame = Frame(clip.rgb[number], number / 10, number)
        sys.setprofile(found if number == WARM_UP else None)
        result = live.process(frame)
        sys.setprofile(None)
    if not result.tracks or result.tracks[0].mask is None:
        raise SystemExit("the object was not followed; nothing to count")
    return found


def main() -> int:
    """Print the way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", action="store_true", help="list the crossings, too")
    arguments = parser.parse_args()
    found = trace()
    rooms: dict[str, list[str]] = {}
    for file in found.files:
        rooms.setdefault(str(Path(file).parent), []).append(Path(file).stem)
    between = sum(n for (a, b), n in found.crossings.items() if Path(a).parent != Path(b).parent)
    for room, files in rooms.items():
        print(f"{room + '/':<40} {' '.join(files)}")
    if arguments.calls:
        for (a, b), count in found.crossings.most_common():
            print(f"{count:5}  {a} -> {b}")
    print(
        f"{len(found.files)} files in {len(rooms)} rooms, {sum(found.crossings.values())} crossings between files, "
        f"{between} between rooms"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
