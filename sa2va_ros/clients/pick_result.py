# SPDX-License-Identifier: Apache-2.0
"""What a picker says on `pick_result`."""

from __future__ import annotations

from dataclasses import dataclass, field

from sa2va_ros.clients.command_node import CommandResult


@dataclass(frozen=True)
class PickResult(CommandResult):
    """What became of a command.

    Attributes:
        outcome: held; refused (the fingers never closed); failed (they did, and it is not in them).
        score: median score of the track before the arm moved.
        grasp: x, y, z, yaw and width of the last plan, metres and radians, in `world`.
        seconds: of each stage.
    """

    score: float = 0.0
    attempts: int = 0
    grasp: tuple[float, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
