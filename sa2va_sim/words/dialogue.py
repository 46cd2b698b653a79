# SPDX-License-Identifier: Apache-2.0
"""Questions and answers about a picture, written from its facts: colours, counts, which one, captions, regions.

Only what the picture shows beyond doubt is asked: an object that is half hidden or tiny is neither counted nor named,
and a question whose answer depends on it is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sa2va_sim.words.expressions import MIN_AREA, MIN_VISIBLE, Expression
from sa2va_sim.words.facts import ObjectFact, is_referable, seen

KINDS = ("colour", "shape", "count", "which", "caption", "grounded", "region")
DESCRIBE = "Please describe the image briefly."
DESCRIBE_GROUNDED = (
    "Could you please give me a brief description of the image? Please respond with interleaved "
    "segmentation masks for the corresponding parts of the answer."
)
DESCRIBE_REGION = (
    "Please give me a short description of the region in the picture marked by region1."
)
_CAPTIONS = (DESCRIBE, "What is in this image?", "Describe the image.", "What can you see?")
_GROUNDED = (
    DESCRIBE_GROUNDED,
    "What is in this image? Please respond with interleaved segmentation masks for the corresponding "
    "parts of the answer.",
)
_REGIONS = (DESCRIBE_REGION, "What is region1?")
_PLAIN_NOUNS = (" object", " thing", " one")


@dataclass(frozen=True)
class Dialogue:
    """A question and its answer.

    Attributes:
        kind: one of `KINDS`.
        objects: indices of the objects that the answer names, in its order; `grounded` answers have one
            `<p> … </p> [SEG]` for each. For `region` the one object whose region is asked about.
    """

    question: str
    answer: str
    kind: str
    objects: tuple[int, ...] = ()


def converse(
    facts: Sequence[ObjectFact],
    rng: np.random.Generator,
    expressions: Sequence[Expression] = (),
    *,
    vary: bool = True,
) -> list[Dialogue]:
    """All dialogues that the picture allows, in random order.

    Args:
        expressions: what `describe` wrote about it; those that do not tell colour and shape become "which" questions.
        vary: several wordings of one request; otherwise the first, which is the published one.
    """
    present = seen(facts)
    clear = [f for f in present if is_referable(f, MIN_VISIBLE, MIN_AREA)]
    doubtful = [f for f in present if f not in clear]
    found = [
        *_names(present, clear),
        *_counts(clear, doubtful),
        *_which(clear, expressions),
        *_captions(clear, rng if vary else None),
        *_regions(clear, rng if vary else None),
    ]
    return [found[int(i)] for i in rng.permutation(len(found))]


def _names(present: Sequence[ObjectFact], clear: Sequence[ObjectFact]) -> Iterator[Dialogue]:
    """The colour of the only mug, the shape of the only red thing."""
    for fact in clear:
        if fact.colour and sum(f.shape == fact.shape for f in present) == 1:
            yield Dialogue(
                f"What colour is the {fact.shape}?", fact.colour, "colour", (fact.index,)
            )
        if fact.colour and sum(f.colour == fact.colour for f in present) == 1:
            yield Dialogue(
                f"What is the {fact.colour} object?", _called(fact.shape), "shape", (fact.index,)
            )


def _counts(clear: Sequence[ObjectFact], doubtful: Sequence[ObjectFact]) -> Iterator[Dialogue]:
    """How many there are, of everything, of a shape and of a colour."""
    tests: list[tuple[str, Callable[[ObjectFact], bool]]] = [("objects", lambda _: True)]
    for shape in sorted({f.shape for f in clear}):
        plural = f"{shape}es" if shape.endswith("x") else f"{shape}s"
        tests.append((plural, lambda f, shape=shape: f.shape == shape))  # type: ignore[misc]
    for colour in sorted({f.colour for f in clear} - {""}):
        tests.append((f"{colour} objects", lambda f, colour=colour: f.colour == colour))  # type: ignore[misc]
    for words, matches in tests:
        if not any(matches(f) for f in doubtful):
            named = tuple(f.index for f in clear if matches(f))
            yield Dialogue(f"How many {words} are there?", str(len(named)), "count", named)


def _which(clear: Sequence[ObjectFact], expressions: Sequence[Expression]) -> Iterator[Dialogue]:
    by_index = {f.index: f for f in clear}
    for expression in expressions:
        head = expression.text.split(" of the ")[0].split(" behind the ")[0]
        plain = any(noun in f" {head}" for noun in _PLAIN_NOUNS)
        target = None if expression.target is None else by_index.get(expression.target)
        if target is not None and plain and expression.kind in ("position", "relation", "size"):
            if target.colour and target.colour in head:
                continue
            yield Dialogue(f"What is {expression.text}?", _full(target), "which", (target.index,))


def _full(fact: ObjectFact) -> str:
    return _called(f"{fact.colour} {fact.shape}".strip())


def _called(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _in_order(clear: Sequence[ObjectFact]) -> list[ObjectFact]:
    return sorted(clear, key=lambda f: f.centre[0])


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _captions(clear: Sequence[ObjectFact], rng: np.random.Generator | None) -> Iterator[Dialogue]:
    """Everything from left to right, plainly and with masks."""
    if not clear:
        return
    row = _in_order(clear)
    order = tuple(f.index for f in row)
    names = [_full(f) for f in row]
    yield Dialogue(_pick(_CAPTIONS, rng), f"A{_listed(names)[1:]}.", "caption", order)
    parts = [f"<p> {_full(f)} </p> [SEG]" for f in row]
    yield Dialogue(_pick(_GROUNDED, rng), f"{_listed(parts)}.", "grounded", order)


def _regions(clear: Sequence[ObjectFact], rng: np.random.Generator | None) -> Iterator[Dialogue]:
    for fact in clear:
        yield Dialogue(_pick(_REGIONS, rng), _full(fact), "region", (fact.index,))


def _pick(options: Sequence[str], rng: np.random.Generator | None) -> str:
    return options[0] if rng is None else str(options[int(rng.integers(len(options)))])
