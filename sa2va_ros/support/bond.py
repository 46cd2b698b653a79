# SPDX-License-Identifier: Apache-2.0
"""The bond to Nav2's lifecycle manager, by bondpy where it is installed: each learns when the other has died.

The only place that imports it. As Nav2's own nodes have it: made when the node becomes active, on the topic `bond` of
its namespace, under the node's name; gone when it is deactivated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from rclpy.node import Node

HEARTBEAT_PERIOD = 0.25  # seconds, Nav2's
HEARTBEAT_TIMEOUT = 4.0


class LifecycleBond:
    """None until `form`.

    Args:
        wanted: whether there is to be one at all.

    Raises:
        InputError: there is to be one and bondpy is not installed.
    """

    def __init__(self, node: Node, *, wanted: bool) -> None:
        self._node, self._bond, self._bondpy = node, None, _bondpy() if wanted else None

    def form(self) -> None:
        """Begin to beat; the manager has until its `bond_timeout` to hear it."""
        if self._bondpy is None:
            return
        self.end()
        bond: Any = self._bondpy.Bond(self._node, "bond", self._node.get_name())
        bond.set_heartbeat_period(HEARTBEAT_PERIOD)
        bond.set_heartbeat_timeout(HEARTBEAT_TIMEOUT)
        bond.start()
        self._bond = bond

    def end(self) -> None:
        """Say good-bye, so that the manager does not take it for a death; on the thread that spins the node.

        In place of `Bond.shutdown`, which destroys its topics behind the node's back: the executor stumbles over them.
        """
        bond, self._bond = self._bond, None
        if bond is None:
            return
        bond.break_bond()
        with bond.lock:
            bond.is_shutdown = True
            bond.condition.notify_all()
        bond.connect_timer.cancel()
        self._node.destroy_subscription(bond.sub)
        self._node.destroy_publisher(bond.pub)


def _bondpy() -> Any:
    try:
        from bondpy import bondpy
    except ImportError as error:
        raise InputError(
            f"parameter bond is true and bondpy is not installed ({error}); expected bondpy, or bond false and "
            "`bond_timeout: 0.0` for Nav2's lifecycle manager"
        ) from error
    return bondpy
