# SPDX-License-Identifier: Apache-2.0
"""Findings on `/diagnostics`, directly and through diagnostic_updater: the same lines either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, KeyValue

from sa2va_ros.interfaces import diagnostic_updater as adapter
from sa2va_ros.interfaces.diagnostics import Finding, Level

FOUND = [
    Finding("images", Level.OK, "30.0 images/s", {"received": "30", "topic": "/camera/image"}),
    Finding("grounder", Level.ERROR, "sentences wait: no route", {"connected": "False"}),
]


@pytest.fixture
def node() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("tracker", namespace="/robot", context=context)
    yield made
    made.destroy_node()
    context.try_shutdown()


def sent(node: Any, publisher: Any, found: list[Finding]) -> dict[str, Any]:
    """What is published, by the name after the node's."""
    arrays: list[DiagnosticArray] = []
    target = getattr(publisher, "_updater", publisher)
    name = "publisher" if hasattr(target, "publisher") else "_publisher"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, SimpleNamespace(publish=arrays.append))
        publisher.publish(found, "cpu")
    for status in arrays[-1].status:
        assert status.name.lstrip("/").startswith("robot/tracker: ")
    return {
        status.name.partition(": ")[2]: (
            status.level,
            status.message,
            status.hardware_id,
            {v.key: v.value for v in status.values},
        )
        for status in arrays[-1].status
    }


EXPECTED = {f.name: (bytes([f.level]), f.message, "cpu", dict(f.values)) for f in FOUND}


class StandIn:
    """A `diagnostic_updater.Updater`, as far as it is used."""

    def __init__(self, node: Any, period: float) -> None:
        self.node, self.period, self.tasks = node, period, dict[str, Callable[[Any], Any]]()
        self.timer = SimpleNamespace(cancel=lambda: setattr(self, "cancelled", True))
        self.cancelled, self.hardware = False, ""
        self.publisher: Any = None

    def add(self, name: str, task: Callable[[Any], Any]) -> None:
        self.tasks[name] = task

    def removeByName(self, name: str) -> None:
        del self.tasks[name]

    def setHardwareID(self, name: str) -> None:
        self.hardware = name

    def force_update(self) -> None:
        lines = []
        for name, task in self.tasks.items():
            line = SimpleNamespace(name=f"/robot/tracker: {name}", hardware_id=self.hardware)
            line.values = []
            line.summary = lambda level, text, line=line: vars(line).update(
                level=level, message=text
            )
            line.add = lambda k, v, line=line: line.values.append(KeyValue(key=k, value=v))
            lines.append(task(line))
        self.publisher.publish(SimpleNamespace(status=lines))


def updaters() -> list[Any]:
    installed = find_spec("diagnostic_updater") is not None
    real = import_module("diagnostic_updater") if installed else None
    why = "diagnostic_updater is not installed: it comes with a ROS 2 distribution"
    skip = pytest.mark.skipif(not installed, reason=why)
    return [
        pytest.param(SimpleNamespace(Updater=StandIn), id="stand-in"),
        pytest.param(real, id="real", marks=skip),
    ]


def test_directly(node: Any) -> None:
    assert sent(node, adapter.DirectDiagnostics(node), FOUND) == EXPECTED


@pytest.mark.parametrize("module", updaters())
def test_through_the_updater(node: Any, module: Any) -> None:
    made = adapter.UpdaterDiagnostics(node, module)
    assert made.period == 1.0
    assert sent(node, made, FOUND) == EXPECTED
    assert list(sent(node, made, FOUND[:1])) == ["images"]  # the server was given up
    assert sent(node, made, FOUND) == EXPECTED
    timer = made._updater.timer
    assert made._updater.cancelled if module.Updater is StandIn else timer.is_canceled()


def test_what_is_installed_is_used(node: Any) -> None:
    kind = adapter.DirectDiagnostics if adapter._updater is None else adapter.UpdaterDiagnostics
    assert isinstance(adapter.diagnostics(node), kind)
