# SPDX-License-Identifier: Apache-2.0
"""SAMTok: masks as two words. `test/data/golden/samtok` has what the official mask tokenizer answered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sa2va_model.checkpoints.load import load_model
from sa2va_model.checkpoints.presets import NANO_SEGMENTERS, byte_tokenizer
from sa2va_model.config.model import Sam2Config
from sa2va_model.errors import InputError
from sa2va_model.mllm.registry import nano_fields
from sa2va_model.samtok import words
from sa2va_model.samtok.model import CLASSES, load_samtok
from sa2va_model.samtok.tokenizer import FILE, MaskTokenizer, load_mask_tokenizer
from sa2va_model.testing import wake

RECORDED = Path(__file__).parents[1] / "data" / "golden" / "samtok"
NANO = NANO_SEGMENTERS["sam2"]
PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def mask(*place: int) -> np.ndarray:
    out = np.zeros((60, 80), bool)
    out[place[0] : place[1], place[2] : place[3]] = True
    return out


@pytest.fixture(scope="module")
def masks() -> MaskTokenizer:
    assert isinstance(NANO, Sam2Config)
    torch.manual_seed(5)
    config = replace(
        NANO, pointer_positions=True, object_score_gate=False, stability_fallback=False
    )
    tokenizer = MaskTokenizer(config).eval()
    wake(tokenizer.sam2)
    for book in tokenizer.codebooks:
        book.weight.data.normal_(0, 1)
        book.weight.data[words.BOOK] = 0
    return tokenizer


def test_words_of_a_text() -> None:
    a, b = words.spell((7, 9)), words.spell((255, 0))
    assert a == "<|mt_start|><|mt_0007|><|mt_0265|><|mt_end|>"
    assert words.read(f"The cup {a} and the plate {b}.") == [(7, 9), (255, 0)]
    assert words.read("nothing") == []
    assert len(words.vocabulary()) == 514


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("<|mt_start|><|mt_0007|><|mt_end|>", [(7, -1)]),
        ("<|mt_start|><|mt_0007|> on", [(7, -1)]),
        ("<|mt_start|><|mt_0007|><|mt_0265|><|mt_0300|><|mt_end|>", [(7, 9)]),
        ("<|mt_0007|><|mt_0265|>", [(7, 9)]),  # an even number: whatever stands around them
        ("<|mt_start|><|mt_0007|><|mt_0008|><|mt_end|>", [(7, -1)]),  # of the first codebook twice
        ("<|mt_start|><|mt_0300|><|mt_0301|><|mt_end|>", []),
    ],
)
def test_words_that_a_model_gets_wrong(text: str, codes: list[words.Code]) -> None:
    assert words.read(text) == codes


def test_a_mask_becomes_two_entries_and_they_a_mask(masks: MaskTokenizer) -> None:
    given = np.stack([mask(5, 30, 10, 40), mask(35, 55, 50, 78)])
    codes = masks.encode(PICTURE, given)
    assert codes == [*masks.encode(PICTURE, given[:1]), *masks.encode(PICTURE, given[1:])]
    drawn = masks.decode(PICTURE, codes)
    assert drawn.shape == (2, 60, 80)
    assert np.array_equal(drawn[0], masks.decode(PICTURE, codes[:1])[0])


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> MaskTokenizer:
    """The recorded weights; what decodes no mask (memory, running means of training) is not in the record."""
    assert isinstance(NANO, Sam2Config)
    config = replace(NANO, pointer_positions=True)
    own = {
        name: torch.zeros_like(tensor) for name, tensor in MaskTokenizer(config).official().items()
    }
    recorded = load_file(RECORDED / "weights.safetensors")
    assert recorded.keys() <= own.keys()
    file = tmp_path_factory.mktemp("samtok") / FILE
    torch.save({**own, **recorded}, file)
    return load_mask_tokenizer(file, config=config)


def test_the_official_answers(official: MaskTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of five masks (one is a pixel), vectors before the quantizer, logits, and a lone first word."""
    gold = load_file(RECORDED / "answers.safetensors")
    image, vectors = gold["image"].numpy(), []
    nearest = MaskTokenizer._nearest
    monkeypatch.setattr(
        MaskTokenizer, "_nearest", lambda self, v: (vectors.append(v), nearest(self, v))[1]
    )
    codes = official.encode(image, gold["masks"].numpy())
    assert torch.allclose(torch.stack(vectors), gold["vectors"], atol=1e-5)
    assert codes == [tuple(code) for code in gold["codes"].tolist()]
    given = [(int(a), int(b)) for a, b in gold["given"]]
    assert (200, -1) in given
    with torch.inference_mode():
        features = official._features(image)
        plain = official.sam2.without_memory(features).expand(len(given), -1, -1, -1)
        prompts = torch.stack([official._vector(code) for code in given])[:, None]
        logits = official.sam2.decode_tokens(features, plain, extra=prompts, multimask=True).logits
    assert torch.allclose(logits[:, 0], gold["logits"], atol=1e-5)
    final = gold["final"].numpy()
    assert np.array_equal(official.decode(image, given), final)
    assert 0.01 < final.mean() < 0.99


