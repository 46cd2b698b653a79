# SPDX-License-Identifier: Apache-2.0
"""The tracker node with `backend:=onnx`: the same masks over DDS as PyTorch gives, and refusals in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

from sa2va_ros.node.parameters import chosen_backend

VALUES = {
    "backend": "torch",
    "onnx": "",
    "provider": "auto",
    "provider_fallback": False,
    "engine_cache": "",
    "engine_float16": False,
}


def test_a_node_on_exported_graphs_follows(
    start_node: Callable[..., Any], start_client: Callable[[str], Any], nano_graphs: Path
) -> None:
    """From words and from a click, on one picture after the other."""
    from sa2va_ros.msg import VisualPrompt

    settings = {
        "model": nano_graphs / "model",
        "backend": "onnx",
        "onnx": nano_graphs / "graphs",
        "default_expression": "the red mug",
        "memory_gate": False,
    }
    node = start_node(remaps=("__ns:=/graphs",), **settings)
    client = start_client("/graphs")
    client.wait_connected()
    picture = np.random.default_rng(3).integers(0, 256, (120, 160, 3), np.uint8)

    def tracks() -> dict[str, Any]:
        seen = client.got["tracks"]
        return {t.id: t for t in seen[-1].tracks} if seen else {}

    client.stream_until(picture, lambda c: any(t.area for t in tracks().values()))
    [found] = tracks()
    assert tracks()[found].expression == "the red mug"
    client.send("prompt", VisualPrompt(type=VisualPrompt.POINTS, x=[80.0], y=[60.0]))
    client.stream_until(picture, lambda c: len(tracks()) == 2)
    assert node.stop() == 0, node.output


def test_a_node_without_its_graphs_ends_with_one_line(
    start_node: Callable[..., Any], tmp_path: Path, nano_graphs: Path
) -> None:
    node = start_node(model=nano_graphs / "model", backend="onnx", onnx=tmp_path)
    assert node.process.wait(240) != 0, node.output
    [wrong] = [line for line in node.output.splitlines() if line.strip() and "[INFO]" not in line]
    assert "no manifest.json in it" in wrong


@pytest.mark.parametrize("changes", [{"backend": "onnx"}, {"onnx": "folder"}])
def test_backend_and_graphs_go_together(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected backend onnx with a folder of sa2va export"):
        chosen_backend((VALUES | changes).__getitem__).profile()
    assert chosen_backend(VALUES.__getitem__).profile() == "auto"
