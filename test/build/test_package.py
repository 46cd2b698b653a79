# SPDX-License-Identifier: Apache-2.0
"""One package, told in several files: package.xml, CMakeLists.txt, setup.py, the messages and the parameters agree."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from enum import IntEnum
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from sa2va_model.tracks import EventKind, TrackState
from sa2va_ros.support.executables import EXECUTABLES

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = [
    path for kind in ("msg", "srv", "action") for path in sorted((ROOT / kind).glob(f"*.{kind}"))
]
CONSTANT = re.compile(r"^\w+\s+([A-Z][A-Z0-9_]*)\s*=\s*(\d+)", re.MULTILINE)
FIELD = re.compile(r"^([a-z]\w*(?:/\w+)?)(?:\[\d*\])?\s+[a-z]\w*\s*(?:#|$)")


def constants(interface: str) -> dict[str, int]:
    text = (ROOT / interface).read_text(encoding="utf-8")
    return {name: int(value) for name, value in CONSTANT.findall(text)}


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def test_cmake_lists_every_interface() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', text)
    assert sorted(listed) == sorted(path.relative_to(ROOT).as_posix() for path in INTERFACES)


def test_cmake_and_package_xml_name_the_same_message_packages() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    dependencies = re.search(r"DEPENDENCIES ([\w ]+)\n", text)
    assert dependencies is not None
    names = dependencies.group(1).split()
    assert set(names) == {element.text for element in package_xml().findall("depend")}
    for name in names:
        assert f"find_package({name} REQUIRED)" in text


# Import name -> key, where they differ; what is only looked for by name is not here.
KEYS = {"cv2": "python3-opencv", "numpy": "python3-numpy", "PIL": "python3-pil", "tqdm": "python3-tqdm", "yaml": "python3-yaml"}  # fmt: skip
PACKAGES_OF = {"tf2_ros": "tf2_ros_py"}


def imports(*folders: str) -> set[str]:
    """Top-level names that are imported, by `import_module` and `need` as well."""
    found: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                value = getattr(node.args[0], "value", None)
                if name in ("import_module", "need") and isinstance(value, str):
                    found.add(value.partition(".")[0])
    return found


def test_package_xml_declares_what_is_imported() -> None:
    """Of ROS everything; of the rest what rosdep installs from the distribution. setup.py has what pip installs."""
    declared = {e.text for kind in ("depend", "exec_depend") for e in package_xml().findall(kind)}
    asked = re.findall(r'^ {4,8}"([A-Za-z0-9_-]+)[\[><=]', (ROOT / "setup.py").read_text(), re.M)
    by_pip = {name.lower().replace("-", "_") for name in asked}
    by_pip |= {"sam2", "av", "google", "grpc", "grpc_health", "tokenizers", "lz4", "backports", "behaviortreepy", "ray"}
    used = imports("sa2va_ros", "launch") - set(sys.stdlib_module_names)
    used = {name for name in used if not name.startswith("sa2va_")}
    for name in sorted(used):
        key = KEYS.get(name, PACKAGES_OF.get(name, name))
        assert key in declared or name.lower() in by_pip, f"{name} is imported and not declared"
    everywhere = imports("sa2va_ros", "launch", "sa2va_model", "sa2va_cli", "training/sa2va_training")
    assert {key for name, key in KEYS.items() if name in everywhere} <= declared


def test_package_xml_names_no_address_that_leads_nowhere() -> None:
    assert not package_xml().findall("url"), "REP 149 does not ask for one, and nothing is published yet"
    emails = {e.get("email") for kind in ("maintainer", "author") for e in package_xml().findall(kind)}
    assert emails == {"maintainers@sa2va-ros.invalid"}, "REP 149 asks for one; .invalid is reserved (RFC 2606)"


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_interfaces_use_declared_packages_only(path: Path) -> None:
    allowed = {element.text for element in package_xml().findall("depend")} | {"sa2va_ros"}
    own = {other.stem for other in INTERFACES if other.suffix == ".msg"}
    types = [
        found.group(1)
        for line in path.read_text(encoding="utf-8").splitlines()
        if (found := FIELD.match(line))
    ]
    for name in types:
        package, _, message = name.rpartition("/")
        assert package == "" or package in allowed, f"{path.name}: {name}"
        assert package != "sa2va_ros" or message in own, f"{path.name}: {name}"


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_every_interface_says_what_it_is(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(
    ("interface", "prefix", "enumeration"),
    [("msg/Track.msg", "STATE_", TrackState), ("msg/TrackEvent.msg", "", EventKind)],
)
def test_enumerations_equal_those_of_the_tracker(
    interface: str, prefix: str, enumeration: type[IntEnum]
) -> None:
    expected = {f"{prefix}{member.name}": member.value for member in enumeration}
    assert constants(interface) == expected


def test_versions_agree() -> None:
    version = package_xml().findtext("version")
    changes = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    newest = re.search(r"^(\d+\.\d+\.\d+) \(", changes, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == version
    # setup.py reads the version from package.xml; it must not state another one.
    assert "version=version()" in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_every_package_of_setup_py_is_installed_by_cmake() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    folders = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FOLDERS"
    )
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    installed = {n: f for f, n in re.findall(r"install_python_package\(([\w/]+) ([\w/]+)\)", text)}
    assert installed.pop("sa2va_ros", "sa2va_ros") == folders.pop("sa2va_ros")
    assert {n.replace("/", "."): f for n, f in installed.items()} == folders
    assert "training" not in folders


def test_parameter_file_lists_the_parameters_of_the_node_with_their_defaults() -> None:
    from sa2va_ros.node.parameters import TABLE

    loaded = yaml.safe_load((ROOT / "config" / "tracker.yaml").read_text(encoding="utf-8"))
    assert loaded["/**"]["ros__parameters"] == {row.name: row.default for row in TABLE}


def test_scripts_are_thin_and_executable() -> None:
    installed = re.findall(
        r"\bscripts/(\w+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE
    )
    scripts = sorted((ROOT / "scripts").iterdir())
    assert sorted(installed) == [path.name for path in scripts]
    for path in scripts:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "#!/usr/bin/env python3"  # the interpreter of the environment in use
        assert len(lines) <= 8
        module = next(line.split()[1] for line in lines if line.startswith("from sa2va_"))
        if module.startswith("sa2va_ros."):
            assert EXECUTABLES[path.name] == module
        assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_setup_py_allows_the_versions_that_were_run(package: str) -> None:
    asked = re.search(rf'^    "{package}([^"]+)",$', (ROOT / "setup.py").read_text(), re.MULTILINE)
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {package} \| `([^`]+)` \| (.+) \|$", page, re.MULTILINE)
    assert asked is not None
    assert row is not None
    assert row[1] == asked[1]
    for version in re.findall(r"\b\d+\.\d+\.\d+\b", row[2]):
        assert version in SpecifierSet(row[1])
