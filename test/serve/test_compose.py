# SPDX-License-Identifier: Apache-2.0
"""The compose file asks nothing that server and node do not know; Docker itself is not needed for it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from sa2va_cli import serve
from sa2va_cli.main import build_parser
from sa2va_serve.client.config import parse_grounder

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DOCS / "compose.serving.yaml").read_text())
    return read


def test_the_server_starts_for_others_with_tls_and_tokens(compose: dict[str, Any]) -> None:
    server = compose["services"]["server"]
    words = shlex.split(server["command"])[1:]
    config = serve._config(build_parser(words)[0].parse_args(words))  # refuses what is not safe
    assert (config.host, bool(config.certificate and config.key and config.tokens)) == (
        "0.0.0.0",
        True,
    )
    assert f"('127.0.0.1', {config.port})" in server["healthcheck"]["test"][-1]
    assert float(server["stop_grace_period"].rstrip("s")) > config.grace


def test_the_robots_have_parameters_that_the_node_has(compose: dict[str, Any]) -> None:
    values = yaml.safe_load(compose["configs"]["robot"]["content"])["/**"]["ros__parameters"]
    known = (DOCS / "ros_interface.md").read_text()
    assert [name for name in values if f"| `{name}` |" not in known] == []
    assert parse_grounder(values["grounder"]) == ("server:50151", True)
    robots = [name for name in compose["services"] if name.startswith("robot")]
    assert len(robots) == 2
    for name in robots:
        robot = compose["services"][name]
        assert robot["configs"] == [{"source": "robot", "target": "/robot.yaml"}]
        assert robot["command"].count(f"__ns:=/{name}") == 2
