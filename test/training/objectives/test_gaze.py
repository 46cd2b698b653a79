# SPDX-License-Identifier: Apache-2.0
"""Where heads look is what the layer itself computes, and it can be taught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_training.batches.asking import Asker
from sa2va_training.batches.batch import Batch, attention
from sa2va_training.batches.collate import Collator
from sa2va_training.data.masks import ArrayMask
from sa2va_training.data.pictures import ArrayPicture
from sa2va_training.data.sample import Message, ObjectMasks, Referring, Sample
from sa2va_training.objectives.gaze import Gaze, looks, queries
from sa2va_training.objectives.learner import Learner
from sa2va_training.objectives.objectives import Totals
from sa2va_training.run.settings import DataSettings, LossSettings, PartSettings, Settings
from sa2va_training.run.trainables import prepare

PLAIN = DataSettings(augment="none", answers=("[SEG]",))


def pointed(seed: int, places: tuple[int, ...]) -> Sample:
    """A picture of noise with a square thing at each place along its diagonal."""
    rgb = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    things = []
    for n, place in enumerate(places):
        mask = np.zeros((64, 64), bool)
        mask[place : place + 16, place : place + 16] = True
        target = ObjectMasks((ArrayMask(mask),), f"thing {n}")
        things.append(Referring(f"thing {n}", target, "attribute", str(n)))
    frame = ArrayPicture(rgb, f"picture {seed}")
    return Sample("made", f"made: {seed}", str(seed), (frame,), referrings=tuple(things))


def chat() -> Sample:
    turns = (Message("user", "hello?"), Message("assistant", "hi"))
    return Sample("chat", "chat: 1", "1", turns=turns)


def batch_of(model: Sa2VA, *samples: Sample) -> Batch:
    asker = Asker(model.config, PLAIN, 0, scored=False)
    asked = [asker(sample, np.random.default_rng(7)) for sample in samples]
    return Collator(model.mllm)(asked, list(range(len(samples))))


def learner_of(model: Sa2VA, gaze: float, mode: str = "full") -> Learner:
    parts = PartSettings(mode=mode, rank=2, alpha=4, dropout=0.0)
    torch.manual_seed(0)
    prepare(model, parts)
    return Learner(model, parts, LossSettings(gaze=gaze))


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_looks_are_the_attention_of_the_layer(mode: str) -> None:
    model = nano_model()
    learner = learner_of(model, 1.0, mode).train()
    gaze, batch = learner.gaze, batch_of(model, pointed(1, (0, 20)), pointed(2, (40,)))
    assert gaze is not None
    language = gaze.model
    language.config._attn_implementation = "eager"
    chances: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> object:
        def hook(_: nn.Module, given: object, out: tuple[torch.Tensor, torch.Tensor]) -> None:
            chances[layer] = out[1]

        return hook

    for layer in gaze.layers:
        language.layers[layer].self_attn.register_forward_hook(keep(layer))
    learner.read(batch)
    places = batch.seg[:, 1].reshape(1, -1).expand(2, -1)
    mask = attention(batch.owner, torch.float32)
    for layer in gaze.layers:
        looked = gaze._log_attention(layer, places, mask).exp()
        for row in range(2):
            theirs = chances[layer][row, : gaze.heads, places[row]].transpose(0, 1)
            torch.testing.assert_close(looked[row], theirs, rtol=1e-4, atol=1e-6)


def test_a_batch_looks_as_its_rows_do() -> None:
    """Each pair alone or together, beside a row that only talks; what is not there is not looked for."""
    model = nano_model()
    learner = learner_of(model, 1.0).train()
    assert learner.gaze is not None

    def looked(*samples: Sample) -> torch.Tensor:
        batch = batch_of(model, *samples)
        learner.read(batch)
        assert learner.gaze is not None
        return looks(learner.gaze, batch, model.config, learner.mllm.image_id)

    one, other = pointed(1, (0, 20)), pointed(2, (40,))
    both = looked(one, chat(), other)
    assert len(both) == 3
    torch.testing.assert_close(both, torch.cat([looked(one), looked(other)]))
    absent = replace(other, referrings=(Referring("a hat", None, "none", "9"),))
    assert len(looked(absent)) == 0
    assert len(looked(chat())) == 0


def test_heads_learn_to_look_at_the_thing() -> None:
    model = nano_model()
    learner = learner_of(model, 1.0).train()
    assert learner.gaze is not None
    batch = batch_of(model, pointed(1, (0, 40)))
    heads = [p for n, p in learner.named_parameters() if "q_proj" in n or "k_proj" in n]
    adam = torch.optim.Adam(heads, lr=1e-2)
    first = 0.0
    for _ in range(60):
        out = learner(batch, Totals(20, 2, 2))
        looked = float(out["report"][-1])
        first = first or looked
        adam.zero_grad()
        out["loss"].backward()
        adam.step()
    assert looked < 0.8 * first


def test_without_it_nothing_is_kept() -> None:
    learner = learner_of(nano_model(), 0.0)
    assert learner.gaze is None


def test_queries_are_filled_up_with_nothing() -> None:
    places, cells = queries([[(3, torch.ones(2))], [], [(1, torch.ones(2)), (2, torch.ones(2))]], 2)
    assert places.tolist() == [[3, 0], [0, 0], [1, 2]]
    assert cells.sum(2).tolist() == [[2, 0], [0, 0], [2, 2]]


def test_what_it_needs_is_said() -> None:
    with pytest.raises(InputError, match="branches"):
        Settings(loss=LossSettings(gaze=1.0), batches=DataSettings(layout="conversation"))
    with pytest.raises(InputError, match="Linear"):
        Gaze(nn.Linear(2, 2))
