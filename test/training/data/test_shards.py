# SPDX-License-Identifier: Apache-2.0
"""Tar files of samples: the same as the folder they were made of, fetched as needed, in an order that is a function."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sa2va_cli.main import main
from sa2va_model.errors import InputError
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.mixture import TOGETHER, Mixture, by_blocks
from sa2va_training.data.readers.shards import Shards, open_shards
from sa2va_training.data.readers.simple import SimpleFolder
from sa2va_training.data.sources import open_sources

COUNT, PER = 24, 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    with FolderWriter(root, quality=0) as writer:
        for n in range(COUNT - 1):
            labels = np.zeros((20, 30), np.uint8)
            labels[2 : 8 + n % 5, 3:12] = 1
            said = [{"text": f"thing {n}", "objects": ["1"]}]
            rgb = np.full((20, 30, 3), 5 * n, np.uint8)
            writer.add_image(f"p{n:02d}", rgb, labels, {1: "thing"}, expressions=said)
        frames = [np.full((20, 30, 3), 9 * t, np.uint8) for t in range(3)]
        said = [{"text": "it", "objects": ["1"]}]
        masks = [np.eye(20, 30, dtype=np.uint8), None, np.zeros((20, 30), np.uint8)]
        writer.add_clip("run", frames, masks, {1: "it"}, expressions=said)
    return root


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "shards"
    words = ["data", "export", str(folder), "--format", "shards", "--per", str(PER)]
    assert main([*words, "-o", str(out)]) == 0
    assert len(list(out.glob("*.tar"))) == COUNT // PER
    return out


def test_samples_are_those_of_the_folder(folder: Path, shards: Path) -> None:
    plain, packed = SimpleFolder(folder), open_shards(shards, "packed")
    assert len(plain) == len(packed) == COUNT
    for n in range(COUNT):
        one, other = plain[n], packed[n]
        assert (one.id, one.clip, len(one.frames)) == (other.id, other.clip, len(other.frames))
        assert all(
            np.array_equal(a, b)
            for a, b in zip(one.read_frames(), other.read_frames(), strict=True)
        )
        for a, b in zip(one.referrings, other.referrings, strict=True):
            assert (a.text, a.kind) == (b.text, b.kind)
            assert a.target is not None
            assert b.target is not None
            assert a.target.annotated == b.target.annotated
            assert np.array_equal(a.target.read(20, 30), b.target.read(20, 30))


def test_the_order_is_a_function_of_seed_and_step_and_stays_in_a_few_files(shards: Path) -> None:
    dataset = open_shards(shards, "packed")
    one, again = (Mixture([dataset], 2, seed=3) for _ in range(2))
    order = [draw.index for n in range(12) for draw in one.draws(n)]
    assert sorted(order) == list(range(COUNT))
    late = [draw.index for n in (7, 8) for draw in again.draws(n)]  # as a run that resumes asks
    assert late == order[14:18]
    span = PER * TOGETHER
    files = [{index // PER for index in order[i : i + span]} for i in range(0, COUNT, span)]
    assert all(len(some) == TOGETHER for some in files)
    assert order != sorted(order)
    assert [d.index for n in range(12, 24) for d in one.draws(n)] != order
    mixed = by_blocks((2, 2, 2), np.random.default_rng(0))
    assert sorted(mixed.tolist()) == list(range(6))


def test_files_are_fetched_and_few_are_kept(shards: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    urls = {}
    for file in shards.glob("*.tar"):
        file.rename(far / file.name)
        urls[file.name] = (far / file.name).as_uri()
    (shards / "shards.json").write_text(json.dumps(urls))
    dataset = open_shards(shards, "far", keep=2)
    for n in (0, 5, 9, 23, 0):
        assert dataset[n].read_frames()
        assert len(list(shards.glob("*.tar"))) <= 2
    (far / "00004.tar").unlink()
    with pytest.raises(InputError, match=r"00004\.tar: cannot be fetched from file:"):
        dataset[8]
    (shards / "shards.json").unlink()
    with pytest.raises(InputError, match=r"no such file, and shards\.json does not say"):
        open_shards(shards, "far")[8]


def test_whole_files_are_held_out(shards: Path) -> None:
    spec = {"format": "shards", "root": str(shards)}
    (source,) = open_sources(spec, held_out=0.2, stills=False)
    assert isinstance(source.train, Shards)
    assert isinstance(source.validation, Shards)
    assert (len(source.train), len(source.validation)) == (COUNT - 2 * PER, 2 * PER)
    ids = {source.train[n].id for n in range(len(source.train))}
    assert not ids & {source.validation[n].id for n in range(len(source.validation))}


def test_a_file_that_ends_early_is_named(shards: Path) -> None:
    file = shards / "00000.tar"
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(InputError, match=r"00000\.tar: ends early"):
        open_shards(shards, "cut")[0].read_frames()
