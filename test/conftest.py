# SPDX-License-Identifier: Apache-2.0
"""For all tests: one thread for nano models, whose work is too small to share; a furniture library of two boxes."""

from __future__ import annotations

import fcntl
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

_LIST = """id=Test
id#1=Made#red-mug
name#1=Coffee mug
model#1=/made/mug.obj
width#1=8
depth#1=10
height#1=12.5
creator#1=Somebody
id#2=Made#print
name#2=Book
model#2=/made/book.obj
width#2=20
depth#2=30
height#2=3
"""
_BOX = """v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 2
v 1 0 2
v 1 1 2
v 0 1 2
vt 0 0
vt 1 0
vt 1 1
vt 0 1
"""
_FACES = ((1, 4, 3, 2), (5, 6, 7, 8), (1, 2, 6, 5), (2, 3, 7, 6), (3, 4, 8, 7), (4, 1, 5, 8))


def _box(material: str) -> str:
    faces = "\n".join("f " + " ".join(f"{v}/{k + 1}" for k, v in enumerate(f)) for f in _FACES)
    return f"mtllib all.mtl\n{_BOX}usemtl {material}\n{faces}\n"


@pytest.fixture
def furniture_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one library of two boxes: one of a plain colour, one with a picture."""
    monkeypatch.setenv("SA2VA_FURNITURE", str(tmp_path / "furniture"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[:, :, 0] = 255  # blue, as OpenCV writes
    picture[:256, :, :] = 255  # the upper half white
    folder = tmp_path / "furniture"
    folder.mkdir()
    with zipfile.ZipFile(folder / "Made.sh3f", "w") as file:
        file.writestr("PluginFurnitureCatalog.properties", _LIST)
        file.writestr("made/mug.obj", _box("plain"))
        file.writestr("made/book.obj", _box("printed"))
        file.writestr(
            "made/all.mtl",
            "newmtl plain\nKd 0.8 0.02 0.02\nnewmtl printed\nKd 1 1 1\nmap_Kd cover.png\n",
        )
        file.writestr("made/cover.png", cv2.imencode(".png", picture)[1].tobytes())
    return folder


@pytest.fixture(scope="session")
def nano_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved nano model, `model`, and its exported graphs, `graphs`. Tracing them is slow: workers share it."""
    for needed in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(needed)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of this run, not of this worker
    folder = shared / "onnx"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "graphs").exists():
            _export_nano(folder)
    return folder


def _export_nano(folder: Path) -> None:
    from sa2va_model.checkpoints.load import save_model
    from sa2va_model.export.writer import ExportOptions, export
    from sa2va_model.mllm.tiled import TiledMllm
    from sa2va_model.testing import nano_model

    model = nano_model(seed=1)
    mllm = model.mllm
    assert isinstance(mllm, TiledMllm)
    save_model(model, folder / "model", dtype=None)
    quiet = ExportOptions()
    export("nano", [model.sam2], folder / "graphs", quiet, say=lambda line: None, mllm=mllm)
