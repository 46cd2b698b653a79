# SPDX-License-Identifier: Apache-2.0
"""What the language model reads and writes: chat templates, image blocks, regions, `[SEG]` and `<p>` in answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sa2va_model.errors import InputError

SEG = "[SEG]"
PHRASE_START, PHRASE_END = "<p>", "</p>"
REGION_START, REGION_END = "<vp>", "</vp>"
IMAGE_START, IMAGE_END, IMAGE_TOKEN = "<img>", "</img>", "<IMG_CONTEXT>"
RUN = re.compile(r"\[SEG\](?:\s*\[SEG(?: \d+)?\])+")
"""One object's tokens where each keyframe has one; see `ModelConfig.seg`."""
SPECIAL_TOKENS = (SEG, PHRASE_START, PHRASE_END, REGION_START, REGION_END)
IMAGE_PLACEHOLDER = "<image>"
MAX_EXPRESSION = 500
ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
)
"""What official checkpoints were trained to answer to a referring question."""


@dataclass(frozen=True)
class Template:
    """One chat format.

    Attributes:
        instruction: the user's turn with `{input}`, and the beginning of the answer.
        stop_words: what ends an answer.
        system: what stands before the first turn.
    """

    instruction: str
    stop_words: tuple[str, ...]
    system: str = ""


_CHATML = "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n"
TEMPLATES = {
    "qwen_chat": Template(_CHATML, ("<|im_end|>", "<|endoftext|>")),
    "internlm2_chat": Template(_CHATML, ("<|im_end|>",)),
    "phi3_chat": Template("<|user|>\n{input}<|end|>\n<|assistant|>\n", ("<|end|>",)),
}


