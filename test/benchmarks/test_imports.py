# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks take from the packages is there: nothing else runs all of them."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FILES = sorted(BENCHMARKS.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_every_imported_name_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("sa2va_"):
            continue
        if str(node.module).startswith("sa2va_ros"):
            pytest.importorskip("sa2va_ros.msg", exc_type=ImportError)
        if str(node.module) == "sa2va_serve.server.ray_app":
            pytest.importorskip("ray")
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            if not hasattr(module, alias.name):
                importlib.import_module(f"{node.module}.{alias.name}")
