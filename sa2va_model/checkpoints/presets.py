# SPDX-License-Identifier: Apache-2.0
"""Small configurations of the real classes, and the tokenizer that they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sa2va_model.checkpoints.config_json import config_from_json
from sa2va_model.config.model import ModelConfig, Sam2Config
from sa2va_model.config.segmenter import EdgeTamConfig, Sam3Config, SegmenterConfig
from sa2va_model.mllm import chat as prompts
from sa2va_model.mllm.registry import nano_fields

CHAT_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|im_start|>")
ALL_TOKENS = (
    *CHAT_TOKENS,
    prompts.IMAGE_START,
    prompts.IMAGE_END,
    prompts.IMAGE_TOKEN,
    *prompts.SPECIAL_TOKENS,
)


def byte_tokenizer(
    corpus: Iterable[str] = (),
    vocabulary: int = 0,
    extra: Sequence[str] = (),
    special: Sequence[str] = ALL_TOKENS,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be written, frequent words of `corpus` are one token.

    Args:
        vocabulary: size without special tokens; 0 or less than 257 = bytes only.
        extra: further special tokens, with the highest ids.
        special: the special tokens before them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocabulary, 256),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": [*special, *extra]})
    return fast


def _qwen2(
    hidden: int, mlp: int, layers: int, heads: int, vocabulary: int, *, tied: bool = True
) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "initializer_range": 0.06,
        "tie_word_embeddings": tied,
    }


_TINY_SAM2 = Sam2Config(
    image_size=256,
    embed_dim=32,
    num_heads=1,
    stages=(1, 2, 3, 1),
    global_blocks=(4,),
    window_spec=(8, 4, 8, 4),
    background_size=(8, 8),
    top_down_levels=(0, 1, 2, 3),
    hidden_dim=128,
    memory_dim=32,
    memory_frames=4,
    max_pointers=8,
    memory_layers=2,
    memory_mlp_dim=512,
    decoder_mlp_dim=512,
    object_score_gate=True,
    multimask=False,
    stability_fallback=False,
    pointer_positions=True,
    rounded_normalisation=False,
    stem_blocks=2,
    guided_radius=3,
)
NANO_SEGMENTERS: dict[str, SegmenterConfig] = {
    "sam2": Sam2Config(
        image_size=64,
        embed_dim=8,
        num_heads=1,
        stages=(1, 1, 2, 1),
        global_blocks=(3,),
        window_spec=(8, 4, 8, 4),
        background_size=(4, 4),
        hidden_dim=32,
        memory_dim=8,
        memory_layers=2,
        memory_mlp_dim=32,
        decoder_mlp_dim=32,
        rounded_normalisation=False,
    ),
    "edgetam": EdgeTamConfig(
        image_size=64,
        widths=(8, 16, 24, 32),
        depths=(1, 1, 2, 1),
        hidden_dim=32,
        memory_dim=8,
        memory_mlp_dim=32,
        decoder_mlp_dim=32,
        global_latents=6,
        window_latents=4,
        trained_size=128,
    ),
    "sam3": Sam3Config(
        image_size=112,
        embed_dim=16,
        depth=3,
        num_heads=2,
        mlp_dim=24,
        window=4,
        global_blocks=(0, 2),
        position_side=4,
        hidden_dim=32,
        memory_dim=8,
        memory_layers=2,
        memory_mlp_dim=32,
        decoder_mlp_dim=32,
    ),
}
"""Every part of every kind of segmenter, as small as it can be."""


def tiny_config(vocabulary: int) -> ModelConfig:
    """The model that ships: 256-pixel images, one visual token for 16 x 16 pixels, one keyframe."""
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 256,
        "patch_size": 16,
        "initializer_factor": 1.0,
        "stem": [32, 64, 96],
        "stem_blocks": [0, 1, 3, 3],
        "eye": "efficientnet_lite0",
    }
    fields = {
        "vision_config": vision,
        "llm_config": _qwen2(hidden=192, mlp=512, layers=4, heads=3, vocabulary=vocabulary),
        "downsample_ratio": 1.0,
        "dynamic_image_size": False,
        "max_tiles": 1,
        "keyframes": 1,
        "max_new_tokens": 96,
        "extra_answers": ["I cannot see that."],
    }
    return replace(config_from_json(fields), sam2=_TINY_SAM2)


def nano_config(vocabulary: int, family: str | None = None, **changes: Any) -> ModelConfig:
    """For tests: every part is there, everything is as small as it can be; weights are random.

    Args:
        family: one of `registry.nano_names`; None = the smallest.
        changes: fields of `config.json` that are otherwise, also within its objects.

    Raises:
        InputError: there is no such family; the message lists those there are.
    """
    if family is None:
        fields = nano_fields("qwen2", vocabulary)
        fields["llm_config"] = _qwen2(
            hidden=32, mlp=64, layers=2, heads=2, vocabulary=vocabulary, tied=False
        )
    else:
        fields = nano_fields(family, vocabulary)
    fields |= {"keyframes": 1, "max_new_tokens": 12} | {
        name: {**fields.get(name, {}), **value} if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }
    return replace(config_from_json(fields), sam2=NANO_SEGMENTERS["sam2"])
