# SPDX-License-Identifier: Apache-2.0
"""The parameters of the tracker node: one table, from which declarations, checks and descriptions
come.

Topic names are no parameters (remap them at launch). Read-only ones are fixed when the node starts;
the others may be set while it runs, and a bad value is refused with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
    from rclpy.node import Node

Value = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    Attributes:
        default: also fixes the type.
        span: smallest and largest allowed value of a number.
        choices: the allowed values of a text.
        dynamic: may be set while the node runs.
    """

    name: str
    default: Value
    description: str
    span: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    dynamic: bool = False

    def check(self, value: Value) -> None:
        """Raise InputError, naming the parameter, unless the value is allowed."""
        if self.span is not None and not isinstance(value, str):
            low, high = self.span
            if math.isnan(value) or not low <= value <= high:
                raise InputError(f"parameter {self.name} is {value}; expected {low} to {high}")
        if self.choices and value not in self.choices:
            raise InputError(
                f"parameter {self.name} is '{value}'; expected one of {', '.join(self.choices)}"
            )

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

        descriptor = ParameterDescriptor(description=self.description, read_only=not self.dynamic)
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        if self.span is not None and isinstance(self.default, float):
            low, high = self.span
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.span is not None:
            low, high = (int(end) for end in self.span)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


TABLE: tuple[Parameter, ...] = (
    Parameter(
        "model",
        "",
        "Folder of the model: ours or an official Sa2VA checkpoint; empty = the tiny one that ships.",
    ),
    Parameter("device", "auto", "Where the model runs: auto, cpu, cuda or cuda:N."),
    Parameter(
        "threads",
        0,
        "CPU threads of the model; 0 = one for a small model, else as many as torch chooses.",
        span=(0, 256),
    ),
    Parameter(
        "image_transport",
        "raw",
        "raw: subscribe `image` (sensor_msgs/Image); compressed: `image/compressed` (JPEG or PNG).",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "max_objects",
        16,
        "How many objects may be tracked at once; memory grows with it.",
        span=(1, 254),
    ),
    Parameter(
        "default_expression",
        "",
        "Expression that is tracked from the first image on; empty = wait for a command.",
    ),
    Parameter(
        "autostart",
        True,
        "Configure and activate at start; false = wait for lifecycle transitions.",
    ),
    Parameter("status_period", 1.0, "Seconds between two messages on ~/status.", span=(0.05, 60.0)),
    Parameter(
        "max_age",
        0.0,
        "Images older than this many seconds are not processed; 0 = any age. Needs a camera with the node's clock.",
        span=(0.0, 3600.0),
        dynamic=True,
    ),
    Parameter("publish_mask", True, "Publish the label image on `mask`.", dynamic=True),
    Parameter(
        "publish_overlay",
        True,
        "Draw the masks on the image for `overlay`, while someone subscribes.",
        dynamic=True,
    ),
)


def declare(node: Node, table: Iterable[Parameter] = TABLE) -> None:
    """Declare a table on a node and let it refuse bad values while it runs.

    Raises:
        InputError: a value given at start is not allowed.
    """
    rows = {row.name: row for row in table}
    for row in rows.values():
        row.check(node.declare_parameter(row.name, row.default, row.descriptor()).value)
    node.add_on_set_parameters_callback(lambda changes: _judge(changes, rows))


def _judge(changes: Iterable[Any], rows: dict[str, Parameter]) -> SetParametersResult:
    from rcl_interfaces.msg import SetParametersResult

    for change in changes:
        if row := rows.get(change.name):
            try:
                row.check(change.value)
            except InputError as error:
                return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
