# SPDX-License-Identifier: Apache-2.0
"""What a mask is worth: the published metrics, in numpy and OpenCV, one frame at a time."""

from __future__ import annotations

from .jf import JF, Scores, boundary_accuracy, frame_jf, region_similarity

__all__ = ["JF", "Scores", "boundary_accuracy", "frame_jf", "region_similarity"]
