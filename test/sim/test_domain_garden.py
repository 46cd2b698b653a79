# SPDX-License-Identifier: Apache-2.0
"""The domain of its own: its scenes are of its shapes alone, and it leaves all other scenes as they were."""

from __future__ import annotations

import numpy as np
import pytest

from sa2va_sim import domain_garden
from sa2va_sim.assets import build_object, register_shape
from sa2va_sim.words.expressions import describe
from sa2va_sim.words.vocabulary import SHAPES, words
from sa2va_sim.world import sample_world


def test_the_vocabulary_does_not_know_it() -> None:
    assert not set(domain_garden.SHAPES) & set(words())
    stock = {model.shape for seed in range(6) for model in sample_world(seed).stock}
    assert stock <= set(SHAPES)


@pytest.mark.parametrize("shape", domain_garden.SHAPES)
def test_an_object_stands_on_the_table_and_outlines_hold_its_parts(shape: str) -> None:
    for seed in range(4):
        model = build_object(shape, np.random.default_rng(seed))
        assert model.shape == shape
        points = np.concatenate(model.outline)
        assert -1e-6 < points[:, 2].min() < 0.004
        assert points[:, 2].max() <= model.height + 0.03
        assert 0.03 < model.extent < 0.3
        for part in model.parts:
            if part.vertices is not None and part.faces is not None:
                assert part.faces.max() < len(part.vertices)
                low, high = points.min(0) - 1e-6, points.max(0) + 1e-6
                assert (part.vertices >= low).all()
                assert (part.vertices <= high).all()


def test_a_scene_is_a_function_of_its_seed_and_says_its_own_words() -> None:
    one, two = domain_garden.render_garden(3, 96), domain_garden.render_garden(3, 96)
    assert np.array_equal(one.rgb, two.rgb)
    assert np.array_equal(one.instances, two.instances)
    assert {fact.shape for fact in one.facts} <= set(domain_garden.SHAPES)
    said = describe(one.facts, np.random.default_rng(0), shapes=domain_garden.SHAPES, motion=False)
    spoken = " ".join(e.text for e in said).split()
    assert set(spoken) & set(domain_garden.SHAPES)
    assert not set(spoken) & set(SHAPES)


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match="'mug' is there already"):
        register_shape("mug", lambda rng, scale: build_object("ball", rng, scale))
