# SPDX-License-Identifier: Apache-2.0
"""The bond to Nav2's lifecycle manager: with bondpy's own other end where it is installed, and what is said without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from sa2va_model.errors import InputError
from sa2va_ros.support.bond import LifecycleBond

INSTALLED = find_spec("bondpy") is not None
NO_BONDPY = "bondpy is not installed: it comes with a ROS 2 distribution"


@pytest.fixture
def nodes() -> Iterator[tuple[Any, Any]]:
    """The tracker's and the manager's, both served."""
    context = rclpy.Context()
    rclpy.init(context=context)
    made = [rclpy.create_node(n, context=context) for n in ("sa2va_tracker", "lifecycle_manager")]
    executor = SingleThreadedExecutor(context=context)
    for node in made:
        executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield made[0], made[1]
    context.try_shutdown()
    thread.join(10)


@pytest.mark.skipif(not INSTALLED, reason=NO_BONDPY)
def test_the_manager_hears_it_and_its_end(nodes: tuple[Any, Any]) -> None:
    from bondpy.bondpy import Bond
    from rclpy.duration import Duration

    tracker, manager = nodes
    ours = LifecycleBond(tracker, wanted=True)
    for round_ in range(2):  # activated, deactivated, activated again
        tracker.executor.create_task(ours.form)
        theirs = Bond(manager, "bond", "sa2va_tracker")
        theirs.set_heartbeat_period(0.25)
        theirs.start()
        assert theirs.wait_until_formed(Duration(seconds=10.0))
        tracker.executor.create_task(ours.end)
        assert theirs.wait_until_broken(Duration(seconds=10.0))
        theirs.is_shutdown = True
        assert tracker.count_publishers("bond") == round_ + 1  # ours are gone


@pytest.mark.skipif(INSTALLED, reason="bondpy is installed")
def test_one_that_is_wanted_and_cannot_be_had_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"bondpy is not installed .* `bond_timeout: 0.0`"):
        LifecycleBond(object(), wanted=True)  # type: ignore[arg-type]


def test_none_that_is_not_wanted() -> None:
    bond = LifecycleBond(object(), wanted=False)  # type: ignore[arg-type]
    bond.form()
    bond.end()
