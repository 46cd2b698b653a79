# SPDX-License-Identifier: Apache-2.0
"""Datasets as they are published, all as `sample.Sample`; `registry.py` knows them by name."""

from __future__ import annotations

from sa2va_training.data.readers.registry import FORMATS, DatasetConfig, open_dataset, read_yaml

__all__ = ["FORMATS", "DatasetConfig", "open_dataset", "read_yaml"]
