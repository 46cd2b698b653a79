# SPDX-License-Identifier: Apache-2.0
"""Every family that can be loaded can be trained: the same states as at run time, steps, adapters, official names."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tokenizers import normalizers, processors

from sa2va_cli.main import main
from sa2va_model.checkpoints.adapters import load_adapter
from sa2va_model.checkpoints.files.safetensors_files import stored_tensors
from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.errors import InputError
from sa2va_model.keyframes import KeyframeChoice
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.families.qwen_vl import QWEN2_5, QWEN3
from sa2va_model.mllm.registry import nano_names
from sa2va_model.testing import nano_model
from sa2va_training.batches import asking
from sa2va_training.batches.asking import Asker
from sa2va_training.batches.collate import Collator
from sa2va_training.data.masks import ArrayMask
from sa2va_training.data.pictures import ArrayPicture
from sa2va_training.data.sample import Message, ObjectMasks, Referring, Sample
from sa2va_training.objectives.learner import Learner
from sa2va_training.objectives.objectives import Totals
from sa2va_training.run.finetune import finetune
from sa2va_training.run.settings import DataSettings, LossSettings, PartSettings
from sa2va_training.run.settings_files import settings_from
from sa2va_training.run.trainables import prepare

PLAIN = DataSettings(augment="none", answers=("[SEG]",), frames=2, alone=0.0)
QWEN = (QWEN2_5, QWEN3)
LLAVA = "llava"


def clip(seed: int, frames: int, words: tuple[str, ...], size: tuple[int, int]) -> Sample:
    """Frames of a picture that is not square, with a square object for each expression."""
    rng = np.random.default_rng(seed)
    shape = (frames, *size, 3)
    pictures = tuple(
        ArrayPicture(rgb, f"{seed} {n}")
        for n, rgb in enumerate(rng.integers(0, 256, shape, dtype=np.uint8))
    )
    referrings = []
    for n, text in enumerate(words):
        mask = np.zeros(size, bool)
        mask[4 : 12 + 8 * n, 8 * n : 8 * n + 16] = True
        masks = ObjectMasks((ArrayMask(mask),) * frames, text)
        referrings.append(Referring(text, masks, "attribute", str(n)))
    return Sample(
        "made", f"made: {seed}", str(seed), pictures, referrings=tuple(referrings), clip=frames > 1
    )


@pytest.mark.parametrize("family", [*QWEN, LLAVA])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_branch_sees_what_the_run_time_sees(
    monkeypatch: pytest.MonkeyPatch, family: str, frames: int
) -> None:
    """Positions with rows and columns, windows, DeepStack, states before the norm: each would show here."""
    monkeypatch.setattr(asking, "_PLAIN", 1.0)
    model = nano_model(family=family)
    samples = [
        clip(1, frames, ("the mug", "a red ball"), (40, 72)),
        clip(2, frames, ("it",), (56, 48)),
    ]
    choice = KeyframeChoice("latest", frames)
    wanted = [
        model.ground([p.read() for p in sample.frames], r.text, keyframes=choice).embeddings[0]
        for sample in samples
        for r in sample.referrings
    ]
    asker = Asker(model.config, PLAIN, 0, scored=False)
    asked = [asker(sample, np.random.default_rng(0)) for sample in samples]
    batch = Collator(model.mllm)(asked, [0, 1])
    parts = PartSettings(rank=2, alpha=4, dropout=0.0)
    prepare(model, parts)
    for cache in (0, 1 << 28):  # features computed together, and kept picture by picture
        learner = Learner(model, parts, LossSettings(), cache=cache)
        with torch.no_grad():
            states = learner.read(batch)
            codes = model.text_hidden_fcs(states[batch.seg[:, 0], batch.seg[:, 1]])
        questions = [e.question for one in asked for e in one.exchanges]
        texts = [r.text for sample in samples for r in sample.referrings]
        order = [questions.index(prompts.referring_question(text)) for text in texts]
        torch.testing.assert_close(codes[order], torch.stack(wanted), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", [*QWEN, LLAVA])
def test_a_conversation_is_written_as_the_run_time_writes_it(family: str) -> None:
    model = nano_model(family=family)
    mllm = model.mllm
    turns = (Message("user", "<image>\nWhat is it?"), Message("assistant", "a mug"))
    frame = ArrayPicture(np.zeros((40, 64, 3), np.uint8), "p")
    sample = Sample("r", "r: 1", "1", (frame,), turns=turns)
    asker = Asker(model.config, PLAIN, 0, scored=False)
    batch = Collator(mllm)([asker(sample, np.random.default_rng(0))], [0])
    user, seen = mllm.user_turn("<image>\nWhat is it?", mllm.look([frame.read()], clip=False))
    ids = mllm.prompt_ids(user)
    assert batch.ids[0, : len(ids)].tolist() == ids
    if family == LLAVA:
        return  # positions are counted up
    positions = mllm.inputs(ids, seen).positions
    assert positions is not None
    assert batch.positions[:, 0, : len(ids)].tolist() == positions[:, 0].tolist()


def test_words_alone_are_tokenised_in_one_piece() -> None:
    """Llama's tokenizer marks the beginning of every piece, so a turn that is cut becomes other tokens."""
    model = nano_model(family=LLAVA)
    backend = model.mllm.tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Prepend("\u2581")
    end = int(model.mllm.tokenizer.convert_tokens_to_ids("</s>"))
    backend.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", end)]
    )
    turns = (Message("user", "What is it?"), Message("assistant", "a mug"))
    sample = Sample("r", "r: 1", "1", turns=turns)
    asker = Asker(model.config, PLAIN, 0, scored=False)
    batch = Collator(model.mllm)([asker(sample, np.random.default_rng(0))], [0])
    ids = model.mllm.prompt_ids("What is it?")
    assert ids[0] == end
    assert batch.ids[0, : len(ids)].tolist() == ids


