# SPDX-License-Identifier: Apache-2.0
"""The words: how people ask for an object, what the model answers, and the tokenizer that reads both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from transformers import PreTrainedTokenizerBase

from sa2va_model.checkpoints.presets import byte_tokenizer
from sa2va_model.mllm.vocabulary import Vocabulary
from sa2va_sim.catalogue.colours import NAMES
from sa2va_sim.catalogue.nouns import all_names
from sa2va_sim.words.expressions import function_words
from sa2va_sim.words.vocabulary import COLOURS, SHAPES, words

FOUND = "Sure, [SEG].<|im_end|>"
ABSENT = "I cannot see that.<|im_end|>"
VOCABULARY = 4000

SYNONYMS = {"mug": "cup", "block": "cube", "ball": "sphere", "can": "tin", "plate": "dish"}
_QUESTIONS = (
    "Where is {}?",
    "Which one is {}?",
    "Can you see {}?",
    "Is there {}?",
    "Can you segment {}?",
)
_ORDERS = (
    "Find {}",
    "Track {}",
    "Show me {}",
    "{} please",
    "Segment {}.",
    "Look for {}",
    "Follow {}",
)
_CHAT = (
    "Please segment respond with a segmentation mask. Sure, I cannot see that. Where is Which one Can you "
    "Is there Find Track Show me please Look for Follow What are these this in the image picture scene How "
    "many objects describe briefly and it its on under next table user assistant yes no not it colour color "
    "of what who why when does do has have at by from to near above below between behind front side "
    "wearing holding hand person man woman in shirt cup cube sphere tin dish There part regions region1 region2"
)


_EVERYTHING = (
    "What is on the table?",
    "What is there?",
    "What is there on the table?",
    "What do you see?",
    "What can you see on the table?",
    "What can you see here?",
    "What is in the picture?",
    "What is in front of you?",
    "What is this?",
    "What objects are there?",
    "What objects are on the table?",
    "What things are on the table?",
    "Which objects are on the table?",
    "What are these objects?",
    "Describe the scene.",
    "Describe the picture.",
    "Describe what you see.",
    "Tell me what you see.",
)
# Other ways to ask for what is taught in one wording; the model has never seen them.
SAME_QUESTIONS = tuple((asked, "What is in this image?") for asked in _EVERYTHING)


def phrase(text: str, rng: np.random.Generator) -> str:
    """One of the ways in which people type a referring expression that `describe` wrote.

    Most stay as they are, so that the plain form is the best known one.
    """
    bare = text.removeprefix("the ")
    if rng.random() < 0.06:
        for word, other in SYNONYMS.items():
            bare = " ".join(other if w == word else w for w in bare.split(" "))
        text = f"the {bare}"
    form = rng.random()
    if form < 0.66:
        return text
    if form < 0.74:
        return text[0].upper() + text[1:]
    if form < 0.81:
        return f"{'an' if bare[0] in 'aeiou' else 'a'} {bare}"
    if form < 0.88:
        return bare
    templates = _QUESTIONS if form < 0.95 else _ORDERS
    said = str(rng.choice(templates)).format(f"the {bare}")
    return said[0].upper() + said[1:]


def corpus() -> Iterator[str]:
    """Every known word often enough, in every form, that it becomes one token."""
    forms = {word.strip(",.?") for word in _CHAT.split()} | set(words())
    forms |= {word.strip(",.?{}") for text in (*_QUESTIONS, *_ORDERS) for word in text.split()} - {
        ""
    }
    forms |= {word for name in (*all_names(), *NAMES, "gray") for word in name.split()}
    first = (*COLOURS, *SHAPES, *SYNONYMS.values())
    for word in sorted(forms | set(first)):
        times = 60 if word in first else 30
        yield from [f" {word}"] * times
        yield from [word] * times
        yield from [word[0].upper() + word[1:]] * (times // 2)
    yield from [FOUND.replace("[SEG]", "").replace("<|im_end|>", ""), "user\n", "assistant\n"] * 40


def vocabulary(nouns: Iterable[str] = ()) -> Vocabulary:
    """What is written beside the weights: the words that were taught.

    A word that was only ever asked for in vain is none of them.

    Args:
        nouns: names of ordinary objects that were trained on.
    """
    things = {*SHAPES, *SYNONYMS.values(), *nouns}
    colours = {*(NAMES if nouns else COLOURS), *(("gray",) if nouns else ())}
    asked = {word.strip(",.?") for text in (*_QUESTIONS, *_ORDERS) for word in text.split()}
    others = {word.lower() for word in {*asked, *function_words(), "objects", "things"}}
    return Vocabulary(
        frozenset(things),
        frozenset(colours),
        frozenset(word for word in others - things - colours if word.isalpha()),
        SAME_QUESTIONS,
    )


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the model that ships; a function of the vocabulary alone."""
    return byte_tokenizer(corpus(), VOCABULARY)
