# SPDX-License-Identifier: Apache-2.0
"""Takes the arithmetic on shapes out of an exported graph.

The exporter computes the target of a reshape from the dimensions that vary, by operators that an accelerator hands to
the processor. Every such target can be a constant: 0 stands for "as the input has it", -1 for what is left.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

FORBIDDEN = frozenset(
    {"Shape", "Size", "Range", "Tile", "If", "Loop", "Scan", "NonZero", "Where", "DFT"}
)
"""Operators that make a graph dynamic, or that accelerators are known to hand back."""

Dims = list[int | str]


def fix_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with constant reshape targets and without the nodes that nobody reads."""
    graph = model.graph
    shapes = _shapes(graph)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in {t.name for t in graph.initializer}:
            continue
        target = _target(shapes.get(node.input[0]), shapes.get(node.output[0]))
        if target is None:
            continue
        name = f"{node.output[0]}_shape"
        graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
        node.input[1] = name
        for attribute in node.attribute:
            if attribute.name == "allowzero":
                attribute.i = 0
    _drop_unread(graph)
    return model


def dynamic_operators(model: onnx.ModelProto) -> list[str]:
    """Names of the operators that a static graph must not have."""
    return sorted({node.op_type for node in model.graph.node} & FORBIDDEN)


def _shapes(graph: onnx.GraphProto) -> dict[str, Dims]:
    found: dict[str, Dims] = {}
    for info in [*graph.input, *graph.output, *graph.value_info]:
        dims = info.type.tensor_type.shape.dim
        # A dimension without a name and without a value is like no other.
        found[info.name] = [
            d.dim_param or d.dim_value or f"{info.name}.{place}" for place, d in enumerate(dims)
        ]
    for tensor in graph.initializer:
        found[tensor.name] = list(tensor.dims)
    return found


def _target(source: Dims | None, out: Dims | None) -> list[int] | None:
    """A constant target, or None where two dimensions would be left open."""
    if out is None:
        return None
    target = []
    for place, dim in enumerate(out):
        if isinstance(dim, int):
            target.append(dim)
        elif source is not None and place < len(source) and source[place] == dim:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Nodes and constants from which no output depends."""
    read = {info.name for info in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    alive = read | {name for node in kept for name in node.output}
    infos = [info for info in graph.value_info if info.name in alive]
    del graph.value_info[:]
    graph.value_info.extend(infos)
