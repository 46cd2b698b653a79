# SPDX-License-Identifier: Apache-2.0
"""Our conversions against the distribution's cv_bridge, for every encoding that both read.

Where cv_bridge does not load these skip and say why; then what chooses is tested with a stand-in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sa2va_ros.messages import cv_bridge as adapter
from sa2va_ros.messages.encodings import ENCODINGS, PICTURES
from sa2va_ros.messages.images import array_from_image, rgb_from_image

HEIGHT, WIDTH = 34, 46
# cv_bridge scales 16 bits to 8 and rounds, ours are the upper eight; and mono16 is stretched here (`contrast`).
ROUNDED = 1


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    adapter.bridge.cache_clear()
    adapter._known.cache_clear()


@pytest.fixture
def theirs() -> Any:
    if not adapter.usable():
        pytest.skip(adapter.bridge())
    return adapter.bridge()


def image(encoding: str, *, padding: int = 0, big: bool = False) -> SimpleNamespace:
    """Noise of an encoding, with `padding` pixels behind each row."""
    entry = ENCODINGS[encoding]
    shape = (HEIGHT * entry.rows // 2, WIDTH + padding, entry.channels)
    noise = np.random.default_rng(7).integers(0, 256, (*shape, entry.dtype().itemsize), np.uint8)
    if np.dtype(entry.dtype).kind == "f":
        noise = np.random.default_rng(7).random(shape).astype(entry.dtype)
    data = noise.tobytes()
    step = len(data) // shape[0]
    fields = {"height": HEIGHT, "width": WIDTH, "encoding": encoding, "is_bigendian": int(big)}
    return SimpleNamespace(**fields, step=step, data=data)


def ours(message: Any, read: Any, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr("sa2va_ros.messages.images.stored_pixels", lambda *_: None)
        return read(message)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("padding", [0, 3])
def test_the_stored_pixels_are_equal(
    theirs: Any, encoding: str, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, entry = image(encoding, padding=padding), ENCODINGS[encoding]
    found = adapter.stored_pixels(message, np.dtype(entry.dtype), entry.channels)
    if found is None:
        with pytest.raises(TypeError):  # what is left to us cv_bridge cannot read
            theirs.imgmsg_to_cv2(message)
        pytest.skip(f"cv_bridge does not read {encoding}")
    np.testing.assert_array_equal(found, ours(message, array_from_image, monkeypatch))
    assert padding or np.shares_memory(found, np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize("encoding", PICTURES)
def test_the_colours_are_equal(theirs: Any, encoding: str) -> None:
    message = image(encoding)
    try:
        expected = theirs.imgmsg_to_cv2(message, "rgb8")
    except (TypeError, RuntimeError) as error:
        pytest.skip(f"cv_bridge makes no colours of {encoding}: {str(error).strip()}")
    if encoding == "mono16":
        pytest.skip("mono16 is stretched between its darkest and its brightest here")
    apart = np.abs(rgb_from_image(message).astype(int) - expected)
    assert apart.max() <= (ROUNDED if ENCODINGS[encoding].dtype is np.uint16 else 0)


class StandIn:
    """Reads rgb8, and takes mono8 for something else; both from sources of cv_bridge."""

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        known = {"rgb8": ("uint8", 3), "mono8": ("uint8", 2), "16UC1": ("uint16", 1)}
        if encoding not in known:
            raise TypeError(f"Unrecognized image encoding [{encoding}]")
        return known[encoding]

    def imgmsg_to_cv2(self, message: Any) -> np.ndarray:
        return np.full((message.height, message.width), 99, np.uint16)


@pytest.mark.parametrize(
    ("message", "by_bridge"),
    [
        (image("rgb8"), True),
        (image("rgb8", padding=3), True),
        (image("16UC1"), True),
        (image("16UC1", big=True), False),
        (image("mono8"), False),
        (image("nv12"), False),
        (SimpleNamespace(**(vars(image("rgb8")) | {"step": 3 * WIDTH + 1})), False),
    ],
)
def test_it_reads_what_it_reads_as_we_do_and_nothing_else(
    message: Any, by_bridge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType("cv_bridge")
    module.CvBridge = StandIn
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    adapter.bridge.cache_clear()
    message.data = message.data + bytes(HEIGHT)
    assert (array_from_image(message) == 99).all() == by_bridge


@pytest.mark.parametrize(
    "error", [ImportError("numpy.core.multiarray failed to import"), AttributeError("_ARRAY_API")]
)
def test_one_that_does_not_load_beside_this_numpy_is_not_used(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def encoding_to_dtype_with_channels(self, encoding: str) -> None:
            raise error

    module: Any = ModuleType("cv_bridge")
    module.CvBridge = Broken
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    adapter.bridge.cache_clear()
    assert not adapter.usable()
    assert str(error) in adapter.bridge()
    assert array_from_image(image("rgb8")).shape == (HEIGHT, WIDTH, 3)
