# SPDX-License-Identifier: Apache-2.0
"""What is asked in training is what the run time asks; what is cut into batches adds up to the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from sa2va_model.mllm import chat as prompts
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_training.batches import asking
from sa2va_training.batches.asking import Asker, augment
from sa2va_training.batches.batch import IGNORED, PADDING, Batch
from sa2va_training.batches.collage import Album
from sa2va_training.batches.collate import Collator
from sa2va_training.data.masks import ArrayMask, EmptyMask, all_of
from sa2va_training.data.pictures import ArrayPicture
from sa2va_training.data.sample import Message, ObjectMasks, Referring, Sample
from sa2va_training.evaluation.predictor import Asking, ModelPredictor
from sa2va_training.evaluation.scoring import score_sample
from sa2va_training.families.internvl import InternVLFamily
from sa2va_training.objectives.learner import REPORT, Before, Learner
from sa2va_training.objectives.objectives import Totals
from sa2va_training.run.reporting import measure
from sa2va_training.run.settings import DataSettings, LossSettings, PartSettings
from sa2va_training.run.trainables import prepare

PLAIN = DataSettings(augment="none", answers=("[SEG]",))


def picture(seed: int, size: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def mask(x: int, y: int, side: int = 16, size: int = 48) -> np.ndarray:
    out = np.zeros((size, size), bool)
    out[y : y + side, x : x + side] = True
    return out


def pointed(seed: int, words: Sequence[str] = ("the mug", "a red ball", "it")) -> Sample:
    """A picture with an object for each expression."""
    referrings = tuple(
        Referring(text, ObjectMasks((ArrayMask(mask(8 * n, 4 * n)),), text), "attribute", str(n))
        for n, text in enumerate(words)
    )
    frame = ArrayPicture(picture(seed), f"picture {seed}")
    return Sample("made", f"made: {seed}", str(seed), (frame,), referrings=referrings)


def chat() -> Sample:
    turns = (
        Message("user", "hello?"),
        Message("assistant", "hi"),
        Message("user", "more"),
        Message("assistant", "no"),
    )
    return Sample("chat", "chat: 1", "1", turns=turns)


def batch_of(model: Sa2VA, samples: Sequence[Sample], settings: DataSettings = PLAIN) -> Batch:
    asker = Asker(model.config, settings, 0, scored=False)
    asked = [asker(sample, np.random.default_rng(n)) for n, sample in enumerate(samples)]
    return Collator(model.mllm)(asked, list(range(len(samples))))


def learner_of(model: Sa2VA, **parts: object) -> Learner:
    settings = PartSettings(rank=2, alpha=4, dropout=0.0, **parts)  # type: ignore[arg-type]
    torch.manual_seed(0)  # LoRA starts at random
    prepare(model, settings)
    return Learner(model, settings, LossSettings())


@pytest.fixture
def unworded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All questions in the run time's own words."""
    monkeypatch.setattr(asking, "_PLAIN", 1.0)


@pytest.mark.usefixtures("unworded")
def test_a_branch_sees_what_the_run_time_sees() -> None:
    """The [SEG] state of every branch is that of `Sa2VA.ground`, though all questions share one row."""
    model = nano_model()
    sample = pointed(1)
    wanted = {
        r.text: model.ground([sample.frames[0].read()], r.text).embeddings[0]
        for r in sample.referrings
    }
    asker = Asker(model.config, PLAIN, 0, scored=False)
    asked = asker(sample, np.random.default_rng(0))
    batch = Collator(model.mllm)(
        [asked, asker(pointed(2, ("x",)), np.random.default_rng(1))], [0, 1]
    )
    learner = learner_of(model)
    with torch.no_grad():
        states = learner.read(batch)
        codes = model.text_hidden_fcs(states[batch.seg[:, 0], batch.seg[:, 1]])
    for exchange, code in zip(asked.exchanges, codes, strict=False):
        text = next(t for t in wanted if prompts.referring_question(t) == exchange.question)
        assert torch.allclose(code, wanted[text], atol=1e-4)
    assert len(asked.exchanges) == 3


