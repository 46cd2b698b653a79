# SPDX-License-Identifier: Apache-2.0
"""The tracker node with `backend:=onnx`: the same masks over DDS as PyTorch gives, and refusals in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

from sa2va_ros.node.parameters import chosen_backend  # noqa: E402

VALUES = {
    "backend": "torch",
    "onnx": "",
    "provider": "auto",
    "provider_fallback": False,
    "engine_cache": "",
    "engine_float16": False,
}


def test_a_node_on_exported_graphs_follows_as_one_on_pytorch(
    start_node: Callable[..., Any], start_client: Callable[[str], Any], nano_graphs: Path
) -> None:
    from sa2va_ros.msg import VisualPrompt

    common = {
        "model": nano_graphs / "model",
        "default_expression": "the red mug",
        "status_period": 0.1,
        "memory_gate": False,
    }
    graphs = {"backend": "onnx", "onnx": nano_graphs / "graphs"}
    nodes = {
        "/graphs": start_node(remaps=("__ns:=/graphs",), **common, **graphs),
        "/plain": start_node(remaps=("__ns:=/plain",), **common),
    }
    masks = {}
    for name in nodes:
        client = start_client(name)
        client.wait_connected()
        box = VisualPrompt(type=VisualPrompt.BOX, label="box", x=[40.0, 90.0], y=[30.0, 80.0])
        client.send("prompt", box)
        areas = []
        for seed in range(6):
            picture = np.random.default_rng(seed // 3).integers(0, 256, (120, 160, 3), np.uint8)
            tracks = client.stream(client.image(picture))
            areas.append({t.id: (t.state, t.area) for t in tracks.tracks})
        masks[name] = areas
        assert areas[-1]
    assert [a.keys() for a in masks["/graphs"]] == [a.keys() for a in masks["/plain"]]
    for one, other in zip(masks["/graphs"], masks["/plain"], strict=True):
        for track in one:
            assert one[track][0] == other[track][0]
            assert abs(one[track][1] - other[track][1]) <= 0.001 * 120 * 160
    for node in nodes.values():
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
        chosen_backend((VALUES | changes).__getitem__)
    assert chosen_backend(VALUES.__getitem__) == "auto"
