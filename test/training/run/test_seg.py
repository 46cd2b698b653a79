# SPDX-License-Identifier: Apache-2.0
"""Table 12: one `[SEG]` for all keyframes, one for each, or one of its own for each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_cli.main import main
from sa2va_model.checkpoints.adapters import fingerprint
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.config.model import SEG_MODES
from sa2va_model.errors import InputError
from sa2va_model.mllm.types import Generated
from sa2va_model.testing import nano_model, noisy_clip
from sa2va_training.batches.asking import Asker
from sa2va_training.batches.collate import Collator
from sa2va_training.data.folder import FolderWriter
from sa2va_training.data.masks import ArrayMask
from sa2va_training.data.pictures import ArrayPicture
from sa2va_training.data.sample import ObjectMasks, Referring, Sample
from sa2va_training.run.merged import save_merged
from sa2va_training.run.seg import with_seg
from sa2va_training.run.settings import DataSettings, PartSettings

T = 3


def clip() -> Sample:
    frames = tuple(ArrayPicture(frame.rgb, f"run/{n}") for n, frame in enumerate(noisy_clip(T)))
    masks = [np.zeros((30, 40), bool) for _ in range(T)]
    for t, mask in enumerate(masks):
        mask[5:15, 5 + t : 20 + t] = True
    half = ObjectMasks((ArrayMask(masks[0]), None, ArrayMask(masks[2])), "half")
    whole = ObjectMasks(tuple(map(ArrayMask, masks)), "whole")
    said = Referring("half", half), Referring("whole", whole)
    return Sample("made", "made: 0", "0", frames, clip=True, referrings=said)


@pytest.mark.parametrize("mode", SEG_MODES)
def test_each_token_is_for_its_own_frame(mode: str) -> None:
    model = with_seg(nano_model(), mode, 5)
    settings = DataSettings(frames=T, alone=0, augment="none")
    asked = Asker(model.config, settings, 0, scored=False)(clip(), np.random.default_rng(0))
    batch = Collator(model.mllm)([asked], [0])
    written = [int(batch.ids[b, place]) for b, place in batch.seg.tolist()]
    first = 0 if asked.exchanges[0].question.count("half") else 1  # in which order they are asked
    pairs = batch.pairs.tolist()
    if mode == "single":
        half, whole = first, 1 - first
        assert written == [model.mllm.seg_id] * 2
        assert sorted(pairs) == sorted([[half, 0], [half, 2], *([whole, f] for f in range(T))])
        return
    own = model.mllm.seg_ids[:T] if mode == "unique" else model.mllm.seg_ids * T
    assert written == [*own, *own]
    assert len(set(written)) == (1 if mode == "repetitive" else T)
    half, whole = (0, T) if first == 0 else (T, 0)
    expected = [[half, 0], [half + 2, 2], *([whole + f, f] for f in range(T))]
    assert sorted(pairs) == sorted(expected)  # nobody annotated half on the second frame


def test_what_is_written_becomes_a_prompt_for_each_keyframe() -> None:
    model = with_seg(nano_model(), "unique", 5)
    mllm = model.mllm
    assert len(mllm.seg_ids) == model.config.keyframes == 5
    word, stop = mllm.tokenizer.encode("x")[0], int(mllm.tokenizer.eos_token_id)
    ids = (word, *mllm.seg_ids, word, *mllm.seg_ids[:2], stop)
    states = torch.randn(len(ids) - 1, mllm.hidden_size)
    said = Generated(ids, torch.zeros(0, 0), states[:0], states, 1)
    reply = mllm_reply(model, said)
    project = model.text_hidden_fcs
    assert reply.by_keyframe is not None
    assert reply.by_keyframe.shape[:2] == (2, 5)
    assert torch.equal(reply.by_keyframe[0], project(states[1:6]))
    short = project(states[[7, 8, 8, 8, 8]])  # a run that is too short ends with its last
    assert torch.allclose(reply.by_keyframe[1], short, atol=1e-6)
    assert torch.equal(reply.embeddings, reply.by_keyframe[:, 0])
    assert "SEG" not in reply.text


def mllm_reply(model, said: Generated):
    from sa2va_model.mllm.session import MllmSession

    session = MllmSession(model.mllm, model.text_hidden_fcs)
    with torch.no_grad():
        return session._reply(None, said, pointing=True)


@pytest.mark.parametrize("count", [3, 5])
def test_prompts_of_their_own_that_are_equal_are_one_prompt(count: int) -> None:
    model = nano_model()
    frames = [frame.rgb for frame in noisy_clip(count)]
    torch.manual_seed(0)
    one = torch.randn(2, model.config.sam2.hidden_dim)
    other = torch.randn(2, model.config.sam2.hidden_dim)
    keyframes = (0, 2)
    plain, scores = model.follow_clip(frames, one, keyframes)
    each, again = model.follow_clip(frames, torch.stack([one, one], 1), keyframes)
    assert np.array_equal(scores, again)
    assert all(
        np.array_equal(a, b)
        for x, y in zip(plain, each, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    mixed, _ = model.follow_clip(frames, torch.stack([one, other], 1), keyframes)
    alone, _ = model.follow_clip([frames[2]], other, (0,))
    for k in range(2):
        assert np.array_equal(mixed[k][0], plain[k][0])
        assert np.array_equal(mixed[k][2], alone[k][0])


def test_a_wider_vocabulary_changes_nothing_else(tmp_path: Path) -> None:
    plain, model = nano_model(), with_seg(nano_model(), "unique", 5)
    rows = int(plain.config.llm["vocab_size"])
    assert model.config.llm["vocab_size"] == rows + 4
    ids = torch.tensor([plain.mllm.tokenizer.encode("hello there")])
    with torch.no_grad():
        a, b = (m.mllm.language_model(ids).logits for m in (plain, model))
    assert torch.equal(a, b[..., :rows])
    assert fingerprint(plain) != fingerprint(model)
    save_model(model, tmp_path / "saved", dtype=None)
    back = load_model(tmp_path / "saved", device="cpu")
    assert back.config.seg == "unique"
    assert back.mllm.seg_ids == model.mllm.seg_ids
    assert fingerprint(back) == fingerprint(model)
    frames = [frame.rgb for frame in noisy_clip(4)]
    answer = back.segment_video(frames, "it")
    assert answer.masks.shape[1:] == (4, 30, 40)


def test_a_merged_model_is_not_held_to_the_words_of_its_base(tmp_path: Path) -> None:
    save_model(nano_model(), tmp_path / "base")
    words = json.dumps({"things": ["mug"], "colours": [], "others": []})
    (tmp_path / "base" / "vocabulary.json").write_text(words)
    model = load_model(tmp_path / "base", device="cpu")
    assert model.vocabulary is not None
    model.vocabulary = None  # as `load_adapter` leaves it
    save_merged(model, str(tmp_path / "base"), tmp_path / "merged")
    assert load_model(tmp_path / "merged", device="cpu").vocabulary is None


def test_wrong_modes_are_named() -> None:
    with pytest.raises(InputError, match=r"train\.seg is 'double'; expected one of"):
        PartSettings(seg="double")
    with pytest.raises(InputError, match="in mode memory; expected single"):
        PartSettings(seg="unique", mode="memory")
    with pytest.raises(InputError, match="seg is 'all'"):
        replace(nano_model().config, seg="all")


def test_table_12_is_trained_and_measured(tmp_path: Path) -> None:
    save_model(nano_model(), tmp_path / "start")
    with FolderWriter(tmp_path / "clips") as folder:
        for n in range(5):
            frames = [frame.rgb for frame in noisy_clip(T, seed=n)]
            labels = [mask.read(30, 40).astype(np.uint8) for mask in clip_masks()]
            said = [{"text": "the thing", "objects": ["1"]}]
            folder.add_clip(f"run{n}", frames, labels, {1: "thing"}, expressions=said)
    out = tmp_path / "out"
    words = ["reproduce", "table12", "--data", str(tmp_path / "clips"), "-o", str(out)]
    few = [
        "steps=1",
        "batches.step=1",
        "batches.batch=1",
        "train.rank=2",
        "loss.points=32",
        "measure=0",
    ]
    words += ["--model", str(tmp_path / "start"), "--device", "cpu", *few]
    assert main(words) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    ours = {row["row"]: row["ours"] for row in rows if row["column"] == "MeViS val_u"}
    assert list(ours) == list(SEG_MODES)
    assert all(0 <= value <= 1 for value in ours.values())
    images = [row for row in rows if row["column"] == "RefCOCO"]
    assert all("no figure 'referring, images'" in row["note"] for row in images)
    for mode in SEG_MODES:
        written = json.loads((out / mode / "run" / "merged" / "config.json").read_text())
        assert written.get("seg", "single") == mode
        assert load_model(out / mode / "run" / "merged", device="cpu").config.seg == mode
    before = (out / "unique" / "run" / "results.json").stat().st_mtime_ns
    assert main(words) == 0  # nothing is trained again
    assert (out / "unique" / "run" / "results.json").stat().st_mtime_ns == before
    assert "| unique: MeViS val_u |" in (out / "table.md").read_text()


def clip_masks() -> list[ArrayMask]:
    masks = [np.zeros((30, 40), bool) for _ in range(T)]
    for t, mask in enumerate(masks):
        mask[5:15, 5 + t : 20 + t] = True
    return [ArrayMask(mask) for mask in masks]
