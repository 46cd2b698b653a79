# SPDX-License-Identifier: Apache-2.0
"""The public names: lazy, listed, and enough for what the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import sa2va_model
from sa2va_model.testing import nano_model

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "test" / "data" / "golden" / "internvl" / "video_T8.safetensors"


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    recorded = load_file(GOLDEN)
    return [cv2.resize(recorded[f"in.frame.{t}"].numpy(), (96, 96)) for t in range(6)]


@pytest.fixture
def clip(tmp_path: Path, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures that stands where the documentation has a video."""
    folder = tmp_path / "table.mp4"
    folder.mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t}.png")
    monkeypatch.chdir(tmp_path)
    return folder


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, sa2va_model; from sa2va_model import InputError, Track, Event; dir(sa2va_model);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'cv2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    assert set(sa2va_model.__all__) == set(sa2va_model._HOME) <= set(dir(sa2va_model))
    for name in sa2va_model.__all__:
        value = getattr(sa2va_model, name)
        assert value.__name__ == name
        assert value.__doc__
    with pytest.raises(AttributeError, match="nothing"):
        sa2va_model.nothing  # noqa: B018


def test_the_page_lists_every_public_name() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(sa2va_model.__all__)


def test_the_block_for_newcomers_runs(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [block] = blocks("docs/api.md")
    assert set(re.findall(r"from (\S+) import", block)) == {"sa2va_model"}
    names: dict[str, object] = {}
    exec(compile(block, "docs/api.md", "exec"), names)
    assert isinstance(names["result"], sa2va_model.FrameResult)
    assert "STARTED red_mug" in capsys.readouterr().out


def test_the_block_of_the_readme_runs(frames: list[np.ndarray]) -> None:
    [block] = blocks("README.md")
    assert set(re.findall(r"from (\S+) import", block)) == {"sa2va_model"}
    names: dict[str, object] = {"image": frames[0], "frames": frames}
    exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["seen"], sa2va_model.Segmentation)
    assert isinstance(names["clip"], sa2va_model.Answer)
    assert names["clip"].masks.shape[1:] == (6, 96, 96)


def test_arrays_pictures_and_paths_are_the_same(clip: Path, frames: list[np.ndarray]) -> None:
    model, path = nano_model(), clip / "0.png"
    image, picture = frames[0], Image.fromarray(frames[0])
    region = sa2va_model.Region(box=(10, 10, 60, 60))
    for given in (picture, str(path), path):
        for ours, theirs in (
            (model.segment(given, "the mug").masks, model.segment(image, "the mug").masks),
            (model.segment_region(given, region).masks, model.segment_region(image, region).masks),
            (model.chat_image(given, "What?").masks, model.chat_image(image, "What?").masks),
            (model.caption_grounded(given).masks, model.caption_grounded(image).masks),
            (model.encode_image(given).top.numpy(), model.encode_image(image).top.numpy()),
        ):
            np.testing.assert_array_equal(ours, theirs)
    expected = model.segment_video(frames, "the mug").masks
    assert expected.any()
    for clip_given in (clip, str(clip), [Image.fromarray(f) for f in frames], np.stack(frames)):
        np.testing.assert_array_equal(model.segment_video(clip_given, "the mug").masks, expected)
        assert model.ground(clip_given, "the mug").found


def test_pictures_lie_as_their_camera_held_them() -> None:
    turned = Image.new("RGB", (40, 20), "red")
    turned.getexif()[0x0112] = 6
    assert nano_model().segment(turned, "the mug").masks.shape[1:] == (40, 20)


def test_what_is_no_image_is_named(clip: Path) -> None:
    model = nano_model()
    with pytest.raises(sa2va_model.InputError, match=r"missing\.png"):
        model.segment("missing.png", "the mug")
    with pytest.raises(sa2va_model.InputError, match=r"frame 1.*float32"):
        model.segment_video([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32)], "a")
