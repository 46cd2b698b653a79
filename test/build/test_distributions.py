# SPDX-License-Identifier: Apache-2.0
"""Where it is installed: constraints, images and workflows speak of the same ROS 2 distributions and leave NumPy alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# The NumPy of each distribution, against which its compiled packages are built, and what may stand in for it.
NUMPY = {
    "humble": ("1.21.5", "1.21.5", "1.26.4"),
    "jazzy": ("1.26.4", "1.26.4", "2.0.0"),
    "kilted": ("1.26.4", "1.26.4", "2.0.0"),
    "lyrical": ("2.3.4", "2.3.4", "3.0.0"),
}


def constraints(distribution: str) -> dict[str, Requirement]:
    lines = (ROOT / "constraints" / f"{distribution}.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


@pytest.mark.parametrize("distribution", NUMPY)
def test_numpy_stays_what_the_distribution_is_built_against(distribution: str) -> None:
    _, stays, breaks = NUMPY[distribution]
    allowed = constraints(distribution)
    assert stays in allowed["numpy"].specifier
    assert breaks not in allowed["numpy"].specifier
    if stays.startswith("1."):
        assert "4.12.0.88" not in allowed["opencv-python-headless"].specifier, "it wants NumPy 2"


def test_constraints_allow_what_setup_py_asks_for() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    core = re.search(r"CORE = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert core is not None
    asked = {r.name: r for r in map(Requirement, re.findall(r'^    "([^"]+)"', core[1], re.M))}
    for distribution, (_, stays, _) in NUMPY.items():
        assert stays in asked["numpy"].specifier, distribution
        assert constraints(distribution).keys() <= asked.keys()


def test_the_same_distributions_everywhere() -> None:
    files = sorted(path.stem for path in (ROOT / "constraints").glob("*.txt"))
    assert files == sorted(NUMPY)
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    for job in ("distribution", "image"):
        assert sorted(jobs[job]["strategy"]["matrix"]["ros"]) == files
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    image = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    for name in files:
        assert name in image
        assert name.capitalize() in readme


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.orin"])
def test_images_install_with_the_constraints_of_their_distribution(name: str) -> None:
    text = (ROOT / "docker" / name).read_text(encoding="utf-8")
    installs = re.findall(r"pip install[^\n]*", text)
    assert installs
    assert all('-c "${constraints}"' in line for line in installs)
    assert (ROOT / "docker" / "entrypoint.sh").stat().st_mode & 0o111