def template(name: str) -> Template:
    """The template of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in TEMPLATES:
        raise InputError(f"template is {name!r}; expected one of {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


def template_of_tokenizer(
    tokenizer: PreTrainedTokenizerBase, opening: str, stop_words: tuple[str, ...]
) -> Template:
    """The chat template that a tokenizer has.

    Args:
        opening: begins a turn; what stands before the last one is the system prompt.

    Raises:
        InputError: the template does not write what the user said.
    """
    mark = "\u241fthe user's words\u241f"
    written = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(written, str)
    head, found, tail = written.partition(mark)
    if not found:
        raise InputError("tokenizer: its chat template does not write the user's words")
    begin = max(head.rfind(opening), 0)
    escaped = (part.replace("{", "{{").replace("}", "}}") for part in (head[begin:], tail))
    return Template("{input}".join(escaped), stop_words, head[:begin])


def image_block(tokens: int) -> str:
    """The place in the text where `tokens` visual tokens stand."""
    return IMAGE_START + IMAGE_TOKEN * tokens + IMAGE_END


def region_text(cell_counts: Sequence[int]) -> str:
    """Names the regions of an image prompt; stands right after the image block."""
    regions = ", ".join(
        f"region{i + 1}{REGION_START}{IMAGE_TOKEN * count}{REGION_END}"
        for i, count in enumerate(cell_counts)
    )
    return f"\nThere are {len(cell_counts)} part regions in the picture: {regions}.\n"


def clean_expression(expression: str) -> str:
    """What a user typed, as data: one line, no control characters, no special tokens of the model.

    Raises:
        InputError: it is no text, nothing is left, or it is longer than `MAX_EXPRESSION` characters.
    """
    if not isinstance(expression, str):
        raise InputError(f"expression is {expression!r:.80}; expected one string of words")
    text = "".join(c if c.isprintable() else " " for c in expression)
    for token in (*SPECIAL_TOKENS, IMAGE_START, IMAGE_END, IMAGE_TOKEN, IMAGE_PLACEHOLDER):
        text = text.replace(token, " ")
    text = " ".join(re.sub(r"<\|[^|<>]*\|>", " ", text).split())
    if not any(c.isalnum() for c in text):
        raise InputError(f"expression is {expression!r}; expected words that name an object")
    if len(text) > MAX_EXPRESSION:
        raise InputError(
            f"expression has {len(text)} characters; expected at most {MAX_EXPRESSION}"
        )
    return text


# What people say behind an object, and no expression of the training data has.
_BEHIND = re.compile(r"(?:,?\s+please)?[\s.,;:!]*$", re.IGNORECASE)


def referring_question(expression: str) -> str:
    """The question that asks for the mask of `expression` (official evaluation prompts)."""
    text = unshouted(_BEHIND.sub("", expression))
    if "?" in text:
        return f"{text} Please respond with a segmentation mask."
    return f"Please segment {text}."


def unshouted(text: str) -> str:
    """Text in capitals or in Title Case, as speech recognisers send it, in small letters; other text as it is.

    Models are trained on written sentences, and tokens of capitals are other tokens: THE RED CAN is not found.
    """
    words = [word for word in re.findall(r"[^\W\d_]+", text) if word.lower() != word.upper()]
    loud = (
        bool(words)
        and all(word.isupper() for word in words)
        and any(len(word) > 1 for word in words)
    )
    titled = len(words) > 1 and all(word[:1].isupper() for word in words)
    return text.lower() if loud or titled else text


@dataclass(frozen=True)
class Phrase:
    """A phrase of a grounded caption and the number of its mask.

    Attributes:
        begin, end: character span in the plain text.
        mask: index of its `[SEG]` among those of the answer.
    """

    text: str
    begin: int
    end: int
    mask: int


_CONTROL = re.compile(
    rf"<\|[^|<>]*\|>|</?s>|<unk>|<pad>|{REGION_START}|{REGION_END}|{IMAGE_START}|{IMAGE_END}|{IMAGE_TOKEN}"
)
"""Tokens of the tokenizers that mean nothing to people, such as `<|endoftext|>`."""


_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|(?=<answer>)|$)", re.DOTALL)


def split_thought(text: str) -> tuple[str, str]:
    """What a model thought aloud, and what it answered (VRT: `<think>…</think><answer>…</answer>`).

    A thought that has not ended yet has no answer behind it. Text without a thought is all answer.
    """
    found = _THOUGHT.match(text)
    thought, rest = (found[1], text[found.end() :]) if found else ("", text)
    before, tag, answer = rest.partition("<answer>")
    if not tag:
        return thought, rest
    # What stands between both is no answer either.
    return thought + before, answer.partition("</answer>")[0]


def parse_answer(text: str, stop_words: Sequence[str] = ()) -> tuple[str, tuple[Phrase, ...]]:
    """Splits an answer into plain text and phrases.

    `<p> the mug </p> [SEG] stands …` gives `the mug stands …` and one phrase. A `[SEG]` without a phrase
    before it counts as a mask but yields no phrase. Other special tokens are left out, and so is a thought
    (`split_thought`).
    """
    for word in stop_words:
        text = text.split(word)[0]
    _, text = split_thought(text)
    plain, masks = "", 0
    phrases: list[Phrase] = []
    pending: tuple[int, int] | None = None
    start: int | None = None
    for piece in re.split(r"(<p>|</p>|\[SEG\])", text):
        if piece == PHRASE_START:
            start = len(plain)
        elif piece == PHRASE_END and start is not None:
            pending, start = _tight(plain, start), None
        elif piece == SEG:
            if pending is not None:
                phrases.append(Phrase(plain[slice(*pending)], *pending, masks))
            pending, masks = None, masks + 1
        else:
            plain = _join(plain, re.sub(r"\s+", " ", _CONTROL.sub(" ", piece)))
    return plain.rstrip(), tuple(phrases)


def seg_tokens(mode: str, count: int) -> tuple[str, ...]:
    """What one object's `[SEG]` is for so many keyframes, in `ModelConfig.seg`'s words."""
    if mode == "single":
        return (SEG,)
    if mode == "repetitive":
        return (SEG,) * count
    return (SEG, *(f"[SEG {number}]" for number in range(2, count + 1)))


def _join(plain: str, piece: str) -> str:
    """Closes the gap that a removed token leaves: `Sure, [SEG].` reads `Sure.`."""
    if piece.lstrip()[:1] in (".", ",", ";", "!", "?") and piece.strip():
        return plain.rstrip(" ,") + piece.lstrip()
    return plain + (piece.lstrip() if not plain or plain.endswith(" ") else piece)


def _tight(plain: str, begin: int) -> tuple[int, int]:
    """The span from `begin` to the end without the blanks around it."""
    words = plain[begin:]
    return begin + len(words) - len(words.lstrip()), len(plain.rstrip())
