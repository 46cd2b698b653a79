#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the messages with colcon into install/, for development: the Python modules stay in the source tree.
# Usage: tools/build_messages.sh [PREFIX]
#   PREFIX  folder with the ROS 2 packages; left out: what is sourced (a ROS 2 distribution).
# The interpreter is the `python3` that is first on PATH, so activate the virtual environment first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -ge 1 ]]; then
  # Only this prefix: an overlay that happens to be sourced must not get into the build.
  export AMENT_PREFIX_PATH="$1" CMAKE_PREFIX_PATH="$1"
  unset COLCON_PREFIX_PATH PYTHONPATH
fi
# A folder of our modules in install/ (a plain `colcon build` was run here) would hide the source tree.
if compgen -G "install/sa2va_ros/lib/python3*/site-packages/sa2va_model" >/dev/null ||
  compgen -G "install/sa2va_ros/local/lib/python3*/dist-packages/sa2va_model" >/dev/null; then
  rm -rf install/sa2va_ros build/sa2va_ros
fi
# The generators read the interpreter from the CMake cache; a new environment needs a new cache.
cache=build/sa2va_ros/CMakeCache.txt
python="$(command -v python3)"
if [[ -f "$cache" ]] && ! grep -qxF "_Python3_EXECUTABLE:INTERNAL=$python" "$cache"; then
  rm -rf build/sa2va_ros
fi

# CMake refuses header folders that lie inside the source folder, and NumPy's do when the virtual environment is in the
# repository. So it sees copies of the few files it needs, in a folder beside the environment.
source=build/ros_source
rm -rf "$source"
mkdir -p "$source"
cp -a CMakeLists.txt package.xml cmake msg srv action scripts launch config rviz foxglove "$source/"

# Instead of the flags of a make around this, and of colcon's own, which wait for an idle machine.
unset MFLAGS
export MAKEFLAGS="-j$(nproc)"
exec colcon --log-base log --log-level error build \
  --base-paths "$source" --packages-select sa2va_ros --event-handlers console_cohesion- \
  --cmake-args "-DSA2VA_ROS_DEVELOP=$PWD" -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release \
  "-DPython3_EXECUTABLE=$python"
