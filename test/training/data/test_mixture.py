# SPDX-License-Identifier: Apache-2.0
"""Mixed batches: a function of seed and batch number, each dataset as often as it should count."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from sa2va_model.errors import InputError
from sa2va_training.data.mixture import Mixture, repeats_for_shares
from sa2va_training.data.sample import Dataset, Message, Sample
from sa2va_training.data.shipped import find_config
from sa2va_training.data.sources import open_sources

from ..layouts import mevis, osprey, refcoco


class Numbers:
    def __init__(self, name: str, count: int) -> None:
        self.name, self._count = name, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        turns = (Message("user", str(index)), Message("assistant", "yes"))
        return Sample(self.name, f"{self.name}: {index}", str(index), turns=turns)


def mixture(seed: int = 0, batch: int = 4) -> Mixture:
    return Mixture([Numbers("a", 10), Numbers("b", 8)], batch, repeats=[2, 0.5], seed=seed)


def test_the_type_is_a_dataset() -> None:
    assert isinstance(Numbers("a", 1), Dataset)


def test_an_epoch_counts_every_dataset_as_often_as_asked() -> None:
    mixed = mixture()
    assert mixed.batches_per_epoch == 5 + 1
    seen = Counter((draw.dataset, draw.index) for n in range(6) for draw in mixed.draws(n))
    assert all(seen[0, i] == 2 for i in range(10))
    assert sum(count for (d, _), count in seen.items() if d == 1) == 4
    assert max(count for (d, _), count in seen.items() if d == 1) == 1


def test_a_batch_is_of_one_dataset_and_is_what_it_was() -> None:
    first, again = mixture(), mixture()
    later = [again.draws(n) for n in reversed(range(30))][::-1]  # in any order, over epochs
    for number in range(30):
        draws = first.draws(number)
        assert len({draw.dataset for draw in draws}) == 1
        assert draws == later[number]
        assert [draw.number for draw in draws] == list(range(4 * number, 4 * number + 4))
    assert [first.draws(n) for n in range(6)] != [first.draws(n) for n in range(6, 12)]
    assert [mixture(seed=1).draws(n) for n in range(6)] != [first.draws(n) for n in range(6)]


def test_what_is_random_about_a_draw_is_its_own() -> None:
    draws = [draw for n in range(3) for draw in mixture().draws(n)]
    values = [draw.rng(5).random() for draw in draws]
    assert len(set(values)) == len(values)
    assert values == [draw.rng(5).random() for draw in draws]
    assert mixture().sample(draws[0]).id == str(draws[0].index)


def test_the_last_batch_is_filled_up() -> None:
    mixed = Mixture([Numbers("a", 3)], 8)
    assert sorted(Counter(d.index for d in mixed.draws(0)).values()) == [2, 3, 3]


def test_repeats_for_shares() -> None:
    lengths = [1000, 10]
    repeats = repeats_for_shares([0.7, 0.3], lengths)
    drawn = np.array(lengths) * repeats
    assert drawn / drawn.sum() == pytest.approx([0.7, 0.3])
    assert min(repeats) == 1.0


@pytest.mark.parametrize(
    ("datasets", "batch", "repeats", "words"),
    [
        ([], 1, None, "no dataset"),
        ([Numbers("a", 0)], 1, None, "a: no sample"),
        ([Numbers("a", 1)], 0, None, "batch is 0"),
        ([Numbers("a", 1)], 1, [0.0], "a: repeats is 0"),
        ([Numbers("a", 1)], 1, [1.0, 1.0], "2 repeats for 1"),
    ],
)
def test_wrong_mixtures_are_named(
    datasets: list[Numbers], batch: int, repeats: list[float] | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Mixture(datasets, batch, repeats=repeats)


def test_the_paper_s_mixture_with_its_repeats(tmp_path: Path) -> None:
    """Three of the datasets of Table 2 where Sa2VA's layout has them, the others left out by name."""
    refcoco(tmp_path / "ref_seg")
    mevis(tmp_path / "video_datas/mevis")
    osprey(tmp_path / "osprey-724k")
    here = {"refcoco", "mevis", "osprey_conversation"}
    listed = yaml.safe_load(find_config("table02", "paper").read_text())
    drop = [entry["name"] for entry in listed if entry["name"] not in here]
    assert len(drop) == 12
    spec = {"mixture": "table02", "root": str(tmp_path), "drop": drop}
    found = open_sources(spec, held_out=0.0, stills=False)
    assert {(source.name, source.repeats) for source in found} == {
        ("refcoco", 5.0),
        ("mevis", 4.0),
        ("osprey_conversation", 1.0),
    }
    for change, words in (
        ({"drop": ["refcoc"]}, "drop names 'refcoc'"),
        ({"drop": []}, "refcoco\\+"),
        ({"weight": 2}, "unknown key 'weight'"),
    ):
        with pytest.raises(InputError, match=words):
            open_sources({**spec, **change}, held_out=0.0, stills=False)
