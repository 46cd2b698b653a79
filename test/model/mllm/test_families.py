# SPDX-License-Identifier: Apache-2.0
"""Every family of checkpoints: the same answers as transformers' own `generate`, in every way we decode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sa2va_model.checkpoints.load import load_model, save_model
from sa2va_model.checkpoints.presets import byte_tokenizer, nano_config
from sa2va_model.errors import InputError
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.families.llava import Llava, LlavaSizes
from sa2va_model.mllm.families.qwen_vl import QwenVL
from sa2va_model.mllm.registry import family_of_nano, nano_names
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model

ODD_SIZE = Path(__file__).parents[2] / "data" / "golden" / "qwen3_vl" / "image_odd_size.safetensors"
LIMIT = 8
TOLERANCE = 1e-5
QWEN_VL = ("qwen2_5_vl", "qwen3_vl")
TEXT = "<image>\nWhere is the red mug?"


def frame(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


FRAMES = [frame(1), frame(2, 40, 72)]


def talkative(family: str) -> Sa2VA:
    """Random output rows, so that greedy decoding writes different tokens that depend on everything before them."""
    model = nano_model(family=family, answers=False)
    outputs = model.mllm.language_model.get_output_embeddings().weight
    with torch.no_grad():
        outputs.copy_(torch.randn(outputs.shape, generator=torch.Generator().manual_seed(6)))
        outputs[unwanted(model)] = 0
    return model


def unwanted(model: Sa2VA) -> torch.Tensor:
    """Tokens that end an answer, and what ends a prompt, whose large embedding would only lead to itself."""
    return torch.tensor([*sorted(model.mllm.stop_ids), model.mllm.prompt_ids("x")[-1]])


def prompt_of(model: Sa2VA, frames: list[np.ndarray]) -> tuple[list[int], torch.Tensor]:
    """Token ids and embeddings of `TEXT` about `frames`, without any cache."""
    mllm = model.mllm
    with torch.inference_mode():
        user, visual = mllm.user_turn(TEXT, mllm.look(frames, clip=True))
        ids = mllm.prompt_ids(user)
        return ids, mllm.inputs(ids, visual).embeddings


def generated_by_transformers(model: Sa2VA, frames: list[np.ndarray]) -> list[int]:
    """`generate` of the language model or, for Qwen-VL, of the whole vision-language model from pixels and ids."""
    mllm, (ids, embeddings) = model.mllm, prompt_of(model, frames)
    options = {"max_new_tokens": LIMIT, "do_sample": False, "eos_token_id": None}
    with torch.inference_mode():
        if isinstance(mllm, Llava):
            pixels = mllm.seen_pixels(frames, clip=True)
            out = mllm.language_model.generate(
                input_ids=torch.tensor([ids]), pixel_values=pixels, **options
            )
            return list(out[0, len(ids) :].tolist())
        if not isinstance(mllm, QwenVL):
            out = mllm.language_model.generate(inputs_embeds=embeddings, **options)
            return list(out[0].tolist())
        pixels, grids = mllm.pixels(frames)
        tokens = torch.tensor([ids])
        out = mllm.language_model.generate(
            input_ids=tokens,
            pixel_values=pixels,
            image_grid_thw=grids,
            mm_token_type_ids=(tokens == mllm.image_id).int(),
            **options,
        )
        return list(out[0, len(ids) :].tolist())


@pytest.mark.parametrize("family", nano_names())
def test_greedy_answers_are_those_of_transformers(family: str) -> None:
    model = talkative(family)
    expected = generated_by_transformers(model, FRAMES)
    reply = model.reply(TEXT, FRAMES, clip=True, max_new_tokens=LIMIT)
    assert list(reply.generated.ids) == expected
    assert len(set(expected)) >= 3, "the random model must write different tokens"


@pytest.mark.parametrize(("side", "patch", "layers", "layer"), [(84, 14, 3, -2), (48, 6, 2, -1)])
def test_llava_of_other_sizes_answers_as_transformers(
    side: int, patch: int, layers: int, layer: int
) -> None:
    plain = nano_model(family="llava", answers=False)
    values = plain.config.mllm.values
    vision = {
        **values["vision_config"],
        "image_size": side,
        "patch_size": patch,
        "num_hidden_layers": layers,
    }
    sizes = LlavaSizes({**values, "vision_config": vision, "vision_feature_layer": layer})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        model = Sa2VA(replace(plain.config, mllm=sizes), plain.mllm.tokenizer).eval()
    model.mllm.language_model.lm_head.weight.data.copy_(
        talkative("llava").mllm.language_model.lm_head.weight
    )
    expected = generated_by_transformers(model, FRAMES)
    reply = model.reply(TEXT, FRAMES, clip=True, max_new_tokens=LIMIT)
    assert list(reply.generated.ids) == expected
    assert prompt_of(model, FRAMES)[0].count(model.mllm.image_id) == 2 * (side // patch) ** 2
    with torch.inference_mode():
        whole = model.mllm.language_model(
            input_ids=torch.tensor([[*prompt_of(model, FRAMES)[0], *expected[:-1]]]),
            pixel_values=model.mllm.seen_pixels(FRAMES, clip=True),
        ).logits[0, -LIMIT:]
    torch.testing.assert_close(reply.generated.logits, whole, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", nano_names())
@pytest.mark.parametrize("right", [0, 3, LIMIT])
def test_known_answers_and_shared_images_change_nothing(family: str, right: int) -> None:
    """Branches in one forward, right from the start or from no token on, and the second question on the images."""
    slow = talkative(family).reply(TEXT, FRAMES, clip=True, max_new_tokens=LIMIT)
    ids = slow.generated.ids
    guess = (*ids[:right], *((t + 1) % 200 for t in ids[right:]))
    model = talkative(family)
    for _ in range(2):  # the second time the images were read already
        fast = model.reply(
            TEXT, FRAMES, clip=True, max_new_tokens=LIMIT, expected=[(7, 8, 9), guess, (9, 9)]
        )
        assert fast.generated.ids == ids
        assert torch.allclose(fast.generated.logits, slow.generated.logits, atol=TOLERANCE)
        assert torch.allclose(fast.generated.states, slow.generated.states, atol=TOLERANCE)


@pytest.mark.parametrize("family", nano_names())
def test_saved_and_loaded_bit_by_bit(family: str, tmp_path: Path) -> None:
    model = nano_model(family=family)
    save_model(model, tmp_path, dtype=None)
    again = load_model(tmp_path)
    before, after = model.state_dict(), again.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    one, other = (m.ground([FRAMES[0]], "the red mug") for m in (model, again))
    assert one.found
    assert torch.equal(one.embeddings, other.embeddings)
    assert again.config == load_model(tmp_path).config


@pytest.mark.parametrize(
    ("family", "names"),
    [
        (
            "internlm2",
            ["attention.wqkv.weight", "feed_forward.w3.weight", "ffn_norm.weight", "output.weight"],
        ),
        ("phi3", ["self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight", "lm_head.weight"]),
        ("qwen3", ["self_attn.q_norm.weight", "self_attn.k_norm.weight", "embed_tokens.weight"]),
        ("internvit_6b", ["attn.q_norm.weight", "attn.qkv.weight", "norm1.weight"]),
        (
            "qwen2_5_vl",
            ["model.model.visual.merger.ln_q.weight", "model.model.language_model.norm.weight"],
        ),
        (
            "qwen3_vl",
            [
                "model.model.visual.deepstack_merger_list.1.norm.weight",
                "model.lm_head.weight",
                "model.model.visual.pos_embed.weight",
            ],
        ),
        (
            "llava",
            [
                "model.model.vision_tower.vision_model.pre_layrnorm.weight",
                "model.model.multi_modal_projector.linear_2.bias",
                "model.model.language_model.layers.1.self_attn.q_proj.weight",
                "model.lm_head.weight",
            ],
        ),
    ],
)
def test_official_names_in_the_file(family: str, names: list[str], tmp_path: Path) -> None:
    save_model(nano_model(family=family), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for name in names:
        assert [key for key in stored if key.endswith(name)], name
    roots = {key.split(".")[0] for key in stored}
    ours = (
        {"model"} if family in (*QWEN_VL, "llava") else {"vision_model", "language_model", "mlp1"}
    )
    assert roots == {*ours, "text_hidden_fcs", "grounding_encoder"}
    if family == "internvit_6b":
        vision = [key for key in stored if key.startswith("vision_model")]
        assert not [key for key in vision if key.endswith(("norm1.bias", "qkv.bias"))]


def test_internlm2_weights_are_grouped_by_key_value_head(tmp_path: Path) -> None:
    """wqkv: for each of two key-value heads two query heads of 8 rows, one key, one value."""
    model = nano_model(family="internlm2")
    save_model(model, tmp_path, dtype=None)
    fused = load_file(tmp_path / "model.safetensors")[
        "language_model.model.layers.0.attention.wqkv.weight"
    ]
    attention = model.mllm.language_model.model.layers[0].self_attn
    query, key, value = (getattr(attention, f"{x}_proj").weight for x in "qkv")
    expected = [query[:16], key[:8], value[:8], query[16:], key[8:], value[8:]]
    assert torch.equal(fused, torch.cat(expected))


@pytest.mark.parametrize("family", ["internlm2", "phi3"])
def test_beyond_the_trained_length_prompts_are_read_in_one_piece(family: str) -> None:
    """Dynamic NTK changes frequencies with the length, a sliding window counts tokens: no branches or prefixes."""
    model = nano_model(family=family, answers=False)
    change = {"max_position_embeddings": 40} if family == "internlm2" else {"sliding_window": 40}
    config = model.config.llm | change
    short = talkative_from(model, config)
    assert short.mllm.generator.span == 40
    expected = generated_by_transformers(short, [FRAMES[0]])
    assert len(prompt_of(short, [FRAMES[0]])[0]) > 40
    for answers in ([], [tuple(expected)], [(7, 8, 9)]):
        reply = short.reply(TEXT, [FRAMES[0]], clip=True, max_new_tokens=LIMIT, expected=answers)
        assert list(reply.generated.ids) == expected


def talkative_from(model: Sa2VA, llm: dict[str, object]) -> Sa2VA:
    """The same weights in a language model with another configuration."""
    mllm = replace(model.config.mllm, llm=llm)
    other = Sa2VA(replace(model.config, mllm=mllm), model.mllm.tokenizer).eval()
    other.load_state_dict(model.state_dict())
    outputs = other.mllm.language_model.get_output_embeddings().weight
    with torch.no_grad():
        outputs.copy_(torch.randn(outputs.shape, generator=torch.Generator().manual_seed(5)))
        outputs[unwanted(other)] = 0
    return other


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def test_internvit_6b_options_against_a_plain_calculation(tmp_path: Path) -> None:
    """RMS norms, no bias at q, k, v, and q and k normalised over all heads together, from the official tensors."""
    model = nano_model(family="internvit_6b")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # norms that are not one, so that a wrong place shows
        for parameter in model.mllm.vision_model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_model(model, tmp_path, dtype=None)
    w = load_file(tmp_path / "model.safetensors")
    v = model.config.mllm.vision
    heads = v.num_attention_heads
    tiles = torch.randn(2, 3, v.image_size, v.image_size, generator=generator)
    with torch.inference_mode():
        ours = model.mllm.vision_model(tiles).last_hidden_state

    e = "vision_model.embeddings."
    patches = torch.nn.functional.conv2d(
        tiles, w[e + "patch_embedding.weight"], w[e + "patch_embedding.bias"], stride=v.patch_size
    )
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([w[e + "class_embedding"].expand(2, -1, -1), x], 1) + w[e + "position_embedding"]
    for layer in range(v.num_hidden_layers):
        p = f"vision_model.encoder.layers.{layer}."
        q, k, value = (rms(x, w[p + "norm1.weight"]) @ w[p + "attn.qkv.weight"].T).chunk(3, -1)
        q, k = rms(q, w[p + "attn.q_norm.weight"]), rms(k, w[p + "attn.k_norm.weight"])
        q, k, value = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, value))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        seen = (scores @ value).transpose(1, 2).flatten(2)
        x = x + w[p + "ls1"] * (seen @ w[p + "attn.proj.weight"].T + w[p + "attn.proj.bias"])
        h = rms(x, w[p + "norm2.weight"]) @ w[p + "mlp.fc1.weight"].T + w[p + "mlp.fc1.bias"]
        h = torch.nn.functional.gelu(h) @ w[p + "mlp.fc2.weight"].T + w[p + "mlp.fc2.bias"]
        x = x + w[p + "ls2"] * h
    assert torch.allclose(ours, x, atol=1e-5)


def test_a_layer_of_the_vision_model_can_be_chosen() -> None:
    model = nano_model()
    tiles = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    last = model.mllm._layer(tiles)
    object.__setattr__(model.config.mllm, "select_layer", 1)
    assert torch.allclose(model.mllm._layer(tiles), last, atol=1e-6)  # one layer: 0 = embeddings
    object.__setattr__(model.config.mllm, "select_layer", -2)
    assert torch.allclose(model.mllm._layer(tiles), model.mllm.vision_model.embeddings(tiles)[0])
    object.__setattr__(model.config.mllm, "select_layer", -9)
    with pytest.raises(InputError, match="select_layer is -9"):
        model.mllm._layer(tiles)


@pytest.mark.parametrize("family", nano_names())
def test_prompts_that_begin_alike_have_the_token_ids_of_the_whole_text(family: str) -> None:
    model = nano_model(family=family)
    mllm, encode = model.mllm, model.mllm.tokenizer.encode
    whole: list[str] = []
    mllm.tokenizer.encode = lambda text, **options: whole.append(text) or encode(text, **options)  # type: ignore[method-assign]
    user, _ = mllm.user_turn("<image>\nWhat is it?", mllm.look(FRAMES, clip=True))
    for text in (
        "What is it?",
        "  two blanks",
        "\n\nlines",
        "<p>ä</p> [SEG] 它",
        "",
        "What is it?",
    ):
        for history in ("", "before that. "):
            whole.clear()
            asked = user.replace("What is it?", text)
            ids, said = mllm.prompt_ids(asked, history), max(whole, key=len)
            given = history + mllm.template.instruction.format(input=asked)
            if not given.startswith(mllm.template.system):
                given = mllm.template.system + given
            assert ids == encode(given), (text, history)
            if text != "What is it?":
                assert len(said) < len(given) / 2  # the images' tokens were not written again


@pytest.mark.parametrize("family", QWEN_VL)
def test_qwen_reads_every_frame_as_an_image_of_its_own(family: str) -> None:
    """Images first, nothing between them, `<image>` removed wherever it stood; sizes stay within the budget."""
    mllm = nano_model(family=family).mllm
    assert isinstance(mllm, QwenVL)
    with torch.inference_mode():
        seen = mllm.look(FRAMES, clip=True)
    user, _ = mllm.user_turn("Look <image>\nhere.", seen)
    pad = [f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in seen.counts]
    assert user == "".join(pad) + "Look \nhere."
    for (_, rows, columns), count in zip(seen.grids, seen.counts, strict=True):
        assert count == rows * columns // 4
        assert 16 * 64 <= rows * columns * 16 <= 48 * 64
    assert len(seen.deep) == (2 if family == "qwen3_vl" else 0)
    system = "<|im_start|>system\n" in mllm.tokenizer.decode(mllm.prompt_ids("Hello"))
    assert system == (family == "qwen2_5_vl")


@pytest.mark.parametrize("family", QWEN_VL)
def test_qwen_counts_a_literal_seg_in_the_prompt(family: str) -> None:
    model = nano_model(family=family)
    once = model.reply("<image>\nWhere is it?", [FRAMES[0]])
    twice = model.reply("<image>\nWhere is [SEG] now?", [FRAMES[0]])
    assert len(twice.embeddings) == len(once.embeddings) + 1


def test_qwen_takes_the_chat_template_of_the_tokenizer(tmp_path: Path) -> None:
    model = nano_model(family="qwen2_5_vl")
    model.mllm.tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>system\nBe {short}.<|im_end|>\n"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant{{ '\n' }}"
    )
    save_model(model, tmp_path)
    mllm = load_model(tmp_path).mllm
    assert mllm.template.system == "<|im_start|>system\nBe {short}.<|im_end|>\n"
    said = mllm.tokenizer.decode(mllm.prompt_ids("a {cup}"))
    assert said == (
        "<|im_start|>system\nBe {short}.<|im_end|>\n"
        "<|im_start|>user\na {cup}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_qwen_has_no_region_prompts() -> None:
    model = nano_model(family="qwen3_vl")
    with pytest.raises(InputError, match="no region prompts"):
        model.reply(TEXT, [FRAMES[0]], regions=[np.ones((48, 64), bool)])


def test_a_stop_word_of_several_tokens_ends_an_answer() -> None:
    """phi3_chat with a Qwen vocabulary, as in Sa2VA-4B: `<|end|>` is no token of its own."""
    model = nano_model(answers=False)
    object.__setattr__(model.config.mllm, "template", "phi3_chat")
    model = Sa2VA(model.config, model.mllm.tokenizer).eval()
    mllm = model.mllm
    end = mllm.tokenizer.encode("<|end|>", add_special_tokens=False)
    assert len(end) > 1
    said = [*mllm.tokenizer.encode("no\n"), *end, 5, 5, 5]
    reply = model.reply("Hello", choose=lambda step, _: said[step], max_new_tokens=len(said))
    assert reply.raw == "no\n<|end|>"
    assert reply.text == "no"
    start = mllm.tokenizer.decode(mllm.prompt_ids("Hi"))
    assert start == prompts.TEMPLATES["phi3_chat"].instruction.format(input="Hi")
    assert all(answer[-len(end) :] == tuple(end) for answer in mllm.answers)


@pytest.mark.parametrize("family", QWEN_VL)
def test_which_states_point(family: str) -> None:
    """Those of Qwen3-VL are not normalised, as its official code takes them; all others are."""
    model = talkative(family)
    generated = model.reply(TEXT, FRAMES, clip=True, max_new_tokens=LIMIT).generated
    last = generated.states[-len(generated.ids) :]
    language = model.mllm.language_model
    norm = language.model.language_model.norm if family == "qwen3_vl" else torch.nn.Identity()
    with torch.inference_mode():
        assert torch.allclose(language.lm_head(norm(last)), generated.logits, atol=TOLERANCE)
        assert not torch.allclose(norm(last), last, atol=0.1) or family == "qwen2_5_vl"


def _published_eyes(family: str) -> QwenVL:
    """A nano model that sees in patches as large as the published one's, with the published budget."""
    tokenizer = byte_tokenizer(extra=family_of_nano(family).tokens)
    config = nano_config(
        len(tokenizer),
        family,
        vision_config={"patch_size": 16 if family == "qwen3_vl" else 14},
        min_pixels=None,
        max_pixels=None,
    )
    mllm = Sa2VA(config, tokenizer).mllm
    assert isinstance(mllm, QwenVL)
    return mllm


def test_qwen_resizes_twice_as_recorded() -> None:
    """100 x 60 pixels, no multiple of 28: patches of the official code, to the last bit."""
    gold = load_file(ODD_SIZE)
    pixels, grids = _published_eyes("qwen3_vl").pixels([gold["in.frame.0"].numpy()])
    assert grids.equal(gold["image_grid_thw"])
    assert pixels[::320].equal(gold["pixel_values.stride320"])
    assert pixels.double().sum().item() == pytest.approx(gold["pixel_values.sum"].item(), abs=1e-3)


@pytest.mark.parametrize(
    ("family", "width", "height", "tokens"),
    [
        ("qwen3_vl", 640, 480, 432),
        ("qwen3_vl", 1280, 720, 920),
        ("qwen2_5_vl", 1920, 1080, 2040),
    ],
)
def test_qwen_has_as_many_tokens_as_published(
    family: str, width: int, height: int, tokens: int
) -> None:
    _, grids = _published_eyes(family).pixels([np.zeros((height, width, 3), np.uint8)])
    assert int(grids.prod()) // 4 == tokens
