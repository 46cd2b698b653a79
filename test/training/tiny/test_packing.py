# SPDX-License-Identifier: Apache-2.0
"""Training reads questions exactly as the run time does, and remembers clips as the tracker does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_sim.words.vocabulary import words
from sa2va_training.objectives.clip_memory import ClipMemory
from sa2va_training.tiny import clips
from sa2va_training.tiny.data.batches import Library, normalised
from sa2va_training.tiny.data.language import ABSENT, FOUND, phrase, tiny_tokenizer
from sa2va_training.tiny.data.packing import IGNORED, Question, read
from sa2va_training.tiny.nano import small_learner
from sa2va_training.tiny.objectives.teacher import TeacherCode

TEXTS = ("the red mug", "Where is the leftmost can?", "a blue thing")


def test_packed_questions_get_the_states_of_single_ones() -> None:
    learner = small_learner().eval()
    model = learner.model
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    packed = learner.packer.pack([[Question(text, FOUND) for text in TEXTS]])
    with torch.no_grad():
        seen = read(model.mllm, normalised([image]), packed)
        prompts = model.text_hidden_fcs(seen.seg)
        first = model.mllm.language_model.lm_head(seen.decide)
    answer = model.mllm.tokenizer.encode(FOUND)
    for n, text in enumerate(TEXTS):
        reply = model.reply(
            "<image>\n" + _question(text), [image], choose=lambda step, _: answer[step]
        )
        assert len(reply.embeddings) == 1
        assert torch.allclose(reply.embeddings[0], prompts[n], atol=2e-5)
        assert torch.allclose(reply.generated.logits[0], first[n], atol=2e-5)


def _question(text: str) -> str:
    from sa2va_model.mllm.chat import referring_question

    return referring_question(text)


def test_labels_grade_the_answer_or_only_the_decision() -> None:
    learner = small_learner()
    tokenizer = learner.model.mllm.tokenizer
    packed = learner.packer.pack(
        [
            [
                Question("the mug", FOUND),
                Question("a dog", ABSENT),
                Question("a dog", FOUND, decision=ABSENT),
            ]
        ]
    )
    found, absent, forced = packed.labels[0]
    assert found[found != IGNORED].tolist() == tokenizer.encode(FOUND)
    assert absent[absent != IGNORED].tolist() == tokenizer.encode(ABSENT)
    assert forced[forced != IGNORED].tolist() == tokenizer.encode(ABSENT)[:1]
    assert packed.has_seg[0].tolist() == [True, False, True]


def test_every_word_of_the_scenes_is_one_token() -> None:
    tokenizer = tiny_tokenizer()
    for word in words():
        for form in (word, f" {word}", word.capitalize()):
            assert len(tokenizer.encode(form)) == 1, form
    text = "Ünïcode ☕ and <html> survive"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_phrases_keep_the_words_that_matter() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        said = phrase("the smallest blue book", rng).lower()
        assert "smallest blue book" in said


def test_teacher_code_is_the_same_in_every_process() -> None:
    one, other = TeacherCode(128), TeacherCode(128)
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.1, 0.5, 0.2, 0.2]])
    names = torch.tensor([3, 3])
    codes = one(boxes, names, names)
    assert torch.equal(codes, other(boxes, names, names))
    assert abs(float(codes.std()) - 1.0) < 0.4
    assert not torch.allclose(codes[0], codes[1], atol=0.1)
    unplaced = one(boxes, names, names, torch.tensor([False, False]))
    assert torch.equal(unplaced[0], unplaced[1])


def test_clip_memory_holds_what_the_trackers_memory_holds(data: Path) -> None:
    learner = small_learner().eval()
    library = Library({"flat-clips": 1.0}, "held", data)
    shard = next(iter(library.shards.values()))
    asked = clips._objects(shard, 0, 2, False, np.random.default_rng(0))
    clip = clips.assemble([(shard, 0, asked)], False, None)
    segmenter = learner.sam2
    with torch.no_grad():
        features = clips.clip_features(learner, clip)
        ours = ClipMemory(segmenter, gated=True)
        bank = MemoryBank(segmenter, rows=2, max_conditioning=8)
        for t, rows in enumerate(features):
            code = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(t))
            decoded = segmenter.decode_tokens(rows, segmenter.without_memory(rows), extra=code)
            ours.write(rows, decoded, prompted=t == 0)
            spatial = ours.spatial[t]
            if t == 0:
                for n in range(len(asked)):
                    bank.prompt(n, spatial[n], ours.pointers[t][n])
            else:
                rows = torch.arange(len(asked))
                bank.write(
                    rows, spatial, ours.pointers[t], torch.ones(len(asked), dtype=torch.bool)
                )
            values, positions, pointers = ours.tokens()
            for n in range(len(asked)):
                tokens = bank.tokens(n)
                assert tokens.pointer_tokens == pointers
                assert torch.allclose(tokens.values, values[:, n], atol=1e-2)  # bfloat16 slots
                assert torch.allclose(tokens.positions, positions[:, n], atol=1e-5)
