#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes sure of what pip cannot install: a C++ compiler, venv and headers of Python, OpenGL that works without a screen.
# Uses apt as root or with a sudo that asks no password; otherwise prints the one line to run and fails.
# Usage: tools/system_packages.sh [PYTHON]
set -euo pipefail
python="${1:-python3}"

command -v "$python" >/dev/null || { echo "system_packages: no interpreter called '$python'" >&2; exit 1; }
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "system_packages: $("$python" --version) is too old; expected Python 3.10 or newer (make PYTHON=…)" >&2
  exit 1
fi

needed=()
command -v c++ >/dev/null || command -v g++ >/dev/null || needed+=(g++)
# Names as in Debian and Ubuntu, e.g. python3.12-venv; other interpreters bring both along.
version="$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
"$python" -c 'import ensurepip, venv' 2>/dev/null || needed+=("$version-venv")
"$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || needed+=("$version-dev")

has_library() {
  "$python" -c 'import ctypes, sys
try: ctypes.CDLL(sys.argv[1])
except OSError: sys.exit(1)' "$1"
}
if ! has_library libEGL.so.1 && ! has_library libOSMesa.so.8; then
  needed+=(libegl1 libgl1 libopengl0 libgl1-mesa-dri)
fi

[[ ${#needed[@]} -eq 0 ]] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "system_packages: missing: ${needed[*]} (names as in Debian); install them and run make again" >&2
  exit 1
fi
install=(apt-get install -y --no-install-recommends "${needed[@]}")
if [[ $EUID -eq 0 ]]; then
  sudo=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  sudo=(sudo -n)
else
  echo "system_packages: missing: ${needed[*]}. Run this, then make again:" >&2
  echo "  sudo ${install[*]}" >&2
  exit 1
fi
echo "system_packages: installing ${needed[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -q >/dev/null
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null
