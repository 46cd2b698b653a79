# SPDX-License-Identifier: Apache-2.0
"""A few small pictures and clips, made for the test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sa2va_training.tiny.data.scenes import ShardSpec, write_shard
from sa2va_training.tiny.nano import SIZE


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with flat pictures and clips, training and held out."""
    root = tmp_path_factory.mktemp("data")
    for kind, count in (("flat", 12), ("flat-clips", 4)):
        for split, first in (("train", 1_000_000), ("held", 0)):
            write_shard(ShardSpec(kind, split, first, count, SIZE), root)
    return root
