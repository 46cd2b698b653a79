# SPDX-License-Identifier: Apache-2.0
"""The tracker node on a slower machine: each image takes it at least so long.

SLOW_STEP=0.5 python -m ros_slow --ros-args …
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def run(step: float) -> int:
    """Serve the node; `step` in seconds."""
    from sa2va_ros import tracker_node
    from sa2va_ros.node.model_session import ModelSession

    process = ModelSession.process

    def slowly(self: ModelSession, frame: Any) -> Any:
        end = time.monotonic() + step
        result = process(self, frame)
        time.sleep(max(end - time.monotonic(), 0.0))
        return result

    ModelSession.process = slowly  # type: ignore[method-assign]
    return tracker_node.main()


if __name__ == "__main__":
    sys.exit(run(float(os.environ["SLOW_STEP"])))
