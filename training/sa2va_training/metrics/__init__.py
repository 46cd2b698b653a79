# SPDX-License-Identifier: Apache-2.0
"""The published metrics, each beside its definition.

`jf.py` J and F; `clips.py` what video benchmarks make of them; `overlap.py` cIoU and gIoU; `grounded.py` AP50, mIoU and
recall of grounded captions; `captions.py` CIDEr and METEOR; `answers.py` short answers.
"""

from __future__ import annotations

from sa2va_training.metrics.jf import JF, Scores, boundary_accuracy, frame_jf, region_similarity

__all__ = ["JF", "Scores", "boundary_accuracy", "frame_jf", "region_similarity"]
