# SPDX-License-Identifier: Apache-2.0
"""Finds what a sentence means in pictures and keeps it in view: the public names.

Everything else in this package is internal. Names are imported when they are first used, so that a program can import
the package, and read results, before torch is there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sa2va_model.checkpoints.load import load_model
    from sa2va_model.errors import InputError
    from sa2va_model.io.frames import Frame, open_source
    from sa2va_model.io.overlay import draw_overlay
    from sa2va_model.keyframes import KeyframeChoice
    from sa2va_model.regions import Region
    from sa2va_model.results import Answer, Segmentation, Turn
    from sa2va_model.sa2va import Sa2VA
    from sa2va_model.tracking.by_example.example import ObjectExample, ObjectView, read_example
    from sa2va_model.tracking.config import LiveConfig
    from sa2va_model.tracking.live import LiveTracker
    from sa2va_model.tracks import Event, EventKind, FrameResult, Reason, Track, TrackState

__all__ = [
    "Answer",
    "Event",
    "EventKind",
    "Frame",
    "FrameResult",
    "InputError",
    "KeyframeChoice",
    "LiveConfig",
    "LiveTracker",
    "ObjectExample",
    "ObjectView",
    "Reason",
    "Region",
    "Sa2VA",
    "Segmentation",
    "Track",
    "TrackState",
    "Turn",
    "draw_overlay",
    "load_model",
    "open_source",
    "read_example",
]

_MODULES = {
    "checkpoints.load": ("load_model",),
    "errors": ("InputError",),
    "io.frames": ("Frame", "open_source"),
    "io.overlay": ("draw_overlay",),
    "keyframes": ("KeyframeChoice",),
    "regions": ("Region",),
    "results": ("Answer", "Segmentation", "Turn"),
    "sa2va": ("Sa2VA",),
    "tracking.by_example.example": ("ObjectExample", "ObjectView", "read_example"),
    "tracking.config": ("LiveConfig",),
    "tracking.live": ("LiveTracker",),
    "tracks": ("Event", "EventKind", "FrameResult", "Reason", "Track", "TrackState"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