def test_entries_are_the_nearest_of_what_is_left(masks: MaskTokenizer) -> None:
    first, second = (book.weight[: words.BOOK] for book in masks.codebooks)
    vector = first[17] + 0.1 * second[200]
    rest = vector - first[17]
    expected = int(torch.cdist(rest[None], second)[0].argmin())
    assert masks._nearest(vector) == (17, expected)


def test_a_checkpoint_answers_with_masks(
    masks: MaskTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nano in the published layout: plain Qwen3-VL, its tokenizer with words for masks, the mask tokenizer's file."""
    tokenizer = byte_tokenizer(extra=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"))
    tokenizer.add_tokens(words.vocabulary())
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    fields = nano_fields("qwen3_vl", len(tokenizer))
    kind = CLASSES["Qwen3VLForConditionalGeneration"]
    known = {k: v for k, v in fields.items() if k in ("text_config", "vision_config")}
    known |= {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image", "<|image_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
        )
    }
    torch.manual_seed(0)
    model = kind(kind.config_class(**known)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    vision = model.config.vision_config
    processor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "size": {"shortest_edge": 256, "longest_edge": 1024},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    torch.save(masks.official(), tmp_path / FILE)
    assert isinstance(NANO, Sam2Config)
    config = replace(NANO, pointer_positions=True)
    samtok = load_samtok(tmp_path, sam2=config)
    answer = samtok.ask(PICTURE, "What is {}?", mask(5, 30, 10, 40)[None], max_new_tokens=3)
    assert answer.masks.shape == (len(answer.codes), 60, 80)
    samtok.save(tmp_path / "again")
    again = load_samtok(tmp_path / "again", sam2=config)
    for one, other in ((samtok.model.state_dict(), again.model.state_dict()),
                       (samtok.masks.official(), again.masks.official())):  # fmt: skip
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    same = again.ask(PICTURE, "What is {}?", mask(5, 30, 10, 40)[None], max_new_tokens=3)
    assert same.text == answer.text
    said = "It is <|mt_start|><|mt_0007|><|mt_0265|><|mt_end|>."
    monkeypatch.setattr(samtok.tokenizer, "decode", lambda *_, **__: said)
    answer = samtok.ask(PICTURE, "Where is the cup?", max_new_tokens=1)
    assert (answer.text, answer.codes) == (said, ((7, 9),))
    assert np.array_equal(answer.masks, masks.decode(PICTURE, [(7, 9)]))
    with pytest.raises(
        InputError, match=r"SAMTok, which is read by sa2va_model\.samtok\.load_samtok"
    ):
        load_model(tmp_path, device="cpu")


def test_what_is_no_mask_is_told(masks: MaskTokenizer, tmp_path: Path) -> None:
    for given, words_of_it in (
        (np.zeros((1, 60, 80), bool), "one is empty"),
        (np.ones((1, 8, 8), bool), r"shape \[1, 8, 8\]; expected \[K, 60, 80\]"),
    ):
        with pytest.raises(InputError, match=words_of_it):
            masks.encode(PICTURE, given)
    with pytest.raises(InputError, match=r"mask words are \(256, 0\); expected two numbers of 0"):
        masks.decode(PICTURE, [(256, 0)])
    torch.save({"model": {}}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"has no quantizer\.codebooks"):
        load_mask_tokenizer(tmp_path / "x.pth")
    torch.save({**masks.official(), "stranger": torch.zeros(1)}, tmp_path / "x.pth")
    assert isinstance(NANO, Sam2Config)
    with pytest.raises(InputError, match="'stranger' has no place in a mask tokenizer"):
        load_mask_tokenizer(tmp_path / "x.pth", config=replace(NANO, pointer_positions=True))
