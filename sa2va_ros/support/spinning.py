# SPDX-License-Identifier: Apache-2.0
"""Runs a node until it is asked to stop, so that it can end in order.

rclpy's own signal handler takes the context away at any moment, also while a callback or a thread of the node
publishes something, which now and then ends in an error or a crash. Here a signal only asks the loop to end; the
node then stops its threads, and the context goes last.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from sa2va_model.errors import InputError

LAST_RESULTS_SECONDS = 0.2  # in which the last results are sent
SWITCH_SECONDS = 0.001  # after which a thread that computes in Python lets the one that answers in
WAKE_SECONDS = 0.1  # how long a signal may wait for a node without work


@contextmanager
def context(args: list[str] | None) -> Iterator[threading.Event]:
    """An initialised rclpy; the event is set by Ctrl-C and by SIGTERM.

    Raises:
        InputError: the ROS arguments are wrong.
    """
    stop_requested = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop_requested.set()

    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RCLError as error:  # wrong arguments, or no middleware
        raise InputError(f"ROS: {' '.join(str(error).split())}") from error
    before = {
        number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop_requested
    finally:
        rclpy.try_shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)


def spin(
    node: Node,
    stop_requested: threading.Event,
    on_stop: Callable[[], None] = lambda: None,
    others: Sequence[Node] = (),
) -> None:
    """Serves a node on one thread until `stop_requested` is set or its context is shut down.

    Args:
        others: nodes of the same context that are served on the same thread.
        on_stop: called before the end; what it leaves to the executor, such as results of actions,
            is still handed over.
    """
    executor = SingleThreadedExecutor()
    for served in (node, *others):
        executor.add_node(served)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        while not stop_requested.is_set() and node.context.ok():
            executor.spin_once(timeout_sec=WAKE_SECONDS)
        on_stop()
        end = time.monotonic() + LAST_RESULTS_SECONDS
        while node.context.ok() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.01)
    except ExternalShutdownException:
        pass  # somebody shut the context down
    finally:
        sys.setswitchinterval(interval)
        for served in (node, *others):
            executor.remove_node(served)


class Closing(Protocol):
    """A node with threads of its own."""

    def close(self) -> None:
        """End them."""

    def destroy_node(self) -> None:
        """Free what it has of ROS."""


def serve(
    name: str,
    make: Callable[[threading.Event], Closing],
    args: list[str] | None,
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Make a node and run it until it is asked to stop; the exit status is 2 if it could not start.

    Args:
        make: a node, from the event that asks it to stop.
        errors: that mean it cannot start, besides wrong parameters and other input.
    """
    expected = (InputError, rclpy.exceptions.ParameterException, *errors)
    with context(args) as stop_requested:
        try:
            node = make(stop_requested)
        except expected as error:
            print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
            return 2
        try:
            assert isinstance(node, Node)
            spin(node, stop_requested)
        finally:
            node.close()
            node.destroy_node()
    return 0
