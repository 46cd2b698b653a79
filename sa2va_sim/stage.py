# SPDX-License-Identifier: Apache-2.0
"""The compiled world: the only place that touches MuJoCo's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from sa2va_sim.canvas import Canvas
from sa2va_sim.gl import load_mujoco
from sa2va_sim.layout import Item, Scene
from sa2va_sim.world import World

_AWAY = np.array([0.0, 0.0, -20.0])  # where unused stock waits, far below the floor


class Stage:
    """A world that can be arranged, moved and drawn."""

    def __init__(self, world: World, width: int, height: int, shadows: int | None = None) -> None:
        """Compile the world and upload it for drawing at this size; `shadows` as in `Simulator`."""
        mj = self._mj = load_mujoco()
        self.world = world
        self.model: Any = mj.MjModel.from_xml_string(world.xml)
        for name, image in world.textures.items():
            texture = self.model.texture(name).id
            start = self.model.tex_adr[texture]
            self.model.tex_data[start : start + image.size] = image.ravel()
        self.data: Any = mj.MjData(self.model)
        if shadows is not None:
            self.model.vis.quality.shadowsize = shadows
        self._objects = self._geom_labels()
        self._canvas = Canvas(self.model, width, height)
        self.carried: list[tuple[str, Item]] = []

    def _geom_labels(self) -> np.ndarray:
        """Slot of the stock + 1 by geom id, 0 for everything else; the last entry serves id -1."""
        labels = np.zeros(self.model.ngeom + 1, np.int32)
        for slot in range(len(self.world.stock)):
            body = self.model.body(f"object_{slot}").id
            labels[:-1][self.model.geom_bodyid == body] = slot + 1
        return labels

    def arrange(self, scene: Scene) -> None:
        """Put everything in its place; time zero."""
        self._mj.mj_resetData(self.model, self.data)
        for k in range(len(self.world.stock)):
            self.put(f"object_{k}", _AWAY + 0.5 * k, np.eye(3))
        for k in range(len(self.world.clutter)):
            self.put(f"clutter_{k}", _AWAY * 2 + 0.5 * k, np.eye(3))
        self.carried = []
        for prefix, items in (("object", scene.items), ("clutter", scene.clutter)):
            for item in items:
                name = f"{prefix}_{item.slot}"
                self.put(name, np.asarray(item.position), item.rotation)
                self.model.material(name).rgba[:3] = item.rgb
                self.carried.append((name, item))
        self._light(scene)

    def _light(self, scene: Scene) -> None:
        model = self.model
        for k in range(model.nlight):
            lit = k < len(scene.lights)
            model.light_diffuse[k] = scene.lights[k].rgb if lit else 0.0
            model.light_specular[k] = 0.3 if lit else 0.0
            model.light_ambient[k] = 0.0
            if lit:
                light = scene.lights[k]
                way = np.asarray(light.aim) - light.position
                model.light_pos[k], model.light_dir[k] = light.position, way / np.linalg.norm(way)
        model.light_castshadow[0] = scene.shadows
        headlight = model.vis.headlight
        headlight.ambient[:], headlight.diffuse[:], headlight.specular[:] = scene.ambient, 0.15, 0.0

    def put(self, body: str, position: np.ndarray, rotation: np.ndarray) -> None:
        """Set a body's pose; it is at rest there."""
        joint = self.model.joint(body)
        start, velocity = int(joint.qposadr[0]), int(joint.dofadr[0])
        quaternion = np.empty(4)
        self._mj.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
        self.data.qpos[start : start + 3] = position
        self.data.qpos[start + 3 : start + 7] = quaternion
        self.data.qvel[velocity : velocity + 6] = 0.0

    def body_pose(self, body: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] and rotation [3, 3] in the world."""
        found = self.data.body(body)
        return found.xpos.copy(), found.xmat.reshape(3, 3).copy()

    def advance(self) -> None:
        """One physics step; what waits below the floor stays there."""
        self._mj.mj_step(self.model, self.data)

    def settle(self) -> None:
        """Make positions of bodies, lights and cameras agree with the joints."""
        self._mj.mj_kinematics(self.model, self.data)
        self._mj.mj_comPos(self.model, self.data)
        self._mj.mj_camlight(self.model, self.data)

    def aim(self, world_from_camera: np.ndarray, fovy: float) -> None:
        """Place the camera. MuJoCo's own camera looks along -z with y up."""
        quaternion = np.empty(4)
        axes = world_from_camera[:3, :3] * [1.0, -1.0, -1.0]
        self._mj.mju_mat2Quat(quaternion, np.ascontiguousarray(axes).ravel())
        self.model.cam_pos[0], self.model.cam_quat[0] = world_from_camera[:3, 3], quaternion
        self.model.cam_fovy[0] = np.rad2deg(fovy)
        self._mj.mj_camlight(self.model, self.data)
        self._canvas.update(self.data)

    def draw(self) -> np.ndarray:
        """The picture, uint8 [H, W, 3]."""
        return self._canvas.draw(shadows=bool(self.model.light_castshadow[0]))

    def draw_truth(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Instances uint8 [H, W] and depth float32 [H, W] in metres."""
        geoms, depth = self._canvas.draw_truth()
        index_of_slot = np.zeros(len(self.world.stock) + 1, np.uint8)
        for index, item in enumerate(scene.items):
            index_of_slot[item.slot + 1] = index + 1
        return index_of_slot[self._objects[geoms]], depth

    def close(self) -> None:
        """Free the drawing context."""
        self._canvas.close()
