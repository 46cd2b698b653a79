# SPDX-License-Identifier: Apache-2.0
"""The MuJoCo table: masks, depth, camera and facts agree with each other and with the scene."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sa2va_sim.layout import CameraTrack, Item, Light, Motion, Scene, look_at, turn_z
from sa2va_sim.scene import SceneConfig, sample_scene
from sa2va_sim.simulator import Simulator, camera_matrix, render_labelled, silhouette_area, sim_clip
from sa2va_sim.words.vocabulary import COLOURS, SHAPES
from sa2va_sim.world import sample_world

WIDTH, HEIGHT = 320, 240
_LIGHT = (Light((0.3, -0.5, 1.8), (0, 0, 0), (0.6, 0.6, 0.6)),)


@pytest.fixture(scope="module")
def catalogue():
    """A simulator whose stock has each shape once."""
    world = sample_world(1, SHAPES, plain=True)
    simulator = Simulator(_alone(world, 0, "red"), WIDTH, HEIGHT)
    yield simulator
    simulator.close()


def _camera(eye=(0.0, -0.55, 0.45), aim=(0.0, 0.0, 0.04)) -> CameraTrack:
    return CameraTrack((0.0,), (eye,), (aim,), (0.0,), 0.8)


def _item(slot: int, colour: str, x: float = 0.0, y: float = 0.0, **more) -> Item:
    red, green, blue = (value / 255 for value in COLOURS[colour])
    return Item(slot, colour, (red, green, blue), (x, y, 0.0), **more)


def _alone(world, slot: int, colour: str) -> Scene:
    return Scene(world, (_item(slot, colour),), (), _LIGHT, 0.3, _camera(), shadows=False)


def _points(frame, mask: np.ndarray) -> np.ndarray:
    """World coordinates of the masked pixels, by depth and camera matrix alone."""
    rows, columns = (found[::5] for found in np.nonzero(mask))
    rays = np.stack([columns, rows, np.ones(len(rows))], 1) @ np.linalg.inv(frame.camera_matrix).T
    in_camera = rays * frame.depth[rows, columns][:, None]
    return in_camera @ frame.world_from_camera[:3, :3].T + frame.world_from_camera[:3, 3]


@pytest.mark.parametrize("slot", range(len(SHAPES)))
def test_every_shape_in_every_colour_is_seen(catalogue, slot: int) -> None:
    for colour in COLOURS:
        catalogue.arrange(_alone(catalogue.scene.world, slot, colour))
        frame = catalogue.render()
        fact = frame.facts[0]
        assert (fact.colour, fact.shape) == (colour, SHAPES[slot])
        assert np.count_nonzero(frame.instances == 1) > 400
        assert fact.visible > 0.9


def test_depth_puts_object_pixels_on_the_object_and_the_rest_on_the_table(catalogue) -> None:
    for slot in range(len(SHAPES)):
        catalogue.arrange(_alone(catalogue.scene.world, slot, "green"))
        frame, model = catalogue.render(), catalogue.scene.world.stock[slot]
        points = _points(frame, frame.instances == 1)
        assert points[:, 2].min() > -0.003
        assert points[:, 2].max() < model.height * 1.35 + 0.01  # flaps stand up
        assert np.hypot(points[:, 0], points[:, 1]).max() < model.radius * 1.5 + 0.01
        table = _points(frame, frame.instances == 0)
        near = np.hypot(table[:, 0], table[:, 1]) < 0.3
        assert np.median(np.abs(table[near, 2])) < 1e-3


def test_object_pixels_are_nearer_than_the_table(catalogue) -> None:
    catalogue.arrange(_alone(catalogue.scene.world, SHAPES.index("can"), "blue"))
    frame = catalogue.render()
    rows, columns = np.nonzero(frame.instances == 1)
    rays = np.stack([columns, rows, np.ones(len(rows))], 1) @ np.linalg.inv(frame.camera_matrix).T
    world = rays @ frame.world_from_camera[:3, :3].T
    to_table = -frame.world_from_camera[2, 3] / world[:, 2]
    assert (frame.depth[rows, columns] <= to_table + 2e-3).all()


def test_camera_matrix_projects_a_ball_onto_its_pixels(catalogue) -> None:
    slot = SHAPES.index("ball")
    world = catalogue.scene.world
    for x, y in ((0.0, 0.0), (0.15, 0.1), (-0.18, -0.05)):
        catalogue.arrange(replace(_alone(world, slot, "red"), items=(_item(slot, "red", x, y),)))
        frame = catalogue.render()
        centre = np.array([x, y, world.stock[slot].height / 2, 1.0])
        in_camera = np.linalg.inv(frame.world_from_camera) @ centre
        pixel = frame.camera_matrix @ in_camera[:3] / in_camera[2]
        rows, columns = np.nonzero(frame.instances == 1)
        # A ball's picture is a slightly shifted ellipse; a flipped or swapped axis would be off by tens of pixels.
        assert abs(columns.mean() - pixel[0]) < 1.0
        assert abs(rows.mean() - pixel[1]) < 1.0


def test_camera_matrix_is_the_pinhole_of_the_field_of_view() -> None:
    matrix = camera_matrix(640, 480, np.pi / 2)
    assert np.allclose(matrix, [[240, 0, 319.5], [0, 240, 239.5], [0, 0, 1]])


def test_optical_axes() -> None:
    pose = look_at(np.array([0.0, -1.0, 0.0]), np.zeros(3))
    assert np.allclose(pose[:3, :3].T, [[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # right, down, forward
    assert np.isclose(np.linalg.det(pose[:3, :3]), 1.0)


def test_visible_fraction_falls_behind_another_and_over_the_border(catalogue) -> None:
    world = catalogue.scene.world
    can, box = SHAPES.index("can"), SHAPES.index("box")
    base = _alone(world, can, "red")
    hidden = (_item(can, "red", 0.0, 0.25), _item(box, "blue", 0.12, 0.05))
    catalogue.arrange(replace(base, items=hidden, camera=_camera((0.0, -0.6, 0.2))))
    partly = catalogue.render().facts
    assert 0.02 < partly[0].visible < 0.9
    assert partly[1].visible > 0.9
    catalogue.arrange(base)
    frame = catalogue.render()
    half_width = frame.depth[frame.instances == 1].mean() * WIDTH / 2 / frame.camera_matrix[0, 0]
    catalogue.arrange(replace(base, items=(_item(can, "red", float(half_width)),)))
    assert 0.3 < catalogue.render().facts[0].visible < 0.7


def test_silhouette_area_of_a_square() -> None:
    square = np.array([[-0.5, -0.5, 1.0], [0.5, -0.5, 1.0], [0.5, 0.5, 1.0], [-0.5, 0.5, 1.0]])
    matrix = np.array([[100.0, 0, 5], [0, 100.0, 5], [0, 0, 1]])
    assert silhouette_area([square], matrix) == pytest.approx(10000, rel=0.03)
    assert silhouette_area([square, square], matrix) == pytest.approx(10000, rel=0.03)


def test_same_seed_same_bytes_other_seed_differs() -> None:
    first = render_labelled(11, 96)
    render_labelled(200, 96)  # another world in between
    again, other = render_labelled(11, 96), render_labelled(12, 96)
    assert first.rgb.tobytes() == again.rgb.tobytes()
    assert first.instances.tobytes() == again.instances.tobytes()
    assert first.facts == again.facts
    assert first.rgb.tobytes() != other.rgb.tobytes()


def test_random_scenes_show_objects_at_many_sizes() -> None:
    widths = [
        f.box[2] - f.box[0]
        for s in range(48)
        for f in render_labelled(s, 96).facts
        if f.visible > 0.9
    ]
    assert len(widths) > 60
    assert np.percentile(widths, 10) < 0.12
    assert np.percentile(widths, 95) > 0.25


def test_clips_move_and_repeat() -> None:
    moved = 0
    for seed in range(0, 8):
        clip = sim_clip(seed, 4, 96)
        assert [[f.index for f in image.facts] for image in clip] == [
            [f.index for f in clip[0].facts]
        ] * 4
        moved += (
            any(f.moving for f in clip[0].facts)
            and clip[0].instances.tobytes() != clip[-1].instances.tobytes()
        )
    assert moved >= 3
    first, again = sim_clip(3, 3, 96), sim_clip(3, 3, 96)
    assert all(a.rgb.tobytes() == b.rgb.tobytes() for a, b in zip(first, again, strict=True))


def test_dropped_things_fall_onto_the_table_and_stay(catalogue) -> None:
    slot = SHAPES.index("block")
    item = replace(_item(slot, "red"), position=(0.0, 0.0, 0.3), moving=True)
    catalogue.arrange(
        replace(_alone(catalogue.scene.world, slot, "red"), items=(item,), physics=True)
    )
    high = _points(frame := catalogue.render(), frame.instances == 1)[:, 2].min()
    catalogue.step(1.5)
    low = _points(frame := catalogue.render(), frame.instances == 1)[:, 2].min()
    assert high > 0.25
    assert abs(low) < 0.01


def test_carried_things_follow_their_way(catalogue) -> None:
    slot = SHAPES.index("mug")
    way = Motion((0.0, 2.0), ((-0.15, 0.0, 0.0), (0.15, 0.0, 0.0)), (0.0, 1.0))
    item = _item(slot, "red", motion=way, moving=True)
    catalogue.arrange(replace(_alone(catalogue.scene.world, slot, "red"), items=(item,)))
    centres = []
    for _ in range(5):
        centres.append(catalogue.render().facts[0].centre[0])
        catalogue.step(0.5)
    assert np.all(np.diff(centres) > 0.02)
    assert catalogue.render().stamp == pytest.approx(2.5)


def test_configuration_names_the_wrong_value() -> None:
    with pytest.raises(ValueError, match=r"SceneConfig.camera = 'side'"):
        SceneConfig(camera="side")
    with pytest.raises(ValueError, match=r"SceneConfig.objects = \(0, 3\)"):
        SceneConfig(objects=(0, 3))


def test_a_scene_of_another_world_is_refused(catalogue) -> None:
    with pytest.raises(ValueError, match="world"):
        catalogue.arrange(sample_scene(5000))


def test_turning_keeps_lengths() -> None:
    assert np.allclose(turn_z(0.7) @ turn_z(0.7).T, np.eye(3))


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_a_driver_the_message_says_what_to_install() -> None:
    code = (
        "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
        "from sa2va_sim.gl import load_mujoco, RenderingUnavailableError\n"
        "try: load_mujoco()\n"
        "except RenderingUnavailableError as error: print(error)\n"
    )
    result = _python(code)
    assert "apt-get install" in result.stdout, result.stderr


def test_the_users_backend_is_kept() -> None:
    code = "import os\nfrom sa2va_sim.gl import load_mujoco\nload_mujoco()\nprint(os.environ['MUJOCO_GL'])\n"
    assert _python(code, MUJOCO_GL="disable").stdout.strip() == "disable"
    assert _python(code).stdout.strip() in ("egl", "osmesa")
