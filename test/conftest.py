# SPDX-License-Identifier: Apache-2.0
"""For all tests: one thread for nano models, whose work is too small to share."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