def test_a_conversation_is_written_as_the_run_time_writes_it() -> None:
    model = nano_model()
    mllm = model.mllm
    region = ArrayMask(mask(8, 8, 24))
    turns = (Message("user", "<image>\nWhat is region1?"), Message("assistant", "a mug"))
    sample = Sample(
        "r", "r: 1", "1", (ArrayPicture(picture(3), "p"),), turns=turns, regions=(region,)
    )
    batch = batch_of(model, [sample])
    visual = mllm.look([sample.frames[0].read()], clip=False)
    user, seen = mllm.user_turn("<image>\nWhat is region1?", visual, [region.array])
    ids = mllm.prompt_ids(user)
    assert batch.ids[0, : len(ids)].tolist() == ids
    assert seen is not None
    learner = learner_of(model)
    with torch.no_grad():
        assert torch.allclose(learner.visual(batch).tokens, seen.tokens, atol=1e-5)
    graded = batch.labels[0][batch.labels[0] != IGNORED].tolist()
    assert mllm.tokenizer.decode(graded) == "a mug<|im_end|>"
    # every graded place predicts the token that follows it
    places = (batch.labels[0] != IGNORED).nonzero()[:, 0]
    assert [int(batch.ids[0, p + 1]) for p in places] == graded


def test_turns_follow_each_other_and_only_answers_are_graded() -> None:
    model = nano_model()
    batch = batch_of(model, [chat()])
    text = model.mllm.tokenizer.decode(batch.ids[0].tolist())
    one = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>"
    assert text == one.format("hello?", "hi") + "\n" + one.format("more", "no")
    graded = batch.labels[0][batch.labels[0] != IGNORED].tolist()
    assert model.mllm.tokenizer.decode(graded) == "hi<|im_end|>no<|im_end|>"


def test_padding_changes_nothing() -> None:
    model = nano_model()
    alone, together = batch_of(model, [chat()]), batch_of(model, [chat(), pointed(1)])
    assert (together.owner[0] == PADDING).any()
    learner = learner_of(model)
    with torch.no_grad():
        length = alone.ids.shape[1]
        one, two = learner.read(alone)[0], learner.read(together)[0, :length]
    assert torch.allclose(one, two, atol=1e-5)


def test_a_step_is_the_same_however_it_is_cut() -> None:
    """Loss and gradients of one batch of three are the sums of those of its parts."""
    samples = [pointed(1), chat(), pointed(2, ("the mug",))]

    def gradients(parts: Sequence[Sequence[int]]) -> tuple[float, dict[str, torch.Tensor]]:
        model = nano_model()
        learner = learner_of(model)
        asker = Asker(model.config, PLAIN, 0, scored=False)
        asked = [asker(s, np.random.default_rng(n)) for n, s in enumerate(samples)]
        collate, loss = Collator(model.mllm), 0.0
        for part in parts:
            batch = collate([asked[n] for n in part], list(part))
            out = learner(batch, Totals(tokens=20, pairs=4, seen=4))["loss"]
            out.backward()
            loss += float(out.detach())
        return loss, {n: p.grad for n, p in learner.named_parameters() if p.grad is not None}

    whole, cut = gradients([[0, 1, 2]]), gradients([[0], [1], [2]])
    assert whole[0] == pytest.approx(cut[0], rel=1e-5)
    assert whole[1].keys() == cut[1].keys()
    for name, value in whole[1].items():
        assert torch.allclose(value, cut[1][name], atol=2e-5), name


def test_text_alone_reaches_every_trained_number() -> None:
    """A process with a text-only batch has gradients for the mask decoder, too: zeros."""
    model = nano_model()
    learner = learner_of(model)
    learner(batch_of(model, [chat()]), Totals(10, 1, 1))["loss"].backward()
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
        if "sam_mask_decoder" in name or "mlp1" in name:
            assert float(parameter.grad.abs().sum()) == 0, name


