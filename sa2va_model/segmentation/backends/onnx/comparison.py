# SPDX-License-Identifier: Apache-2.0
"""Whether a provider computes what the CPU does: one graph, made-up inputs, two sessions.

Providers rewrite graphs, and a rewrite can be wrong where shapes happen to agree (docs/log.md has one of OpenVINO's).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sa2va_model.segmentation.backends.onnx.manifest import GraphEntry

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SIZES = {"N": 2, "M": 3, "P": 5, "Q": 8}
"""Of the dimensions that vary."""


def difference(entry: GraphEntry, session: InferenceSession, other: InferenceSession) -> float:
    """The largest between two sessions of one graph, relative to the largest value where that exceeds 1."""
    rng = np.random.default_rng(0)
    given = {}
    for told in session.get_inputs():
        shape = [SIZES[d] if isinstance(d, str) else d for d in entry.inputs[told.name]]
        whole = told.type == "tensor(int64)"
        made = np.zeros(shape, np.int64) if whole else rng.standard_normal(shape, np.float32)
        given[told.name] = made
    names, worst = list(entry.outputs), 0.0
    for one, two in zip(session.run(names, given), other.run(names, given), strict=True):
        apart = float(np.abs(one - two).max() / max(1.0, float(np.abs(two).max())))
        worst = max(worst, apart) if np.isfinite(apart) else float("inf")
    return worst
