# SPDX-License-Identifier: Apache-2.0
"""Runs a node until it is told to stop."""

from __future__ import annotations

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node


def spin(node: Node) -> None:
    """Serves a node on one thread until Ctrl-C, a signal or a shutdown of its context.

    The signal handler ends the context at any moment, also in the middle of what the executor or a callback does with
    it; what they raise then is no fault. Anything raised while the context lives is.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # how a node is told to stop
    except RuntimeError:  # rclpy's RCLError and InvalidHandle are some
        if node.context.ok():
            raise
