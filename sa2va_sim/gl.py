# SPDX-License-Identifier: Apache-2.0
"""Headless OpenGL for MuJoCo: EGL where a driver answers, else OSMesa, decided before `mujoco` is imported."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from functools import lru_cache
from types import ModuleType

APT_LINE = "sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri libosmesa6"
_EGL_PLATFORM_DEVICE = 0x313F


class RenderingUnavailableError(RuntimeError):
    """Neither EGL nor OSMesa can draw on this machine."""


def _egl_works() -> bool:
    """Whether some EGL device can be initialised; asks the library itself, because PyOpenGL cannot be asked twice."""
    name = ctypes.util.find_library("EGL")
    if name is None:
        return False
    try:
        egl = ctypes.CDLL(name)
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        query_address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
        display_address = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    except (OSError, AttributeError):
        return False
    if not query_address or not display_address:
        return False
    devices, count = (ctypes.c_void_p * 16)(), ctypes.c_int(0)
    query_type = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    display_type = ctypes.CFUNCTYPE(
        ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p
    )
    if not query_type(query_address)(16, ctypes.byref(devices), ctypes.byref(count)):
        return False
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    for device in devices[: count.value]:
        display = display_type(display_address)(_EGL_PLATFORM_DEVICE, device, None)
        if display and egl.eglInitialize(display, None, None):
            return True  # the display stays initialised; MuJoCo will ask for the same one
    return False


@lru_cache(maxsize=1)
def load_mujoco() -> ModuleType:
    """Import MuJoCo with a working headless backend.

    A backend that the user chose with the environment variable MUJOCO_GL is kept, and so is one that another module
    chose by importing mujoco before us.

    Raises:
        RenderingUnavailableError: no backend, with the line that installs one.
    """
    if "mujoco" not in sys.modules and not os.environ.get("MUJOCO_GL"):
        if _egl_works():
            os.environ["MUJOCO_GL"] = "egl"
        elif ctypes.util.find_library("OSMesa"):
            os.environ["MUJOCO_GL"] = "osmesa"
        else:
            raise RenderingUnavailableError(
                f"the simulator needs EGL or OSMesa to draw without a screen; install one: {APT_LINE}"
            )
    try:
        import mujoco
    except (
        ImportError,
        AttributeError,
    ) as error:  # PyOpenGL without its library raises AttributeError
        chosen = os.environ.get("MUJOCO_GL", "")
        raise RenderingUnavailableError(
            f"mujoco could not be imported with MUJOCO_GL={chosen!r} ({error}); "
            f"pip install 'mujoco>=3.2' and: {APT_LINE}"
        ) from error
    return mujoco
