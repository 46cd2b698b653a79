# SPDX-License-Identifier: Apache-2.0
"""Talk is packed as the run time writes it, and can be learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sa2va_training.tiny.data.batches import Batches, Library
from sa2va_training.tiny.data.packing import Question, read
from sa2va_training.tiny.data.scenes import COLOUR, COLOUR_NAMES
from sa2va_training.tiny.data.talk import _chosen, _places, talk_loss
from sa2va_training.tiny.nano import small_learner

QUESTION, ANSWER = "What is region1?", "a red mug<|im_end|>"


@torch.no_grad()
def test_region_question_reads_what_the_run_time_reads(data: Path) -> None:
    learner = small_learner().eval()
    mllm = learner.model.mllm
    batch = Batches(
        Library({"flat": 1.0}, "train", data), images=1, each=1, none_share=0.0, seed=1
    ).at(0)
    mask = np.zeros(batch.instances.shape[1:], bool)
    mask[8:40, 8:40] = True
    side = learner.model.config.region_size
    cells = (
        torch.nn.functional.interpolate(
            torch.from_numpy(mask).float()[None, None], (side, side), mode="nearest"
        )[0, 0]
        .flatten()
        .nonzero()[:, 0]
    )
    asked = Question(QUESTION, ANSWER, free=True, cells=tuple(int(i) for i in cells))
    packed = learner.packer.pack([[asked]])
    state = read(mllm, batch.pixels, packed).decide[0]

    # The same by hand: the image once, the region's tokens again where the text names it.
    visual = mllm.visual_tokens(batch.pixels)[0]
    head, _, tail = mllm.template.instruction.partition("{input}")
    image = "<img>" + "<IMG_CONTEXT>" * len(visual) + "</img>"
    region = "<vp>" + "<IMG_CONTEXT>" * len(cells) + "</vp>"
    text = f"{head}{image}\nThere are 1 part regions in the picture: region1{region}.\n\n{QUESTION}{tail}"
    ids = torch.tensor([mllm.tokenizer.encode(text)])
    embeddings = mllm.embed(ids, torch.cat([visual, visual[cells]]))
    plain = mllm.language_model.model(inputs_embeds=embeddings).last_hidden_state[0, -1]
    torch.testing.assert_close(state, plain, rtol=1e-4, atol=1e-4)


def test_loss_of_talk_falls(data: Path) -> None:
    learner = small_learner()
    batch = Batches(
        Library({"flat": 1.0}, "train", data), images=2, each=3, none_share=0.0, seed=2
    ).at(0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    kinds: set[str] = set()
    for listing, kind in ((0.0, "short"), (1.0, "caption")):
        losses = []
        for _ in range(12):
            parts, report = talk_loss(learner, batch, np.random.default_rng(0), listing)
            assert kind in report
            kinds |= set(report)
            loss = torch.stack(list(parts.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.8 * losses[0]
    assert {"short", "caption", "captioncode"} <= kinds


def test_what_is_being_named_is_known_at_its_colour(data: Path) -> None:
    """Every colour of an answer, and the place before it, belong to the object of that colour."""
    learner = small_learner()
    batch = Batches(
        Library({"flat": 1.0}, "train", data), images=3, each=3, none_share=0.0, seed=4
    ).at(0)
    names = {int(learner.packer.tokens([f" {name}"])[0]): name for name in COLOUR_NAMES}
    checked = 0
    for long in (False, True):
        rng = np.random.default_rng(0)
        rows = [_chosen(batch, i, long, learner.model.config, rng) for i in range(3)]
        if long:
            assert all(row[0].kind == "grounded" for row in rows)
        packed = learner.packer.pack([[spoken.question for spoken in row] for row in rows])
        for i, places in enumerate(_places(learner, packed, rows)):
            spoken = dict(enumerate(rows[i]))
            for k, at, index in places:
                colour = COLOUR_NAMES[int(batch.objects[i, index, COLOUR])]
                token = int(packed.branches[i, k, at])
                assert spoken[k].kind != "count"
                if token in names and at > int(packed.decide[i, k]):
                    assert names[token] == colour
                    assert (k, at - 1, index) in places
                    checked += 1
    assert checked >= 6