def test_regions_are_refused_where_there_are_none() -> None:
    model = nano_model(family=QWEN3)
    region = ArrayMask(np.ones((32, 32), bool))
    turns = (Message("user", "<image>\nWhat is region1?"), Message("assistant", "a mug"))
    frame = ArrayPicture(np.zeros((32, 32, 3), np.uint8), "p")
    sample = Sample("r", "r: 1", "1", (frame,), turns=turns, regions=(region,))
    asked = Asker(model.config, PLAIN, 0, scored=False)(sample, np.random.default_rng(0))
    with pytest.raises(InputError, match="r: 1: asks about regions"):
        Collator(model.mllm)([asked], [0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of a white square, and a question."""
    root = tmp_path_factory.mktemp("squares")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    rows = []
    for n in range(6):
        rgb, mask = np.full((48, 64, 3), 40, np.uint8), np.zeros((48, 64), np.uint8)
        rgb[8 : 24 + n, 8:30] = 230
        mask[8 : 24 + n, 8:30] = 1
        cv2.imwrite(str(root / "images" / f"p{n}.png"), rgb)
        cv2.imwrite(str(root / "masks" / f"p{n}.png"), mask)
        expression = {"text": "the white square", "objects": ["1"]}
        image, labels = f"images/p{n}.png", f"masks/p{n}.png"
        objects = {"1": {"name": "white square"}}
        row = {"image": image, "labels": labels, "objects": objects, "expressions": [expression]}
        rows.append(row)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "annotations.jsonl").write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("family", nano_names())
@pytest.mark.parametrize("mode", ["lora", "full", "decoder"])
def test_every_family_learns_in_every_mode(family: str, mode: str) -> None:
    """A step moves all that is trained, a batch of words alone as well, and lowers the loss."""
    model = nano_model(family=family)
    parts = PartSettings(mode=mode, rank=2, alpha=4, dropout=0.0)
    trained = prepare(model, parts)
    learner = Learner(model, parts, LossSettings(points=64)).train()
    asker = Asker(model.config, PLAIN, 0, scored=False)
    turns = (Message("user", "hello?"), Message("assistant", "hi"))
    samples = [clip(3, 2, ("the mug",), (40, 72)), Sample("c", "c: 1", "1", turns=turns)]
    batches = [
        Collator(model.mllm)([asker(sample, np.random.default_rng(0))], [0]) for sample in samples
    ]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = torch.stack([learner(batch, Totals(8, 2, 2))["loss"] for batch in batches]).sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    optimizer.zero_grad(set_to_none=True)
    learner(batches[1], Totals(8, 2, 2))["loss"].backward()
    places = dict(model.named_parameters())
    without = [name for name in trained.names if places[name].grad is None]
    assert not without


@pytest.mark.parametrize("family", ["qwen2", QWEN3, LLAVA])
def test_still_patches_leave_the_loss_and_every_other_gradient_alone(family: str) -> None:
    """Only what makes patches of pixels gets no gradient, so the step is the same for all that is trained."""
    asker = Asker(nano_model(family=family).config, PLAIN, 0, scored=False)
    asked = asker(clip(3, 1, ("the mug",), (40, 72)), np.random.default_rng(0))
    losses, gradients = [], []
    for patches in (True, False):
        torch.manual_seed(0)
        model = nano_model(family=family)
        parts = PartSettings(mode="full", patches=patches)
        prepare(model, parts)
        learner = Learner(model, parts, LossSettings(points=64)).train()
        loss = learner(Collator(model.mllm)([asked], [0]), Totals(8, 2, 2))["loss"]
        loss.backward()
        losses.append(float(loss.detach()))
        named = model.named_parameters()
        gradients.append({name: p.grad for name, p in named if p.grad is not None})
    moved, still = gradients
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert moved.keys() - still.keys()
    assert all("patch_embed" in name for name in moved.keys() - still.keys())
    assert still
    for name, gradient in still.items():
        assert "patch_embed" not in name
        torch.testing.assert_close(gradient, moved[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "mode", "segmenter"),
    [
        ("internlm2", "lora", "sam2"),
        (QWEN2_5, "lora", "sam2"),
        (QWEN3, "full", "sam2"),
        (QWEN3, "lora", "sam3"),
        (LLAVA, "lora", "sam2"),
    ],
)
def test_two_steps_from_a_folder_to_an_adapter(
    tmp_path: Path, folder: Path, family: str, mode: str, segmenter: str
) -> None:
    """What upstream trains of the variant with SAM 3 is what it trains of the others, at the variant's own size."""
    base, run = tmp_path / "base", tmp_path / "run"
    save_model(nano_model(family=family, segmenter=segmenter), base, dtype=torch.float32)
    settings = settings_from(
        {
            "data": str(folder),
            "model": str(base),
            "output": str(run),
            "device": "cpu",
            "precision": "fp32",
            "steps": 2,
            "measure": 2,
            "trackers": [],
            "train": {"mode": mode, "rank": 2, "alpha": 4},
            "loss": {"points": 64},
            "batches": {"batch": 2, "accumulate": 1, "workers": 0},
        },
        "test",
    )
    results = finetune(settings)
    assert results["steps"] == 2
    model = load_model(base, device="cpu")
    load_adapter(model, run / "adapter")
    merged = load_model(run / "merged", device="cpu")
    rgb = cv2.imread(str(folder / "images/p0.png"))
    assert rgb is not None
    found, same = (m.ground([rgb], "the white square").embeddings for m in (model, merged))
    torch.testing.assert_close(found, same, atol=1e-4, rtol=1e-3)
    before = load_model(base, device="cpu").ground([rgb], "the white square").embeddings
    assert not torch.equal(before, same)
    for name, weight in load_model(base, device="cpu").sam2.named_parameters():
        kept = torch.equal(merged.sam2.get_parameter(name), weight)
        assert kept or "sam_mask_decoder" in name, f"{name} is frozen upstream"
    names = {path: set(stored_tensors(path)) for path in (base, run / "merged")}
    assert names[base] == names[run / "merged"]


@pytest.mark.parametrize(("family", "bits"), [("internlm2", 4), (QWEN2_5, 4)])
def test_lora_learns_beside_quantised_weights(
    tmp_path: Path, folder: Path, family: str, bits: int
) -> None:
    """QLoRA: packed weights stay as they are; the adapter fits the base, quantised or not, and is merged into it."""
    pytest.importorskip("bitsandbytes", reason="the extra 'quantised' is not installed")
    base, run = tmp_path / "base", tmp_path / "run"
    save_model(nano_model(family=family), base, dtype=torch.float32)
    words = ["train", "finetune.yaml", f"data={folder}", f"output={run}", "steps=2", "measure=2"]
    few = ["train.rank=2", "loss.points=64", "batches.batch=2", "batches.accumulate=1"]
    fast = ["optimiser.rate=0.004", "batches.workers=0"]
    given = ["--model", str(base), "--device", "cpu", "--bits", str(bits)]
    assert main([*words, *few, *fast, *given]) == 0
    whole = load_model(base, device="cpu")
    small = load_model(base, device="cpu", bits=bits)
    layers = [m for m in small.modules() if hasattr(m, "take_weight")]
    assert len(layers) > 5
    packed = [m.weight.clone() for m in layers]
    assert {w.dtype for w in packed} == {torch.uint8 if bits == 4 else torch.int8}
    for model in (whole, small):
        load_adapter(model, run / "adapter")
    assert sum("lora_A" in name for name, _ in small.named_parameters()) == len(layers)
    assert all(torch.equal(m.weight, w) for m, w in zip(layers, packed, strict=True))
    merged = load_model(run / "merged", device="cpu")
    rgb = cv2.imread(str(folder / "images/p0.png"))
    assert rgb is not None
    one, two, three = (
        m.ground([rgb], "the white square").embeddings for m in (whole, merged, small)
    )
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-2)
    assert torch.cosine_similarity(one, three).min() > 0.9
    plain = load_model(base, device="cpu").ground([rgb], "the white square").embeddings
    assert not torch.equal(one, plain)
    assert "bits: 4" in (run / "settings.yaml").read_text()
