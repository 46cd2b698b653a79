# SPDX-License-Identifier: Apache-2.0
"""Who may import whom. Read from the source, so that an import inside a function counts as well.

Ground floor: sa2va_model and sa2va_sim, which know none of our other packages. First floor: sa2va_training and
sa2va_serve, which use the ground floor and do not know each other; above it sa2va_ros, whose node may have its
sentences understood by a server. Top: sa2va_cli.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "sa2va_model": "sa2va_model",
    "sa2va_sim": "sa2va_sim",
    "sa2va_training": "training/sa2va_training",
    "sa2va_serve": "sa2va_serve",
    "sa2va_ros": "sa2va_ros",
    "sa2va_cli": "sa2va_cli",
}
MAY_IMPORT = {
    "sa2va_model": set(),
    "sa2va_sim": {"sa2va_model"},
    "sa2va_training": {"sa2va_model", "sa2va_sim"},
    "sa2va_serve": {"sa2va_model"},
    "sa2va_ros": {"sa2va_model", "sa2va_sim", "sa2va_serve"},
    "sa2va_cli": {"sa2va_model", "sa2va_sim", "sa2va_training", "sa2va_serve", "sa2va_ros"},
}
# `python -m sa2va_model` is the command line under another name.
EXCEPTIONS = {("sa2va_model/__main__.py", "sa2va_cli")}
ROS = {
    "rclpy", "ament_index_python", "launch", "launch_ros", "tf2_ros", "cv_bridge", "message_filters",
    "std_msgs", "sensor_msgs", "geometry_msgs", "builtin_interfaces", "diagnostic_msgs", "lifecycle_msgs",
    "rcl_interfaces", "std_srvs", "vision_msgs",
}  # fmt: skip
# Names that are free for others: folders of the repository that must never become top-level imports.
FORBIDDEN = {"training", "sim", "cli"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def imported(path: Path) -> list[tuple[str, int]]:
    """Top-level names that a file imports anywhere in it, with their lines."""
    return list(_imported(path))


def _imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno
        elif _is_dynamic_import(node):
            yield node.args[0].value.partition(".")[0], node.lineno  # type: ignore[attr-defined]


def _is_dynamic_import(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not node.args:
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    argument = node.args[0]
    return name in ("import_module", "__import__") and isinstance(
        getattr(argument, "value", None), str
    )


@pytest.mark.parametrize("package", FOLDERS)
def test_floors(package: str) -> None:
    files = sources(FOLDERS[package])
    assert files, f"{FOLDERS[package]}/ holds no Python file"
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for name, line in imported(path)
        if name in FOLDERS
        and name != package
        and name not in MAY_IMPORT[package]
        and (path.relative_to(ROOT).as_posix(), name) not in EXCEPTIONS
    ]
    assert not wrong


@pytest.mark.parametrize("package", [p for p in FOLDERS if p not in ("sa2va_ros", "sa2va_cli")])
def test_only_the_ros_package_knows_ros(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(FOLDERS[package])
        for name, line in imported(path)
        if name in ROS
    ]
    assert not wrong


def test_no_folder_is_imported_by_its_own_name() -> None:
    everything = [path for folder in [*FOLDERS.values(), "test"] for path in sources(folder)]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in everything
        for name, line in imported(path)
        if name in FORBIDDEN
    ]
    assert not wrong


def test_the_check_sees_every_kind_of_import(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        "import a.b\nfrom c.d import e\nfrom . import f\n"
        "def g():\n    import h\n    importlib.import_module('i.j')\n"
    )
    assert {name for name, _ in imported(path)} == {"a", "c", "h", "i"}


@pytest.mark.parametrize("package", FOLDERS)
def test_every_package_has_an_init(package: str) -> None:
    for folder in {path.parent for path in sources(FOLDERS[package])}:
        assert (folder / "__init__.py").is_file(), f"{folder.relative_to(ROOT)}/__init__.py"


def test_no_generated_name_is_taken() -> None:
    """colcon puts the generated modules msg, srv and action into the package sa2va_ros."""
    for name in ("msg", "srv", "action"):
        assert not (ROOT / "sa2va_ros" / name).exists()
        assert not (ROOT / "sa2va_ros" / f"{name}.py").exists()


def test_nothing_general_depends_on_how_one_model_is_made() -> None:
    """`sa2va_training.tiny` trains the weights that ship; it uses the rooms beside it and they do not know it."""
    root = ROOT / FOLDERS["sa2va_training"]
    general = [
        path
        for path in sources(FOLDERS["sa2va_training"])
        if "tiny" not in path.relative_to(root).parts
    ]
    assert len(general) > 50
    wrong = [
        str(path) for path in general if "sa2va_training.tiny" in path.read_text(encoding="utf-8")
    ]
    assert wrong == [str(root / "__init__.py")]  # its docstring names the room


# Rooms inside the packages, from below. Rooms of one floor may know each other; nobody imports from a floor above.
ROOMS: dict[str, tuple[set[str], ...]] = {
    "sa2va_model": (
        {"errors", "freed_memory", "config", "cut_tensor", "tracks", "device", "conv_stem"},
        {"io", "keyframes"},
        {"mllm", "segmentation", "results", "regions"},
        {"segmentation_half", "joint", "sa2va", "checkpoints", "export"},
        {"tracking", "ten_clips", "samtok"},
        {"testing"},
    ),
    "sa2va_ros": (
        {"support"},
        {"messages", "space"},
        {"bags", "node", "interfaces"},
        {"tracker_node"},
        {"cameras_node"},
        {"clients", "sim"},
    ),
    "sa2va_serve": (
        {"wire", "needs"},
        {"server", "client"},
    ),
    "sa2va_sim": (
        {"words", "assets"},
        {"canvas", "gl", "layout", "scene", "simulator", "stage", "textures", "world", "painted",
         "catalogue", "hard_clips", "scripted", "domain_garden", "crowd"},
        {"robots"},
    ),
    "sa2va_training": (
        {"data", "batches", "families", "objectives", "run", "metrics", "exchange"},
        {"evaluation", "tiny", "annotate"},
    ),
    "sa2va_cli": (
        {"main", "inputs", "output", "measure", "models", "truth", "backend"},
        {"track", "ask", "data", "train", "evaluation", "doctor",
         "bench", "demo", "merge", "assemble", "annotate", "look", "exchange", "serve", "export"},
    ),
}  # fmt: skip
MOST_FILES = 15


def rooms_imported(path: Path, package: str) -> Iterator[tuple[str, int]]:
    """Rooms of its own package that a file imports when it runs, with the lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == package and rest:
                yield rest.partition(".")[0], node.lineno


