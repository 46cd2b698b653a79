# SPDX-License-Identifier: Apache-2.0
"""2D scenes: a function of the seed, and their facts are those of their pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sa2va_sim.painted import scene as flat
from sa2va_sim.painted.paint import paint
from sa2va_sim.words.facts import LabelledImage
from sa2va_sim.words.vocabulary import COLOUR_RANGES, COLOURS, SHAPES, sample_colour

SIZE = 128


def _check_facts(image: LabelledImage) -> None:
    for fact in image.facts:
        mask = image.instances == fact.index + 1
        assert fact.area == pytest.approx(mask.mean())
        assert 0.0 <= fact.visible <= 1.0
        if mask.any():
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.allclose(np.asarray(fact.box) * mask.shape[0], box)
    assert image.instances.max() <= len(image.facts)


def test_same_seed_same_bytes_other_seed_differs() -> None:
    first, again, other = (flat.flat_scene(np.random.default_rng(s), SIZE) for s in (7, 7, 8))
    assert first.rgb.tobytes() == again.rgb.tobytes()
    assert first.instances.tobytes() == again.instances.tobytes()
    assert first.facts == again.facts
    assert first.rgb.tobytes() != other.rgb.tobytes()


@pytest.mark.parametrize("size", [64, 192])
def test_facts_agree_with_pixels(size: int) -> None:
    for seed in range(40):
        image = flat.flat_scene(np.random.default_rng(seed), size)
        assert image.rgb.shape == (size, size, 3)
        assert image.rgb.dtype == image.instances.dtype == np.uint8
        _check_facts(image)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_shape_in_every_colour_shows_its_colour(shape: str, colour: str) -> None:
    rng = np.random.default_rng(3)
    scene = flat._sample_scene(rng, SIZE, margin=0.0)
    thing = flat.make_thing(rng, colour, shape, 0.25, 0.5, 0.7, pitch=0.6)
    plain = replace(scene, gain=np.ones(3, np.float32), gamma=1.0, noise=0.0, blur=0.0, shadow=0.0)
    with_it = paint(plain, SIZE, (thing,), rng, frozenset())
    assert np.count_nonzero(with_it.instances) > 300
    mean = with_it.rgb[with_it.instances == 1].mean(0)
    distance = {
        name: np.linalg.norm(_hue(mean) - _hue(np.array(rgb, float)))
        for name, rgb in COLOURS.items()
    }
    if colour not in ("white", "black"):  # lids, pages and shades pull their mean towards grey
        nearest = min(
            (n for n in distance if n not in ("white", "black")), key=distance.__getitem__
        )
        assert nearest == colour


def _hue(rgb: np.ndarray) -> np.ndarray:
    """Colour without lightness; pink is told from red by saturation, which greys too, so it is left out of the norm."""
    chroma = rgb - rgb.mean()
    return chroma / (np.linalg.norm(chroma) + 1e-6)


def test_named_colours_stay_in_their_range() -> None:
    rng = np.random.default_rng(0)
    centres = {name: np.array(rgb, float) for name, rgb in COLOURS.items()}
    for name in COLOUR_RANGES:
        for _ in range(50):
            rgb = sample_colour(rng, name)
            assert rgb.min() >= 0
            assert rgb.max() <= 255
            if name not in ("white", "black"):
                others = {
                    n: np.linalg.norm(_hue(rgb) - _hue(c))
                    for n, c in centres.items()
                    if n not in ("white", "black")
                }
                assert min(others, key=others.__getitem__) == name


def test_clip_keeps_identities_and_moves() -> None:
    moved = gone_and_back = 0
    for seed in range(24):
        clip = flat.flat_clip(np.random.default_rng(seed), 96, frames=8)
        assert len(clip) == 8
        names = [[(f.index, f.colour, f.shape, f.moving) for f in image.facts] for image in clip]
        assert all(n == names[0] for n in names)
        for image in clip:
            _check_facts(image)
        moved += any(f.moving for f in clip[0].facts)
        for k in range(len(names[0])):
            seen = [image.facts[k].area > 0 for image in clip]
            middle_gone = not all(seen[1:-1])
            gone_and_back += seen[0] and seen[-1] and middle_gone
    assert moved > 10
    assert gone_and_back > 2


def test_clip_is_a_function_of_the_seed() -> None:
    first, again = (flat.flat_clip(np.random.default_rng(5), 96, frames=4) for _ in range(2))
    assert all(a.rgb.tobytes() == b.rgb.tobytes() for a, b in zip(first, again, strict=True))