def test_frozen_parts_have_no_gradient_and_masks_teach_the_decoder() -> None:
    model = nano_model()
    learner = learner_of(model)
    learner(batch_of(model, [pointed(1)]), Totals(10, 3, 3))["loss"].backward()
    taught = {n for n, p in learner.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("sam_mask_decoder", "text_hidden_fcs", "mlp1", "lora_B"):
        assert any(part in name for name in taught), part
    for part in ("image_encoder", "memory", "vision_model"):
        assert not any(part in name for name in taught), part


def test_kept_features_are_those_that_are_computed() -> None:
    model = nano_model()
    prepare(model, PartSettings(rank=2, dropout=0.0))
    kept = Learner(model, PartSettings(), LossSettings(), cache=1 << 30)
    batch, totals = batch_of(model, [pointed(1), pointed(2)]), Totals(10, 6, 6)
    first, second = kept(batch, totals)["loss"], kept(batch, totals)["loss"]
    assert kept.sam_store.hits == 2
    assert kept.vision_store.hits >= 2
    plain = Learner(model, PartSettings(), LossSettings())(batch, totals)["loss"]
    assert torch.equal(first, second)
    assert torch.allclose(first, plain, atol=1e-5)
    full = Learner(model, PartSettings(), LossSettings(), cache=100)
    assert torch.equal(full(batch, totals)["loss"], first)  # what does not fit is computed again
    assert len(full.sam_store) == 0


def test_rehearsed_pictures_hold_the_model_where_it_was() -> None:
    """The distance from the codes of before is 0 at the start, grows as weights move, and pulls them back."""
    model = nano_model()
    settings = PartSettings(mode="full")
    before = Before(model)
    prepare(model, settings)
    plain = Learner(model, settings, LossSettings())
    held = Learner(model, settings, LossSettings(keep=2.0), before=before)
    assert {n for n, _ in held.named_parameters()} == {n for n, _ in plain.named_parameters()}
    asker, totals = Asker(model.config, PLAIN, 0, scored=False), Totals(20, 6, 6)
    asked = [asker(pointed(n), np.random.default_rng(n)) for n in range(2)]
    collate = Collator(model.mllm)
    fresh, known = collate(asked, [0, 1]), collate(asked, [0, 1], rehearsed=True)
    glued = collate([replace(one, collage=True) for one in asked], [0, 1], rehearsed=True)

    def loss(learner: Learner, batch: Batch) -> float:
        return float(learner(batch, totals)["loss"].detach())

    assert loss(held, known) == pytest.approx(loss(plain, known))
    with torch.no_grad():
        model.text_hidden_fcs[2].weight.mul_(1.5)
    assert loss(held, fresh) == pytest.approx(loss(plain, fresh))
    assert loss(held, glued) == pytest.approx(loss(plain, glued))
    assert loss(held, known) > loss(plain, known) + 0.1
    (held(known, totals)["loss"] - plain(known, totals)["loss"]).backward()
    gradient = model.text_hidden_fcs[2].weight.grad
    assert gradient is not None
    assert float((gradient * model.text_hidden_fcs[2].weight.detach()).sum()) > 0  # smaller again


def test_a_still_vision_model_looks_once_for_both_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sees is the same before and after, so the model of before reads what the trained one has computed."""
    model, settings = nano_model(), PartSettings(rank=2, dropout=0.0)
    before = Before(model)
    prepare(model, settings)
    held = Learner(model, settings, LossSettings(keep=2.0), before=before)
    asked = Asker(model.config, PLAIN, 0, scored=False)(pointed(1), np.random.default_rng(1))
    known = Collator(model.mllm)([asked], [0], rehearsed=True)
    with torch.no_grad():
        model.text_hidden_fcs[2].weight.mul_(1.5)
        made = held.computed(known, Totals(20, 6, 6))
        assert made.codes is not None
        far = before.distance(made.codes, known)
    looked = []
    features = InternVLFamily.features
    monkeypatch.setattr(
        InternVLFamily, "features", lambda *given: looked.append(1) or features(*given)
    )
    out = held(known, Totals(20, 6, 6))
    assert len(looked) == 1
    assert float(out["report"][REPORT.index("kept")]) == pytest.approx(float(far), rel=1e-5)
    assert float(far) > 0.1


def test_something_absent_is_denied_and_where_scores_are_trained_looked_at() -> None:
    model = nano_model()
    gone = Referring("the dog", ObjectMasks((EmptyMask(),)), "none", "0")
    sample = replace(pointed(1), referrings=(gone,))
    fed = {}
    for seed in range(12):
        asker = Asker(model.config, DataSettings(augment="none"), 0, scored=True)
        (exchange,) = asker(sample, np.random.default_rng(seed)).exchanges
        fed[exchange.decision is not None] = exchange
    assert fed[False].answer == "I cannot see that."
    assert fed[False].targets == ()
    assert fed[True].targets == (-1,)
    batch = Collator(model.mllm)([asker(sample, np.random.default_rng(0))], [0])
    assert not batch.seen.any()


def test_the_same_draw_is_asked_the_same() -> None:
    model = nano_model()
    asker = Asker(model.config, DataSettings(augment="strong", variants=2), 5, scored=True)
    one, two = (asker(pointed(1), np.random.default_rng(9)) for _ in range(2))
    assert one.exchanges == two.exchanges
    assert one.keys == two.keys
    assert np.array_equal(one.frames[0], two.frames[0])
    names = {asker(pointed(1), np.random.default_rng(n)).keys for n in range(12)}
    assert len(names) == 2  # so many variants, and the key says which


def test_cutting_a_picture_keeps_what_is_meant() -> None:
    frame, shown = picture(1), mask(30, 30)[None, None]
    for seed in range(20):
        frames, masks, _, _ = augment(
            [frame], shown, np.zeros((0, 48, 48), bool), np.random.default_rng(seed), "strong"
        )
        assert frames[0].shape[:2] == masks.shape[2:]
        assert masks.sum() == shown.sum()


def seen_and_hidden() -> Sample:
    """A clip of four frames: the ball is seen, hidden, not annotated, hidden; the mug is there, last not annotated."""
    ball = (ArrayMask(mask(4, 4)), EmptyMask(), None, EmptyMask())
    mug = (*(ArrayMask(mask(20, 20)),) * 3, None)
    referrings = (
        Referring("the ball", ObjectMasks(ball, "ball"), "", "0"),
        Referring("the mug", ObjectMasks(mug, "mug"), "", "1"),
        Referring("the cup", None, "none", "2"),
    )
    frames = tuple(ArrayPicture(picture(n), f"frame {n}") for n in range(4))
    return Sample("made", "made: clip", "c", frames, clip=True, referrings=referrings)


def answers_of(frames: Sequence[int]) -> dict[str, bool]:
    """For everything that is asked about these frames: whether the answer is that it is there."""
    model = nano_model()
    settings = replace(
        PLAIN, frames=len(frames), alone=0.0, answers=("Sure, [SEG].",), absent="No."
    )
    asked = Asker(model.config, settings, 0, scored=False)(
        seen_and_hidden().with_frames(frames), np.random.default_rng(3)
    )
    words = ("the ball", "the mug", "the cup")
    return {next(w for w in words if w in e.question): e.answer != "No." for e in asked.exchanges}


def test_hidden_is_denied_and_unknown_is_not_asked() -> None:
    assert answers_of([0]) == {"the ball": True, "the mug": True, "the cup": False}
    assert answers_of([1]) == {"the ball": False, "the mug": True, "the cup": False}
    assert answers_of([2]) == {"the mug": True, "the cup": False}
    assert answers_of([3]) == {"the ball": False, "the cup": False}
    assert answers_of([0, 1]) == {"the ball": True, "the mug": True, "the cup": False}
    assert answers_of([1, 3]) == {"the ball": False, "the mug": True, "the cup": False}
    assert answers_of([1, 2]) == {"the mug": True, "the cup": False}  # the ball may be on the other


def test_what_nobody_annotated_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the table of a run nor by `evaluate`: what is hidden counts as absent, what is unknown as nothing."""
    model = nano_model()
    for frame, wanted in ((1, {"the ball": True, "the mug": False}), (3, {"the ball": True})):
        still = replace(seen_and_hidden().with_frames([frame]), clip=False)
        seen = measure._ask(model, still, np.random.default_rng(0))
        assert {s.text: s.absent for s in seen} == {**wanted, "the cup": True}
        scored = list(score_sample(still, ModelPredictor(model, Asking())))
        assert {s.record["asked"] for s in scored} == {*wanted, "the cup"}


def test_several_objects_are_known_where_each_of_them_is() -> None:
    one, two = ArrayMask(mask(4, 4)), ArrayMask(mask(20, 20))
    assert all_of((one, None)) is None
    both = all_of((one, two))
    assert both is not None
    assert both.read(48, 48).sum() == 2 * 16 * 16


def test_a_collage_denies_nothing_that_may_be_there() -> None:
    """A named object without a mask in this picture: no phrase that fits it is asked, neither as there nor as not."""
    frame = ArrayPicture(picture(1), "p")
    things = (
        ObjectMasks((ArrayMask(mask(4, 4)),), "red mug"),
        ObjectMasks((None,), "blue ball"),
        ObjectMasks((EmptyMask(),), "green cup"),
    )
    said = (Referring("the red mug", things[0], "", "0"),)
    sample = Sample("made", "made: 1", "1", (frame,), referrings=said, objects=things)
    other = Sample(
        "made",
        "made: 2",
        "2",
        (ArrayPicture(picture(2), "q"),),
        referrings=said,
        objects=(ObjectMasks((ArrayMask(mask(8, 8)),), "red mug"),),
    )
    model = nano_model()
    settings = replace(PLAIN, collage=0.99, denied=0.5, absent="No.", answers=("[SEG]",))
    album = Album([Several([sample, other])])
    asker = Asker(model.config, settings, 0, scored=False, album=album)
    said_of: dict[str, set[bool]] = {}
    for seed in range(40):
        for exchange in asker(sample, np.random.default_rng(seed)).exchanges:
            for name in ("ball", "cup", "mug"):
                if name in exchange.question:
                    said_of.setdefault(name, set()).add(exchange.answer != "No.")
    assert "ball" not in said_of
    assert said_of["cup"] == {False}
    assert said_of["mug"] == {True}


class Several(list):  # type: ignore[type-arg]
    """Samples as a dataset."""

    name = "made"


def test_a_collage_of_nothing_is_the_picture_itself() -> None:
    """The only named object is drawn empty here and nothing can be glued in: it is denied."""
    gone = ObjectMasks((EmptyMask(),), "red ball")
    sample = Sample(
        "made",
        "made: 1",
        "1",
        (ArrayPicture(picture(1), "p"),),
        referrings=(Referring("the red ball", gone, "", "0"),),
        objects=(gone,),
    )
    speck = ObjectMasks((ArrayMask(mask(4, 4, side=1)),), "red ball")
    album = Album([Several([replace(sample, objects=(speck,))])])
    settings = replace(PLAIN, collage=0.99, naming=0.5, absent="No.")
    asker = Asker(nano_model().config, settings, 0, scored=False, album=album, things=True)
    for seed in range(8):
        answers = {e.answer for e in asker(sample, np.random.default_rng(seed)).exchanges}
        assert answers == {"No."}


def test_some_draws_of_a_clip_show_one_frame() -> None:
    """A ball that is seen on half of the frames is denied on some of the draws."""
    asker = Asker(
        nano_model().config,
        replace(PLAIN, frames=3, alone=0.5, absent="No."),
        0,
        scored=False,
    )
    drawn = [asker(seen_and_hidden(), np.random.default_rng(n)) for n in range(40)]
    counts = [len(asked.frames) for asked in drawn]
    assert 10 < counts.count(1) < 30
    assert counts.count(3) == 40 - counts.count(1)
    said = [e.answer for a in drawn for e in a.exchanges if "ball" in e.question]
    assert {"No.", "[SEG]"} <= set(said)