def room_of(path: Path, package: str) -> str:
    return path.relative_to(ROOT / FOLDERS[package]).parts[0].removesuffix(".py")


@pytest.mark.parametrize("package", ROOMS)
def test_arrows_between_rooms_run_down(package: str) -> None:
    floor = {room: level for level, rooms in enumerate(ROOMS[package]) for room in rooms}
    wrong = []
    for path in sources(FOLDERS[package]):
        own = room_of(path, package)
        if own in ("__init__", "__main__"):
            continue
        assert own in floor, f"{path.relative_to(ROOT)}: name the floor of the room {own!r}"
        wrong += [
            f"{path.relative_to(ROOT)}:{line} imports {room}"
            for room, line in rooms_imported(path, package)
            if floor.get(room, 0) > floor[own]
        ]
    assert not wrong


@pytest.mark.parametrize("package", FOLDERS)
def test_folders_are_small_enough_to_find_one_s_way(package: str) -> None:
    """At most fifteen files; readers, one for each family of datasets, aside."""
    for folder in {path.parent for path in sources(FOLDERS[package])}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES or folder.name == "readers", folder.relative_to(ROOT)


def test_no_two_public_classes_have_one_name() -> None:
    """A class is known by its name alone, in a traceback as in a search."""
    places: dict[str, list[str]] = {}
    for folder in [*FOLDERS.values(), "benchmarks", "tools"]:
        for path in sources(folder):
            if "_pb2" in path.name:
                continue  # generated: the names are those on the wire
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    places.setdefault(node.name, []).append(where)
    assert len(places) > 300
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
