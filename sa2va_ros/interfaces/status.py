# SPDX-License-Identifier: Apache-2.0
"""How the node is doing, for people and for monitors: `~/status` (latched) and `/diagnostics`."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sa2va_ros.interfaces.diagnostic_updater import diagnostics
from sa2va_ros.interfaces.diagnostics import Finding, Readings, degraded, findings
from sa2va_ros.interfaces.target import ENDED
from sa2va_ros.msg import TrackerStatus
from sa2va_ros.node.model_session import ModelSession
from sa2va_ros.node.pipeline import Pipeline

if TYPE_CHECKING:
    from rclpy.node import Node

COUNTED = (
    "received",
    "processed",
    "dropped",
    "rejected",
    "skipped",
    "depth_images",
    "depth_found",
)


class Health:
    """Reads the node's numbers and publishes them.

    Attributes:
        state: one of TrackerStatus' states, as the lifecycle knows it.
        problem: why loading failed, or "".
    """

    def __init__(self, node: Node, session: ModelSession, pipeline: Pipeline) -> None:
        self._node, self._session, self._pipeline = node, session, pipeline
        self.state, self.problem = TrackerStatus.UNCONFIGURED, ""
        self._diagnostics = diagnostics(node)
        self._before: Counter[str] = Counter()
        self._failures = 0
        self._found: list[Finding] = []
        self._next = 0.0

    def publish(self, expression: str) -> None:
        """Publish the status, and the diagnostics when their time has come."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._diagnostics.period - 0.01
            self._found = findings(self._read())
            self._diagnostics.publish(self._found, self._device())
        self._pipeline.outputs.status(self._status(expression))

    def _status(self, expression: str) -> TrackerStatus:
        pipeline, counts = self._pipeline, self._pipeline.worker.counts()
        why = self.problem or self._session.held
        message = TrackerStatus(state=self.state, model=self._model(), message=why)
        message.adapter, message.device = self._session.adapter, self._device()
        message.active_expression, message.target = expression, pipeline.target.id
        if (latest := pipeline.latest) is not None:
            message.header.frame_id = latest.admitted.header.frame_id
            message.num_tracks = sum(t.state not in ENDED for t in latest.result.tracks)
        message.input_fps = pipeline.worker.input_rate.rate()
        message.tracker_fps = pipeline.worker.output_rate.rate()
        message.received, message.processed = counts.received, counts.processed
        message.dropped, message.rejected = counts.dropped, counts.rejected
        if not self.problem and counts.rejected:
            message.message = f"{counts.rejected} images not used; the last: {counts.last_reason}"
        if self.state == TrackerStatus.ACTIVE and (why := degraded(self._found)):
            message.state, message.message = TrackerStatus.DEGRADED, why
        return message

    # --- reading ----------------------------------------------------------------------------------

    def _read(self) -> Readings:
        pipeline, worker = self._pipeline, self._pipeline.worker
        latencies, latest = pipeline.outputs.latencies, pipeline.latest
        counts, space = asdict(worker.counts()), pipeline.counts_3d
        counts |= {"depth_images": space.wanted, "depth_found": space.found}
        now = Counter({name: counts[name] for name in COUNTED})
        # A new worker counts from zero.
        changed = {
            n: now[n] - (self._before[n] if now[n] >= self._before[n] else 0) for n in COUNTED
        }
        self._before = now
        failures, failure = self._pipeline.failures()
        failed, self._failures = failures - self._failures, failures
        tracks, link = latest.result.tracks if latest else (), self._session.link
        return Readings(
            loaded=self._session.model is not None,
            active=self.state == TrackerStatus.ACTIVE,
            problem=self.problem,
            topic=self._node.resolve_topic_name("image"),
            silence=worker.input_rate.silence(),
            image_timeout=self._value("image_timeout"),
            input_fps=worker.input_rate.rate(),
            tracker_fps=worker.output_rate.rate(),
            **changed,
            rejected_in_row=counts["rejected_in_row"],
            reason=counts["last_reason"],
            latency_p50=latencies.percentile(50),
            latency_p95=latencies.percentile(95),
            overhead_p50=latencies.overhead(50),
            overhead_p95=latencies.overhead(95),
            step_p95=latencies.step(95),
            first_mask=latencies.first_mask(),
            latency_warning=self._value("latency_warning"),
            depth_wanted=pipeline.outputs_3d.wanted(),
            depth_problem=pipeline.counts_3d.problem,
            depth_received=pipeline.depth.received,
            depth_median=pipeline.depth.median,
            failures=failed,
            failure=failure,
            tracks=Counter(track.state.name for track in tracks),
            model=self._model(),
            adapter=self._session.adapter,
            device=self._device(),
            grounder="" if link is None else link.config.address,
            link="" if link is None else link.problem,
            connected=link is None or link.connected,
            fallback=link is not None and link.falls_back,
            resident=resident_bytes(),
            share=resident_bytes() / _machine_bytes(),
            gpu=_gpu_bytes(getattr(self._session.model, "device", None)),
        )

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def _model(self) -> str:
        return self._value("model") or "tiny"

    def _device(self) -> str:
        return str(getattr(self._session.model, "device", self._value("device")))


def resident_bytes() -> int:
    """Memory of this process (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gpu_bytes(device: Any) -> int:
    """Memory that tensors hold on the model's device; 0 where there is none."""
    devices: Any = sys.modules.get("sa2va_model.device")  # not imported for the sake of a number
    return 0 if devices is None or device is None else int(devices.held_bytes(device) or 0)
