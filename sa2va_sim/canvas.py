# SPDX-License-Identifier: Apache-2.0
"""Draws a compiled MuJoCo model off screen: one picture, or identities and depth in one pass.

MuJoCo's own renderer opens an OpenGL context for every model, which costs a quarter of a second in software; here all
models of a thread share one.
"""

from __future__ import annotations

import atexit
import threading
from typing import Any

import numpy as np

from sa2va_sim.gl import load_mujoco

_local = threading.local()


def _shared_context() -> Any:
    """This thread's OpenGL context, current."""
    context = getattr(_local, "context", None)
    if context is None:
        load_mujoco()
        from mujoco.rendering.classic import gl_context

        # Freed at exit and not by the garbage collector, which may come after OpenGL is gone.
        owned = type("_OwnedContext", (gl_context.GLContext,), {"__del__": lambda self: None})
        context = _local.context = owned(64, 64)
        atexit.register(context.free)
    context.make_current()
    return context


class Canvas:
    """Pictures of one model; belongs to the thread that made it."""

    def __init__(self, model: Any, width: int, height: int) -> None:
        """Upload the model's meshes and textures.

        Raises:
            ValueError: the picture is larger than the model's off-screen buffer.
        """
        self._mj = mj = load_mujoco()
        limit = model.vis.global_.offwidth, model.vis.global_.offheight
        if width > limit[0] or height > limit[1]:
            raise ValueError(
                f"image size {width} x {height}: expected at most {limit[0]} x {limit[1]}"
            )
        _shared_context()
        self._model, self._shape = model, (height, width)
        self._scene = mj.MjvScene(model, maxgeom=1000)
        self._option = mj.MjvOption()
        self._camera = mj.MjvCamera()
        self._camera.type, self._camera.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED, 0
        self._rect = mj.MjrRect(0, 0, width, height)
        self._context = mj.MjrContext(model, mj.mjtFontScale.mjFONTSCALE_50.value)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mj.mjtDepthMap.mjDEPTH_ZEROFAR

    def update(self, data: Any) -> None:
        """Take over positions, lights and camera 0 as they are now."""
        category = self._mj.mjtCatBit.mjCAT_ALL.value
        self._mj.mjv_updateScene(
            self._model, data, self._option, None, self._camera, category, self._scene
        )

    def draw(self, shadows: bool) -> np.ndarray:
        """The picture, uint8 [H, W, 3]."""
        rgb = np.empty((*self._shape, 3), np.uint8)
        self._draw(rgb, None, identities=False, shadows=shadows)
        return np.ascontiguousarray(rgb[::-1])

    def draw_truth(self) -> tuple[np.ndarray, np.ndarray]:
        """What is seen and how far it is.

        Returns:
            geom ids int32 [H, W] (-1 = nothing) and depth float32 [H, W], metres along the optical axis.
        """
        rgb, buffer = np.empty((*self._shape, 3), np.uint8), np.empty(self._shape, np.float32)
        self._draw(rgb, buffer, identities=True, shadows=False)
        wide = rgb[::-1].astype(np.int32)
        drawn = wide[..., 0] + wide[..., 1] * 256 + wide[..., 2] * 65536
        geoms = np.full(self._scene.ngeom + 1, -1, np.int32)
        kind = int(self._mj.mjtObj.mjOBJ_GEOM)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid != -1 and geom.objtype == kind:
                geoms[geom.segid + 1] = geom.objid
        return geoms[drawn], self._metres(buffer[::-1])

    def _draw(
        self, rgb: np.ndarray, depth: np.ndarray | None, identities: bool, shadows: bool
    ) -> None:
        mj, flags = self._mj, self._scene.flags
        _shared_context()
        flags[mj.mjtRndFlag.mjRND_SHADOW] = shadows
        flags[mj.mjtRndFlag.mjRND_REFLECTION] = False
        flags[mj.mjtRndFlag.mjRND_SEGMENT] = flags[mj.mjtRndFlag.mjRND_IDCOLOR] = identities
        mj.mjr_render(self._rect, self._scene, self._context)
        mj.mjr_readPixels(rgb, depth, self._rect, self._context)

    def _metres(self, buffer: np.ndarray) -> np.ndarray:
        """Undo the projection of the reversed depth buffer (1 at the near plane, 0 at the far one)."""
        extent = self._model.stat.extent
        near, far = self._model.vis.map.znear * extent, self._model.vis.map.zfar * extent
        return (near * far / (near + buffer.astype(np.float64) * (far - near))).astype(np.float32)

    def close(self) -> None:
        """Free what the model holds in OpenGL."""
        if self._context is not None:
            _shared_context()
            self._context.free()
            self._context = None
