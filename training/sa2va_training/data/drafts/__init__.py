# SPDX-License-Identifier: Apache-2.0
"""Masks that a model makes for training data: `label.py` by words, `harvest.py` from what a robot recorded."""
