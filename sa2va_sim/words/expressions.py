# SPDX-License-Identifier: Apache-2.0
"""Sentences from facts: each names exactly one object of the picture, or, on purpose, none.

A sentence is only written if its referent wins by a margin, so that neither a person nor a model has to guess:
everything with a visible pixel competes, but only what is seen well enough can be meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sa2va_sim.words.facts import ObjectFact, is_referable, seen
from sa2va_sim.words.vocabulary import ABSENT_WORDS, COLOURS, SHAPES

KINDS = ("attribute", "size", "position", "relation", "motion", "none")
SHARES = {
    "attribute": 8,
    "size": 3,
    "position": 4,
    "relation": 4,
    "motion": 2,
    "none": 4,
}  # of the first 25

MIN_VISIBLE = 0.35  # a referent shows at least this fraction of itself …
MIN_AREA = 0.0025  # … and this fraction of the image (92 pixels of 192 x 192)
POSITION_MARGIN = 0.07  # of the image, between the winner's centre and the next
RELATION_MARGIN = 0.07  # beyond the anchor
RELATION_DOUBT = 0.03  # whoever lies between -0.03 and the margin makes the sentence doubtful
SIZE_RATIO = 1.25  # of the objects themselves …
EXTENT_RATIO = 1.15  # … and, the same way round, of their images
DEPTH_RATIO = 1.08
MIN_DEPTH = 1e-3  # metres; nothing a camera sees is nearer

ANY_NOUN = ("object", "thing", "one")
_POSITIONS: dict[str, tuple[str, ...]] = {
    "left": ("leftmost {noun}", "{noun} on the far left"),
    "right": ("rightmost {noun}", "{noun} on the far right"),
    "top": ("topmost {noun}", "{noun} at the top"),
    "bottom": ("lowest {noun}", "{noun} at the bottom"),
    "near": ("nearest {noun}", "{noun} closest to the camera"),
    "far": ("farthest {noun}", "{noun} farthest from the camera"),
}
_RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("{noun} left of the {anchor}", "{noun} to the left of the {anchor}"),
    "right": ("{noun} right of the {anchor}", "{noun} to the right of the {anchor}"),
    "near": ("{noun} in front of the {anchor}",),
    "far": ("{noun} behind the {anchor}",),
}
_SIZES = {
    "large": ("largest {noun}", "biggest {noun}"),
    "small": ("smallest {noun}",),
    "larger": ("bigger {noun}", "larger {noun}"),
    "smaller": ("smaller {noun}",),
}
_MOTIONS = ("{noun} that moves", "moving {noun}", "{noun} that is moving")


@dataclass(frozen=True)
class Expression:
    """A sentence and what it means.

    Attributes:
        kind: one of `KINDS`.
        target: index of the object meant; None if nothing in the picture is meant.
        colour, shape: the target's true names, whether the sentence says them or not; None without a target.
        others: further objects that it means as well (`plurals.py`).
    """

    text: str
    kind: str
    target: int | None
    colour: str | None = None
    shape: str | None = None
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class NounPhrase:
    """A description by attributes; None = not said."""

    colour: str | None
    shape: str | None

    def matches(self, fact: ObjectFact) -> bool:
        """Whether it is one of those."""
        return self.colour in (None, fact.colour) and self.shape in (None, *fact.called)

    def might(self, fact: ObjectFact) -> bool:
        """Whether somebody could say so."""
        colour = self.colour in (None, fact.colour, *fact.doubtful)
        return colour and self.shape in (None, *fact.called, *fact.doubtful)

    def members(self, present: Sequence[ObjectFact]) -> list[ObjectFact]:
        """Those that it means; empty if that is in doubt."""
        meant = [fact for fact in present if self.might(fact)]
        return meant if all(self.matches(fact) for fact in meant) else []

    def say(self, rng: np.random.Generator) -> str:
        """Words for it; what has no shape is an "object", "thing" or "one"."""
        head = self.shape or ANY_NOUN[int(rng.integers(len(ANY_NOUN)))]
        return f"{self.colour} {head}" if self.colour else head


def describe(
    facts: Sequence[ObjectFact],
    rng: np.random.Generator,
    limit: int = 20,
    *,
    motion: bool = True,
    min_visible: float = MIN_VISIBLE,
    min_area: float = MIN_AREA,
    shapes: Sequence[str] = SHAPES,
) -> list[Expression]:
    """Sentences about a picture, in random order, at most `limit`, a mix of all kinds the picture allows.

    Args:
        motion: also write sentences about moving objects, if the facts say that one moves. Switch it off where the
            reader sees a single still image.
        min_visible, min_area: what an object must show of itself to be meant (see `facts.ObjectFact`).
        shapes: names that near misses are made of; a domain with shapes of its own gives them.
    """
    present = seen(facts)
    good = {fact.index for fact in present if is_referable(fact, min_visible, min_area)}

    def absent(present: Sequence[ObjectFact], rng: np.random.Generator) -> Iterator[Expression]:
        return _absent(present, rng, shapes)

    writers = [_attributes, _sizes, _positions, _relations, absent] + ([_motions] if motion else [])
    by_kind: dict[str, list[Expression]] = {kind: [] for kind in KINDS}
    texts: set[str] = set()
    for writer in writers:
        for expression in writer(present, rng):
            if expression.text not in texts and (
                expression.target is None or expression.target in good
            ):
                texts.add(expression.text)
                by_kind[expression.kind].append(expression)
    chosen: list[Expression] = []
    for kind, found in by_kind.items():
        share = max(1, round(SHARES[kind] * limit / sum(SHARES.values())))
        chosen += [found[i] for i in rng.permutation(len(found))[:share]]
    return [chosen[i] for i in rng.permutation(len(chosen))[:limit]]


def function_words() -> set[str]:
    """The words of the templates, without colours, shapes and absent things."""
    templates = [
        t
        for group in (_POSITIONS, _RELATIONS, _SIZES)
        for options in group.values()
        for t in options
    ]
    text = " ".join([*templates, *_MOTIONS, *ANY_NOUN, "the"])
    return {word for word in text.split() if not word.startswith("{")}


def _meaning(text: str, kind: str, fact: ObjectFact, rng: np.random.Generator) -> Expression:
    return Expression(_with_article(text, rng), kind, fact.index, fact.colour, fact.shape)


def _with_article(text: str, rng: np.random.Generator) -> str:
    return text if rng.random() < 0.12 else f"the {text}"  # people also type "red mug"


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def noun_phrases(present: Sequence[ObjectFact]) -> list[NounPhrase]:
    """All descriptions that at least one object fits, the empty one last."""
    said: set[tuple[str | None, str | None]] = set()
    for f in present:
        for name in f.called:
            said |= {(f.colour or None, name), (None, name)}
        if f.colour:
            said.add((f.colour, None))
    ordered = sorted(said, key=lambda pair: (pair[0] or "", pair[1] or ""))
    return [NounPhrase(*pair) for pair in ordered] + [NounPhrase(None, None)]


def _groups(present: Sequence[ObjectFact]) -> Iterator[tuple[NounPhrase, list[ObjectFact]]]:
    """Descriptions that fit several objects, with those objects: the ones that need more words."""
    for noun in noun_phrases(present):
        members = noun.members(present)
        if len(members) >= 2:
            yield noun, members


def _attributes(present: Sequence[ObjectFact], rng: np.random.Generator) -> Iterator[Expression]:
    for noun in noun_phrases(present)[:-1]:
        members = noun.members(present)
        if len(members) == 1:
            yield _meaning(noun.say(rng), "attribute", members[0], rng)


def _winner(
    members: Sequence[ObjectFact], value: Callable[[ObjectFact], float], margin: float
) -> ObjectFact | None:
    """The member with the smallest value, if the next is more than `margin` away."""
    ordered = sorted(members, key=value)
    return ordered[0] if value(ordered[1]) - value(ordered[0]) > margin else None


def _sizes(present: Sequence[ObjectFact], rng: np.random.Generator) -> Iterator[Expression]:
    for noun, members in _groups(present):
        for word, sign in (("large", -1.0), ("small", 1.0)):
            by_size = _winner(members, _scaled(sign, "size"), float(np.log(SIZE_RATIO)))
            by_view = _winner(members, _scaled(sign, "extent"), float(np.log(EXTENT_RATIO)))
            if by_size is None or by_size is not by_view or min(f.visible for f in members) < 0.6:
                continue  # a half-hidden object's size cannot be seen
            options = list(_SIZES[word])
            if len(members) == 2:
                options += _SIZES[word + ("r" if word == "large" else "er")]
            yield _meaning(_pick(options, rng).format(noun=noun.say(rng)), "size", by_size, rng)


def _log_depth(fact: ObjectFact) -> float:
    """Distances compare as ratios. 2D scenes only have an order, which may pass zero."""
    return float(np.log(max(1.0 if fact.depth is None else fact.depth, MIN_DEPTH)))


def _scaled(sign: float, attribute: str) -> Callable[[ObjectFact], float]:
    """The signed logarithm of a size, so that a ratio becomes a margin."""
    return lambda fact: sign * float(np.log(getattr(fact, attribute)))


def _axes(members: Sequence[ObjectFact]) -> dict[str, tuple[Callable[[ObjectFact], float], float]]:
    """Per direction a value that is smaller the further an object lies that way, and the margin that counts."""
    axes: dict[str, tuple[Callable[[ObjectFact], float], float]] = {
        "left": (lambda f: f.centre[0], POSITION_MARGIN),
        "right": (lambda f: -f.centre[0], POSITION_MARGIN),
        "top": (lambda f: f.centre[1], POSITION_MARGIN),
        "bottom": (lambda f: -f.centre[1], POSITION_MARGIN),
    }
    if all(f.depth is not None for f in members):
        margin = float(np.log(DEPTH_RATIO))
        axes["near"] = (_log_depth, margin)
        axes["far"] = (lambda f: -_log_depth(f), margin)
    return axes


def _positions(present: Sequence[ObjectFact], rng: np.random.Generator) -> Iterator[Expression]:
    for noun, members in _groups(present):
        for word, (value, margin) in _axes(members).items():
            fact = _winner(members, value, margin)
            if fact is not None:
                yield _meaning(
                    _pick(_POSITIONS[word], rng).format(noun=noun.say(rng)), "position", fact, rng
                )


def _relations(present: Sequence[ObjectFact], rng: np.random.Generator) -> Iterator[Expression]:
    anchors = [
        (fact, noun)
        for noun in noun_phrases(present)
        if noun.shape is not None
        for fact in noun.members(present)[:1]
        if len(noun.members(present)) == 1 and fact.visible > MIN_VISIBLE
    ]
    axes = _axes(present)
    for noun in noun_phrases(present):
        for anchor, anchor_noun in anchors:
            rivals = [fact for fact in noun.members(present) if fact is not anchor]
            if not rivals or (len(rivals) == 1 and rng.random() < 0.7):
                continue  # with one rival the relation adds nothing: say it only sometimes
            for word, templates in _RELATIONS.items():
                fact = _related(rivals, anchor, axes.get(word))
                if fact is not None:
                    text = _pick(templates, rng).format(
                        noun=noun.say(rng), anchor=anchor_noun.say(rng)
                    )
                    yield _meaning(text, "relation", fact, rng)


def _related(
    rivals: Sequence[ObjectFact],
    anchor: ObjectFact,
    axis: tuple[Callable[[ObjectFact], float], float] | None,
) -> ObjectFact | None:
    """The only rival clearly beyond the anchor along `axis`; None if there is none, several or a doubtful one."""
    if axis is None:
        return None
    value, margin = axis
    doubt = -margin * RELATION_DOUBT / RELATION_MARGIN
    beyond = {fact.index: value(anchor) - value(fact) for fact in rivals}
    if any(doubt < gap <= margin for gap in beyond.values()):
        return None
    yes = [fact for fact in rivals if beyond[fact.index] > margin]
    return yes[0] if len(yes) == 1 else None


def _motions(present: Sequence[ObjectFact], rng: np.random.Generator) -> Iterator[Expression]:
    for noun in noun_phrases(present):
        movers = [fact for fact in noun.members(present) if fact.moving]
        if len(movers) == 1:
            yield _meaning(
                _pick(_MOTIONS, rng).format(noun=noun.say(rng)), "motion", movers[0], rng
            )


def _absent(
    present: Sequence[ObjectFact], rng: np.random.Generator, shapes: Sequence[str]
) -> Iterator[Expression]:
    """Near misses (one attribute right, the other wrong), colours and shapes that are not there, foreign things."""
    for _ in range(10):
        near = present[int(rng.integers(len(present)))] if present else None
        colour = str(rng.choice(list(COLOURS)))
        shape = str(rng.choice(list(shapes)))
        options = [NounPhrase(colour, shape), NounPhrase(colour, None), NounPhrase(None, shape)]
        if near is not None:
            options += [NounPhrase(near.colour or None, shape), NounPhrase(colour, near.shape)] * 2
        noun = options[int(rng.integers(len(options)))]
        if any(noun.might(fact) for fact in present):
            continue
        text = noun.say(rng)
        if rng.random() < 0.2:
            extra = _pick(
                [t for group in (_POSITIONS, _SIZES) for ts in group.values() for t in ts], rng
            )
            text = extra.format(noun=text)
        yield Expression(_with_article(text, rng), "none", None)
    foreign = _pick(ABSENT_WORDS, rng)
    if any(NounPhrase(None, foreign).might(fact) for fact in present):
        return
    coloured = f"{rng.choice(list(COLOURS))} {foreign}" if rng.random() < 0.5 else foreign
    yield Expression(_with_article(coloured, rng), "none", None)
