# SPDX-License-Identifier: Apache-2.0
"""What the node's numbers mean: fine, a warning, or an error, with the reason. Pure logic, no ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

MANY = 5  # images in a row that cannot be used: no accident
ENOUGH_3D = 0.98  # share of the images with 3D, of those that could have it


class Level(IntEnum):
    """As in `diagnostic_msgs/DiagnosticStatus`."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Finding:
    """One line of the diagnostics."""

    name: str
    level: Level
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Readings:
    """What was read at one moment; counters are those since the readings before.

    Attributes:
        loaded, active: of the lifecycle; `problem`: why loading failed, or "".
        silence: seconds since the last image; NaN = none since activation.
        image_timeout: seconds without an image that are a warning.
        received, processed, dropped, rejected, skipped: images.
        rejected_in_row: images since the last one that could be used.
        reason: why the last image was rejected.
        latency_p50, latency_p95, overhead_p50, overhead_p95, step_p95, first_mask: seconds; NaN = not known.
        latency_warning: seconds from which on p95 is a warning; 0 = never.
        depth_wanted: somebody listens to 3D results, or has got some.
        depth_problem: why an image had no 3D, the last time, or "".
        depth_median: metres, of the last depth image that was used: a wrong unit shows here.
        depth_images: images with a mask on which 3D was wanted; `depth_found`: of these, those that have it.
        failures: questions to the language model that ended with an error.
        failure: the last of them.
        grounder: address of the server that understands sentences; "" = the model on board does.
        link: why it is not reached; "" if it is; `connected`: it is.
        fallback: a model on board answers meanwhile.
        resident: bytes of memory of the process; `share`: of the machine's memory, 0..1.
        gpu: bytes on the GPU.
    """

    loaded: bool
    active: bool
    problem: str = ""
    topic: str = "image"
    silence: float = float("nan")
    image_timeout: float = 2.0
    input_fps: float = 0.0
    tracker_fps: float = 0.0
    received: int = 0
    processed: int = 0
    dropped: int = 0
    rejected: int = 0
    skipped: int = 0
    rejected_in_row: int = 0
    reason: str = ""
    latency_p50: float = float("nan")
    latency_p95: float = float("nan")
    overhead_p50: float = float("nan")
    overhead_p95: float = float("nan")
    step_p95: float = float("nan")
    first_mask: float = float("nan")
    latency_warning: float = 0.0
    depth_wanted: bool = False
    depth_problem: str = ""
    depth_received: int = 0
    depth_median: float = float("nan")
    depth_images: int = 0
    depth_found: int = 0
    failures: int = 0
    failure: str = ""
    tracks: Mapping[str, int] = field(default_factory=dict)
    model: str = ""
    adapter: str = ""
    device: str = ""
    grounder: str = ""
    link: str = ""
    connected: bool = True
    fallback: bool = False
    resident: int = 0
    share: float = 0.0
    gpu: int = 0


def findings(now: Readings) -> list[Finding]:
    """All lines: images, tracker, depth, model, with a server also the link to it, memory."""
    link = [_link(now)] if now.grounder else []
    return [_images(now), _tracker(now), _depth(now), _model(now), *link, _memory(now)]


def degraded(found: list[Finding]) -> str:
    """Why an active node does not work as it should; "" if it does.

    An image that is rejected now and then, or one too few, is no reason.
    """
    bad = [finding for finding in found if finding.level is Level.ERROR]
    return bad[0].message if bad else ""


def _images(now: Readings) -> Finding:
    level, message = Level.OK, f"{now.input_fps:.1f} images/s"
    if not now.active:
        message = "not active"
    elif now.rejected_in_row >= MANY and (now.rejected or now.silence <= now.image_timeout):
        level, message = Level.ERROR, f"no image can be used: {now.reason}"
    elif not now.silence <= now.image_timeout:
        level = Level.WARN
        since = "" if now.silence != now.silence else f" for {now.silence:.1f} s"
        message = f"no images arrive on {now.topic}{since}"
    elif now.rejected:
        level, message = Level.WARN, f"{now.rejected} images not used: {now.reason}"
    values = {
        "topic": now.topic,
        "input rate (1/s)": f"{now.input_fps:.2f}",
        "received": str(now.received),
        "dropped": str(now.dropped),
        "rejected": str(now.rejected),
        "skipped": str(now.skipped),
        "last reason": now.reason,
    }
    return Finding("images", level, message, values)


def _tracker(now: Readings) -> Finding:
    alive = sum(now.tracks.values())
    level, message = Level.OK, f"{alive} tracks, {now.tracker_fps:.1f} images/s"
    if now.latency_warning and now.latency_p95 > now.latency_warning:
        level = Level.WARN
        message = f"latency p95 is {now.latency_p95:.3f} s; expected {now.latency_warning:g} s"
    values = {
        "rate (1/s)": f"{now.tracker_fps:.2f}",
        "latency p50 (s)": f"{now.latency_p50:.4f}",
        "latency p95 (s)": f"{now.latency_p95:.4f}",
        "tracker step p95 (s)": f"{now.step_p95:.4f}",
        "node overhead p50 (s)": f"{now.overhead_p50:.4f}",
        "node overhead p95 (s)": f"{now.overhead_p95:.4f}",
    }
    values |= {f"tracks {state}": str(count) for state, count in now.tracks.items()}
    return Finding("tracker", level, message, values)


def _depth(now: Readings) -> Finding:
    missing = now.depth_images - now.depth_found
    share = now.depth_found / now.depth_images if now.depth_images else float("nan")
    level, message = Level.OK, "depth arrives" if now.depth_received else "no depth, no 3D"
    if now.depth_images:
        message = f"3D on {share:.0%} of {now.depth_images} images"
    if now.active and missing and (now.depth_wanted or now.depth_received):
        said = message if now.depth_found else "no 3D"
        level = Level.WARN if share < ENOUGH_3D else Level.OK
        message = f"{said}: {now.depth_problem}"
    values = {
        "depth images": str(now.depth_received),
        "median (m)": f"{now.depth_median:.3f}",
        "share of images with 3D": f"{share:.3f}",
        "problem": now.depth_problem,
    }
    return Finding("depth", level, message, values)


def _model(now: Readings) -> Finding:
    level, message = Level.OK, "loaded" if now.loaded else "not loaded"
    if now.problem:
        level, message = Level.ERROR, now.problem
    elif now.failures:
        level, message = Level.ERROR, f"the language model fails: {now.failure}"
    values = {
        "model": now.model,
        "adapter": now.adapter,
        "device": now.device,
        "first mask after (s)": f"{now.first_mask:.3f}",
    }
    return Finding("model", level, message, values)


def _link(now: Readings) -> Finding:
    level, message = Level.OK, f"{now.grounder} answers"
    if now.link and now.fallback:
        level, message = Level.WARN, f"the model on board answers: {now.link}"
    elif now.link:
        level, message = Level.ERROR, f"sentences wait: {now.link}"
    elif not now.connected:
        message = f"{now.grounder} has not answered yet"
    values = {"address": now.grounder, "connected": str(now.connected), "problem": now.link}
    return Finding("grounder", level, message, values)


def _memory(now: Readings) -> Finding:
    level, message = Level.OK, f"{now.resident / 2**20:.0f} MiB"
    if now.share > 0.9:
        level, message = Level.WARN, f"the node holds {now.share:.0%} of the machine's memory"
    values = {
        "resident (MiB)": f"{now.resident / 2**20:.0f}",
        "GPU (MiB)": f"{now.gpu / 2**20:.0f}",
    }
    return Finding("memory", level, message, values)
