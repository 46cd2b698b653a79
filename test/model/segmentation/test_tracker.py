# SPDX-License-Identifier: Apache-2.0
"""OnlineTracker by itself: independence of objects, no look at the future, bounded memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sa2va_model.checkpoints.presets import NANO_SEGMENTERS
from sa2va_model.config.segmenter import SegmenterConfig
from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.fused.model import FusedSam2
from sa2va_model.segmentation.backends.profile import FLOAT32
from sa2va_model.segmentation.memory_bank import MemoryBank
from sa2va_model.segmentation.sam2 import Sam2
from sa2va_model.segmentation.tracker import OnlineTracker, TrackerConfig, part_rivals
from sa2va_model.segmentation.types import ImageFeatures, Prompt
from sa2va_model.testing import nano_model

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["sam2 reference", "sam2 rewritten", "sam3 rewritten"])
def segmenter(request: pytest.FixtureRequest) -> Sam2:
    kind, who = request.param.split()
    own = nano_model(seed=1, segmenter=kind).sam2
    return own if who == "reference" else FusedSam2(own, FLOAT32)


@pytest.fixture(scope="module")
def features(segmenter: Sam2) -> list[ImageFeatures]:
    """Forty frames that change slowly."""
    generator = torch.Generator().manual_seed(5)
    size = (1, 3, segmenter.config.image_size, segmenter.config.image_size)
    frame = torch.randn(size, generator=generator)
    out = []
    with torch.inference_mode():
        for _ in range(40):
            frame = frame + 0.2 * torch.randn(size, generator=generator)
            out.append(segmenter.encode_image(frame))
    return out


def embedding(seed: int) -> Prompt:
    return Prompt(embedding=torch.randn(32, generator=torch.Generator().manual_seed(seed)))


def test_objects_do_not_know_of_each_other(segmenter: Sam2, features: list[ImageFeatures]) -> None:
    """N objects in one tracker, added and removed at different times = N trackers."""
    starts, ends = {"a": 0, "b": 3, "c": 7}, {"a": 40, "b": 25, "c": 40}
    together = OnlineTracker(segmenter)
    alone = {name: OnlineTracker(segmenter) for name in starts}
    for t, frame in enumerate(features):
        for n, name in enumerate(starts):
            for tracker in (together, alone[name]):
                if t == starts[name]:
                    tracker.add(name, embedding(n), frames=2)
                if t == ends[name]:
                    tracker.remove(name)
        seen = together.step(frame)
        for name, tracker in alone.items():
            single = tracker.step(frame)
            assert set(single) == {name} & set(seen)
            if single:
                assert torch.allclose(single[name].logits, seen[name].logits, atol=TOLERANCE)


def test_masks_do_not_depend_on_the_future(segmenter: Sam2, features: list[ImageFeatures]) -> None:
    def run(count: int) -> list[torch.Tensor]:
        tracker = OnlineTracker(segmenter)
        tracker.add("a", embedding(0))
        return [tracker.step(frame)["a"].logits for frame in features[:count]]

    for short, long in zip(run(10), run(20), strict=False):
        assert torch.equal(short, long)


def test_memory_has_a_fixed_size(segmenter: Sam2) -> None:
    """The tokens that attention reads stop growing, whatever is prompted and however long it runs."""
    bank = MemoryBank(segmenter, rows=1, max_conditioning=3, distractor_slots=2)
    pointer = torch.zeros(1, segmenter.config.hidden_dim)
    cells = segmenter.config.feature_size**2
    spatial = torch.zeros(1, cells, segmenter.config.memory_dim)
    rows, yes = torch.tensor([0]), torch.tensor([True])
    before = {name: t.shape for name, t in vars(bank).items() if isinstance(t, torch.Tensor)}
    sizes = []
    for t in range(60):
        if t % 7 == 0:
            bank.prompt(0, spatial[0], pointer[0])
        else:
            bank.write(rows, spatial, pointer, yes, yes if t % 5 == 0 else None)
        sizes.append(bank.tokens(0).values.shape[0])
    limit = (3 + 6 + 2) * cells + (3 + 15) * (
        segmenter.config.hidden_dim // segmenter.config.memory_dim
    )
    assert max(sizes) <= limit
    assert len(set(sizes[40:])) <= 3
    assert before == {
        name: t.shape for name, t in vars(bank).items() if isinstance(t, torch.Tensor)
    }


def test_the_first_conditioning_frame_is_kept_where_all_are_attended(segmenter: Sam2) -> None:
    bank = MemoryBank(segmenter, rows=1, max_conditioning=2)
    spatial = torch.zeros(segmenter.config.feature_size**2, segmenter.config.memory_dim)
    for value in (1.0, 2.0, 3.0):
        bank.prompt(0, spatial, torch.full((segmenter.config.hidden_dim,), value))
    tokens = bank.tokens(0)
    kept = {2.0, 3.0} if segmenter.config.attended_prompts else {1.0, 3.0}
    assert set(tokens.values[-tokens.pointer_tokens :].flatten().tolist()) == kept


SAM2 = NANO_SEGMENTERS["sam2"]


@pytest.mark.parametrize(
    "config",
    [
        SAM2,
        replace(SAM2, pointer_positions=True),
        replace(SAM2, pointer_positions=True, attended_prompts=2),
    ],
    ids=["sam2.0", "sam2.1", "sam3"],
)
def test_padded_memories_are_the_same_memories(config: SegmenterConfig) -> None:
    """One shape for objects of different ages: what the mask leaves over is what each object remembers."""
    torch.manual_seed(0)
    segmenter = Sam2(config).eval()
    bank = MemoryBank(segmenter, rows=3, max_conditioning=4, distractor_slots=2)
    width, cells = config.memory_dim, config.feature_size**2
    for t in range(25):
        for row, period in enumerate((100, 9, 3)):
            if t % period == 0:
                bank.prompt(row, torch.randn(cells, width), torch.randn(config.hidden_dim))
        kept, special = torch.rand(3) < 0.8, torch.rand(3) < 0.2
        if t >= 3:
            bank.write(
                torch.arange(3),
                torch.randn(3, cells, width),
                torch.randn(3, config.hidden_dim),
                kept,
                special,
            )
        padded = bank.padded(torch.arange(3), 4)
        for row in range(3):
            tokens = bank.tokens(row)
            used = torch.arange(padded.values.shape[1]) < padded.lengths[row]
            used[: padded.pointer_tokens] &= padded.bias[row] == 0
            assert int(used.sum()) == len(tokens.values)
            assert int(used[: padded.pointer_tokens].sum()) == tokens.pointer_tokens
            ours = torch.cat([padded.values[row][used], padded.positions[row][used]], 1)
            theirs = torch.cat([tokens.values, tokens.positions], 1)
            assert torch.allclose(_sorted(ours), _sorted(theirs), atol=1e-6)


def _sorted(rows: torch.Tensor) -> torch.Tensor:
    """Rows in an order that depends on their content only."""
    return torch.tensor(sorted(rows.tolist()))


def test_untrusted_frames_are_not_remembered(
    segmenter: Sam2, features: list[ImageFeatures]
) -> None:
    gated = OnlineTracker(segmenter, TrackerConfig(gate_memory=True, min_quality=1.1))
    gated.add("a", embedding(0))
    first = gated.step(features[0])
    assert first["a"].prompted
    for frame in features[1:10]:
        gated.step(frame)
    again = OnlineTracker(segmenter)
    again.add("a", embedding(0))
    again.step(features[0])
    expected = again.step(features[10])["a"].logits
    assert torch.allclose(gated.step(features[10])["a"].logits, expected, atol=TOLERANCE)


def test_a_new_prompt_corrects_a_track(segmenter: Sam2, features: list[ImageFeatures]) -> None:
    tracker = OnlineTracker(segmenter)
    tracker.add("a", embedding(0))
    tracker.step(features[0])
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[10:30, 10:30] = True
    side = segmenter.config.mask_size
    tracker.add("a", Prompt(mask=mask))
    seen = tracker.step(features[1])["a"]
    assert seen.prompted
    given = torch.nn.functional.interpolate(mask[None, None].float(), size=(side, side))
    assert float(((seen.logits > 0) == (given > 0.5)).float().mean()) > 0.9


def test_too_many_objects_are_refused(segmenter: Sam2) -> None:
    tracker = OnlineTracker(segmenter, TrackerConfig(max_objects=1))
    tracker.add("a", embedding(0))
    with pytest.raises(InputError, match="max_objects is 1"):
        tracker.add("b", embedding(1))


def test_an_embedding_is_used_again_where_it_is_better(
    segmenter: Sam2, features: list[ImageFeatures]
) -> None:
    """With a margin that is always met the mask is the embedding's own, else memory's; remembered is what is shown."""

    def run(config: TrackerConfig) -> list[torch.Tensor]:
        tracker = OnlineTracker(segmenter, config)
        tracker.add("a", embedding(0))
        tracker.add("b", Prompt.box(0.1, 0.1, 0.6, 0.6))
        return [
            torch.cat([seen.logits for seen in tracker.step(frame).values()])
            for frame in features[:6]
        ]

    always = TrackerConfig(reuse_embedding=True, reuse_margin=-9.0, reuse_overlap=0.0)
    never = TrackerConfig(reuse_embedding=True, reuse_margin=9.0)
    with torch.inference_mode():
        plain = segmenter.decode(features[5], segmenter.without_memory(features[5]), embedding(0))
    assert torch.allclose(run(always)[5][:1], plain.logits, atol=TOLERANCE)
    for reused, memory in zip(run(never), run(TrackerConfig()), strict=True):
        assert torch.equal(reused, memory)
    assert torch.equal(run(always)[5][1], run(never)[5][1]), "a box has no embedding"


def test_objects_kept_apart_share_no_cell(segmenter: Sam2, features: list[ImageFeatures]) -> None:
    """Each cell of two rivals belongs to the one with the higher logit; a third is as ever."""
    plain, kept = OnlineTracker(segmenter), OnlineTracker(segmenter)
    for tracker in (plain, kept):
        for n, name in enumerate("abc"):
            tracker.add(name, embedding(n), frames=1)
        tracker.step(features[0])
    one, two = plain.step(features[1]), kept.step(features[1], apart=[{"a", "b"}])
    assert torch.equal(one["c"].logits, two["c"].logits)
    before = [one[name].logits > 0 for name in "ab"]
    after = [two[name].logits > 0 for name in "ab"]
    if not segmenter.batched:  # followed one by one, nothing is known of the others
        assert all(torch.equal(one[name].logits, two[name].logits) for name in "ab")
        return
    assert (before[0] & before[1]).any(), "otherwise this shows nothing"
    assert not (after[0] & after[1]).any()
    assert torch.equal(after[0] | after[1], before[0] | before[1])
    first = one["a"].logits > one["b"].logits
    assert torch.equal(after[0], before[0] & first)


def test_what_two_show_belongs_to_the_one_that_was_there() -> None:
    """A rival that is surer, but was elsewhere, gets nothing of it; with nothing known the surer one does."""
    thing, elsewhere = (torch.zeros(1, 1, 8, 8, dtype=torch.bool) for _ in range(2))
    thing[..., 2:5, 2:5] = True
    elsewhere[..., 6:, 6:] = True
    shown = torch.where(thing, 3.0, -3.0)
    logits = torch.cat([shown, torch.where(thing, 6.0, -3.0), shown])
    rivals = torch.tensor([0, 1])
    known = part_rivals(logits, rivals, torch.cat([thing, elsewhere, thing])) > 0
    unknown = part_rivals(logits, rivals) > 0
    nobody = torch.zeros_like(thing)
    assert torch.equal(known, torch.cat([thing, nobody, thing]))
    assert torch.equal(unknown, torch.cat([nobody, thing, thing]))
