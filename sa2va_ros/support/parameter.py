# SPDX-License-Identifier: Apache-2.0
"""One row of a node's table of parameters: declaration, check and description come from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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


def declare(
    node: Node, table: Iterable[Parameter], ordered: Iterable[tuple[str, str]] = ()
) -> None:
    """Declare a table on a node and let it refuse bad values while it runs.

    Args:
        ordered: pairs of names; the value of the first is at most that of the second.

    Raises:
        InputError: a value given at start is not allowed.
    """
    rows = {row.name: row for row in table}
    pairs = [pair for pair in ordered if pair[0] in rows and pair[1] in rows]
    values: dict[str, Value] = {}
    for row in rows.values():
        values[row.name] = node.declare_parameter(row.name, row.default, row.descriptor()).value
        row.check(values[row.name])
    _check_order(values, pairs)

    def judge(changes: Iterable[Any]) -> SetParametersResult:
        from rcl_interfaces.msg import SetParametersResult

        changed = {change.name: change.value for change in changes if change.name in rows}
        try:
            for name, value in changed.items():
                rows[name].check(value)
            _check_order({name: node.get_parameter(name).value for name in rows} | changed, pairs)
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(judge)


def _check_order(values: Mapping[str, Any], pairs: Iterable[tuple[str, str]]) -> None:
    for low, high in pairs:
        if values[low] > values[high]:
            raise InputError(
                f"parameter {low} is {values[low]}; expected at most {high}, which is {values[high]}"
            )
