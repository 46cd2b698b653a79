# SPDX-License-Identifier: Apache-2.0
"""The parameters of tracking and `LiveConfig`: one default, and no field that nobody can set or explain."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from sa2va_model.errors import InputError
from sa2va_model.tracking.config import LiveConfig
from sa2va_ros.node.parameters import ORDERED, TABLE
from sa2va_ros.node.tracking_parameters import FIELDS, NOT_SET, live_config
from sa2va_ros.support.parameter import _check_order

ROWS = {row.name: row for row in TABLE}


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field with its default, those of parts as `part.field`."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found |= leaves(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def other(value: Any, row: Any) -> Any:
    """An allowed value that is not the default."""
    if row.choices:
        return row.choices[-1]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "stock.pt"
    return 256 if row.name == "resolution" else type(value)(row.span[1])


def test_every_field_has_a_parameter_or_a_reason() -> None:
    assert set(leaves(LiveConfig())) == set(FIELDS) | set(NOT_SET)
    assert not set(FIELDS) & set(NOT_SET)
    assert all(NOT_SET.values())


def test_defaults_are_those_of_the_dataclass() -> None:
    defaults = {row.name: row.default for row in TABLE}
    assert live_config(defaults.__getitem__) == LiveConfig(background=True)


def test_what_is_set_is_in_force() -> None:
    """Each parameter changes its own field and no other."""
    defaults = {row.name: row.default for row in TABLE}
    before = leaves(LiveConfig(background=True))
    for field, name in FIELDS.items():
        given = defaults | {name: other(before[field], ROWS[name])}
        if name in ("propagation", "sam2"):  # these two go together
            given |= {"propagation": "handover", "sam2": "stock.pt"}
        if name == "search_period":  # no longer than the longest pause
            given |= {"search_limit": given[name]}
        after = leaves(live_config(given.__getitem__))
        assert after[field] == given[name] != before[field], field
        changed = {key for key in before if before[key] != after[key]}
        together = {"propagation.kind", "propagation.stock", "search_limit"}
        assert changed <= {field, *together}


def test_what_is_fixed_cannot_be_set_while_the_node_runs() -> None:
    for field, name in FIELDS.items():
        assert ROWS[name].dynamic == (field.split(".")[0] not in LiveConfig.FIXED), name


def test_values_that_do_not_fit_are_refused() -> None:
    given = {row.name: row.default for row in TABLE} | {"propagation": "handover"}
    with pytest.raises(InputError, match="needs a stock SAM-2 file"):
        live_config(given.__getitem__)
    with pytest.raises(InputError, match="verify_share is 0"):
        replace(LiveConfig(), verify_share=0)


def test_a_search_that_begins_with_its_longest_pause_is_refused() -> None:
    values = {row.name: row.default for row in TABLE}
    _check_order(values, ORDERED)
    with pytest.raises(InputError, match=r"search_period is 9\.0; expected at most search_limit"):
        _check_order(values | {"search_period": 9.0}, ORDERED)


def test_the_table_needs_no_torch() -> None:
    check = "import sys, sa2va_ros.node.tracking_parameters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
