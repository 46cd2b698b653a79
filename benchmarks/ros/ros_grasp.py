# SPDX-License-Identifier: Apache-2.0
"""Grasping with a model that is slow: `sa2va grasp-demo`, each image taking the tracker so long.

    python benchmarks/ros/ros_grasp.py --step 0.5 --episodes 20 --seed 500000 [--json FILE]

Simulated time waits for the tracker only where the machine makes a step longer than twice that.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sa2va_cli.main import main as run_command
from sa2va_ros.support.executables import EXECUTABLES


def main() -> int:
    """Run the demo; all other options are its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--step", type=float, default=0.5, help="seconds of an image")
    arguments, own = parser.parse_known_args()
    EXECUTABLES["tracker_node"] = "ros_slow"
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    os.environ["SLOW_STEP"] = str(arguments.step)
    return run_command(["grasp-demo", "--pace", str(2 * arguments.step), *own])


if __name__ == "__main__":
    raise SystemExit(main())
