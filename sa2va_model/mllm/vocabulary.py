# SPDX-License-Identifier: Apache-2.0
"""The words that a small model was taught, and what to do with a sentence that has others.

A checkpoint with `vocabulary.json` knows these words and no more; one without it is taken to know every word. An
unknown word is never guessed: what is known of the sentence is asked for, and if nothing of the thing itself is known,
nothing is. A noun of several words is known as a whole ("lava lamp" makes no lamp known) and means nothing else ("desk
lamp" is no desk). Case does not matter to such a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sa2va_model.errors import InputError
from sa2va_model.io.json_files import read_json

FILE = "vocabulary.json"
_PLACEHOLDER = "object"
_PLACEHOLDERS = frozenset(
    (_PLACEHOLDER, "thing", "item")
)  # they name nothing, but stand where a noun stands
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", re.UNICODE)
# What stands behind one of these describes another thing than the one that is meant.
_TURNS = frozenset((
    "left", "right", "behind", "front", "near", "next", "nearest", "beside", "under", "above", "below", "on",
    "in", "of", "that", "which", "with", "by", "to", "from", "at", "between", "closest", "farthest",
))  # fmt: skip
_SIDES = frozenset(("left", "right"))  # may stand before a noun as well
_SMALL = frozenset((
    "the", "a", "an", "this", "that", "these", "those", "my", "your", "his", "her", "its", "our", "their",
    "one", "ones", "is", "are", "was", "it", "i", "you", "we", "they", "he", "she", "and", "or", "not", "no",
    "with", "on", "in", "at", "of", "to", "from", "for", "by", "near", "next", "beside", "behind", "under",
    "over", "above", "below", "between", "into", "onto", "up", "down", "out", "there", "here", "which", "who",
    "what", "where", "when", "how", "can", "could", "would", "will", "do", "does", "please", "me", "please",
    "see", "some", "any", "all", "really", "very", "just", "two", "three", "both", "now", "then", "again",
    "also", "too", "lying", "standing", "sitting", "lies", "stands", "sits",
))  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """A sentence as a model with a vocabulary can read it.

    Attributes:
        text: what is asked for; "" = nothing of it is known.
        unknown: the words that are not, in their order.
    """

    text: str
    unknown: tuple[str, ...]

    @property
    def note(self) -> str:
        """What people are told; "" if every word is known."""
        if not self.unknown:
            return ""
        quoted = " and ".join(repr(word) for word in self.unknown)
        said = f"I do not know the word{'s' if len(self.unknown) > 1 else ''} {quoted}"
        return f"{said}; I looked for '{self.text}'." if self.text else f"{said}."


@dataclass(frozen=True)
class Vocabulary:
    """Words in lower case.

    Attributes:
        things: nouns, of one or more words.
        colours: adjectives that may stand for the noun ("the red one").
        others: what else was taught: sizes, places, questions.
        questions: ways to ask for what was taught with other words, and those words; see `read_question`.
        landmarks: nouns that say well enough where something is ("left of the kettle"), but are not found themselves.
        plurals: "every red mug" is answered with one mask of all red mugs.
    """

    things: frozenset[str]
    colours: frozenset[str]
    others: frozenset[str]
    questions: tuple[tuple[str, str], ...] = ()
    landmarks: frozenset[str] = frozenset()
    plurals: bool = False

    @classmethod
    def read(cls, folder: Path) -> Vocabulary | None:
        """That of a checkpoint; None if it has none.

        Raises:
            InputError: the file is no JSON object of three lists of words.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        values = read_json(file, dict)
        try:
            things, colours, others = (
                _lower(values[name]) for name in ("things", "colours", "others")
            )
            questions = values.get("questions", {}).items()
            same = tuple((str(asked), str(taught)) for asked, taught in questions)
            landmarks, plurals = _lower(values.get("landmarks", ())), values.get("plurals", False)
            return cls(things, colours, others, same, landmarks, bool(plurals))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: expected an object with lists of words things, colours and others, and an object of "
                f"questions ({error!r})"
            ) from error

    def write(self, folder: Path) -> Path:
        """Puts it beside the weights."""
        names = ("things", "colours", "others")
        values: dict[str, object] = {name: sorted(getattr(self, name)) for name in names}
        if self.questions:
            values["questions"] = dict(self.questions)
        if self.landmarks:
            values["landmarks"] = sorted(self.landmarks)
        if self.plurals:
            values["plurals"] = True
        file = folder / FILE
        file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return file

    def knows(self, word: str) -> bool:
        """Whether a word was taught by itself, also in the plural; one that only is part of a longer noun was not."""
        return any(one in self._every or one in _SMALL for one in singulars(word.lower()))

    @cached_property
    def _every(self) -> frozenset[str]:
        return self.colours | self.others | self.things

    def read_sentence(self, expression: str) -> Reading:
        """What of a sentence this model can understand."""
        words = _words(expression)
        nouns, turn = self._nouns(words), self._turn(words)
        known = [
            self._known(word, noun) or (n >= turn and noun in self.landmarks)
            for n, (word, noun) in enumerate(zip(words, nouns, strict=True))
        ]
        unknown = tuple(word for word, so in zip(words, known, strict=True) if not so)
        if not unknown:
            return Reading(_plain_case(expression), ())
        head = [n for n in range(turn) if known[n]]
        if not any(nouns[n] in self.things or words[n] in self.colours for n in head):
            return Reading("", unknown)
        kept = [words[n] for n in head]
        if not any(nouns[n] in self.things or words[n] in _PLACEHOLDERS for n in head):
            kept.append(_PLACEHOLDER)
        if all(known[turn:]):
            kept += words[turn:]
        return Reading(" ".join(kept), unknown)

    def read_question(self, question: str) -> str:
        """The words in which this model was taught what a question asks; the question itself if it is no other way."""
        wanted = _bare(question)
        return next(
            (taught for asked, taught in self.questions if _bare(asked) == wanted), question
        )

    def thing(self, sentence: str) -> tuple[str, ...]:
        """The words that a sentence has for the thing itself, without those of where it is."""
        words = _words(sentence)
        return tuple(words[: self._turn(words)])

    def _turn(self, words: Sequence[str]) -> int:
        """The place from which on words say where the thing is."""
        nouns, places = self._nouns(words), range(len(words))
        known = [self._known(word, noun) for word, noun in zip(words, nouns, strict=True)]
        named = [
            n for n in places if nouns[n] in self.things or (words[n] in _PLACEHOLDERS and known[n])
        ]
        first = next((n for n in places if not known[n]), 0)
        begin = min([first, *named[:1]])
        return next((n for n in places[begin:] if self._turns(words, nouns, n)), len(words))

    def _turns(self, words: Sequence[str], nouns: Sequence[str], n: int) -> bool:
        """Whether a word begins a place: "left" of "the mug left of the can", not of "the left mug"."""
        if words[n] not in _TURNS or nouns[n]:
            return False
        beside = words[n] in _SIDES and n + 1 < len(words)
        follows = words[n + 1] if beside else ""
        return not (
            beside and (nouns[n + 1] or follows in self.colours or follows in _PLACEHOLDERS)
        )

    def _known(self, word: str, noun: str) -> bool:
        """Whether a word was taught, as part of a noun that was or by itself; `noun`: "" if it is part of none."""
        return noun in self.things or (" " not in noun and self.knows(word))

    def _nouns(self, words: Sequence[str]) -> list[str]:
        """The longest noun that each word is part of, "" for none; its last word may be in the plural."""
        found = [""] * len(words)
        for size in range(1, self._longest + 1):
            for begin in range(len(words) - size + 1):
                *before, last = words[begin : begin + size]
                same = [" ".join((*before, one)) for one in singulars(last)]
                listed = [noun for noun in same if noun in self.things]
                listed += [noun for noun in same if noun in self.landmarks]
                if listed:
                    found[begin : begin + size] = listed[:1] * size
        return found

    @cached_property
    def _longest(self) -> int:
        return max((len(noun.split()) for noun in self.things | self.landmarks), default=0)


def _words(sentence: str) -> list[str]:
    return [found.group().lower() for found in _WORD.finditer(sentence)]


def singulars(word: str) -> tuple[str, ...]:
    """A word, and what it may be the plural of."""
    ends = [word]
    ends += [word[:-1]] if word.endswith("s") else []
    ends += [word[:-2]] if word.endswith(("es", "'s", "’s")) else []
    ends += [word[:-3] + "y"] if word.endswith("ies") else []
    return tuple(ends)


def _bare(question: str) -> str:
    return " ".join(_WORD.findall(question.replace("'s ", " is ").casefold()))


def _plain_case(text: str) -> str:
    """ "THE Red mug" as "the red mug", for the middle of a sentence; a question keeps the capital that begins it."""
    first, _, rest = text.partition(" ")
    begins = "?" in text and first[:1].isupper() and first[1:] == first[1:].lower()
    return " ".join(part for part in (first if begins else first.lower(), rest.lower()) if part)


def _lower(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word.lower() for word in words)
