# SPDX-License-Identifier: Apache-2.0
"""Findings on `/diagnostics`: through the distribution's diagnostic_updater where it is installed, else directly.

The only place that imports it, and that chooses. The updater brings the parameters that people know from other nodes
(`diagnostic_updater.period`, `diagnostic_updater.use_fqn`). Its own timer is stopped: it runs in ROS time, which a
paused bag or simulator holds still, and the node's health goes on meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from sa2va_ros.interfaces.diagnostics import Finding
from sa2va_ros.support.qos import reliable

if TYPE_CHECKING:
    from rclpy.node import Node

PERIOD = 1.0  # seconds between two diagnostics, as diagnostic_updater has it
FULL_NAMES = "diagnostic_updater.use_fqn"

_updater: Any = None
with suppress(ImportError):
    _updater = import_module("diagnostic_updater")


class Diagnostics(Protocol):
    """Where findings go; `period`: seconds between two of them."""

    @property
    def period(self) -> float:
        """Seconds between two reports."""

    def publish(self, found: list[Finding], hardware: str) -> None:
        """Send all lines of one moment."""


def diagnostics(node: Node) -> Diagnostics:
    """What this machine has."""
    return DirectDiagnostics(node) if _updater is None else UpdaterDiagnostics(node, _updater)


class DirectDiagnostics:
    """A DiagnosticArray of our own; names begin with the node's full name."""

    period = PERIOD

    def __init__(self, node: Node) -> None:
        self._node = node
        # The name is absolute, as that of `/tf`: all tools listen there.
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", reliable(10))

    def publish(self, found: list[Finding], hardware: str) -> None:
        """Send all lines of one moment."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        name = self._node.get_fully_qualified_name().lstrip("/")
        for finding in found:
            status = DiagnosticStatus(name=f"{name}: {finding.name}", message=finding.message)
            status.level = bytes([finding.level])
            status.hardware_id = hardware
            status.values = [KeyValue(key=k, value=v) for k, v in finding.values.items()]
            array.status.append(status)
        self._publisher.publish(array)


class UpdaterDiagnostics:
    """A task of a `diagnostic_updater.Updater` for each line.

    Args:
        module: diagnostic_updater.
    """

    def __init__(self, node: Node, module: Any) -> None:
        if not node.has_parameter(FULL_NAMES):
            node.declare_parameter(FULL_NAMES, True)  # two robots have nodes of one name
        self._updater = module.Updater(node, PERIOD)
        self._updater.timer.cancel()
        self._found: dict[str, Finding] = {}

    @property
    def period(self) -> float:
        """Seconds between two reports, as the parameter says."""
        return float(self._updater.period)

    def publish(self, found: list[Finding], hardware: str) -> None:
        """Let the updater run its tasks now."""
        now = {finding.name: finding for finding in found}
        for name in self._found.keys() - now.keys():
            self._updater.removeByName(name)
        before, self._found = self._found.keys(), now
        for name in now:
            if name not in before:
                self._updater.add(name, self._task(name))
        self._updater.setHardwareID(hardware)
        self._updater.force_update()

    def _task(self, name: str) -> Any:
        def run(status: Any) -> Any:
            finding = self._found[name]
            status.summary(bytes([finding.level]), finding.message)
            for key, value in finding.values.items():
                status.add(key, value)
            return status

        return run
