# SPDX-License-Identifier: Apache-2.0
"""The words that a small model was taught, and what to do with a sentence that has others.

A checkpoint with `vocabulary.json` knows these words and no more; one without it is taken to know every word. An
unknown word is never guessed: what is known of the sentence is asked for, and if nothing of the thing itself is known,
nothing is. Case does not matter to such a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
    """

    things: frozenset[str]
    colours: frozenset[str]
    others: frozenset[str]
    questions: tuple[tuple[str, str], ...] = ()
    landmarks: frozenset[str] = frozenset()

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
            return cls(things, colours, others, same, _lower(values.get("landmarks", ())))
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
        file = folder / FILE
        file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return file

    def knows(self, word: str) -> bool:
        """Whether a word was taught, also in the plural or as a part of a longer noun."""
        return any(one in self._every or one in _SMALL for one in singulars(word.lower()))

    @cached_property
    def _every(self) -> frozenset[str]:
        return self.colours | self.others | _parts(self.things)

    @cached_property
    def _landmarks(self) -> frozenset[str]:
        return _parts(self.landmarks)

    def _places(self, word: str) -> bool:
        """Whether a word may stand where a sentence says where the thing is."""
        return self.knows(word) or any(one in self._landmarks for one in singulars(word))

    def read_sentence(self, expression: str) -> Reading:
        """What of a sentence this model can understand."""
        words = [found.group().lower() for found in _WORD.finditer(expression)]
        head, rest = self._split(words)
        unknown = tuple(word for word in head if not self.knows(word))
        unknown += tuple(word for word in rest if not self._places(word))
        if not unknown:
            return Reading(_plain_case(expression), ())
        if not self._describes(head):
            return Reading("", unknown)
        kept = [word for word in head if self.knows(word)]
        if not self._names(kept):
            kept.append(_PLACEHOLDER)
        if all(self._places(word) for word in rest):
            kept += rest
        return Reading(" ".join(kept), unknown)

    def read_question(self, question: str) -> str:
        """The words in which this model was taught what a question asks; the question itself if it is no other way."""
        wanted = _bare(question)
        return next(
            (taught for asked, taught in self.questions if _bare(asked) == wanted), question
        )

    def thing(self, sentence: str) -> tuple[str, ...]:
        """The words that a sentence has for the thing itself, without those of where it is."""
        return tuple(self._split([found.group().lower() for found in _WORD.finditer(sentence)])[0])

    def _split(self, words: list[str]) -> tuple[list[str], list[str]]:
        """The words of the thing itself, and those of where it is."""
        noun = next((n for n, word in enumerate(words) if self._is_noun(word)), None)
        first = next((n for n, word in enumerate(words) if not self.knows(word)), 0)
        begin = first if noun is None else min(noun, first)
        turn = next((n for n in range(begin, len(words)) if words[n] in _TURNS), len(words))
        return words[:turn], words[turn:]

    def _describes(self, head: Iterable[str]) -> bool:
        return any(word in self.colours or self._is_thing(word) for word in head)

    def _names(self, head: Iterable[str]) -> bool:
        return any(self._is_noun(word) for word in head)

    def _is_noun(self, word: str) -> bool:
        return self._is_thing(word) or (word in _PLACEHOLDERS and self.knows(word))

    def _is_thing(self, word: str) -> bool:
        return any(one in self.things for one in singulars(word))


def _parts(nouns: Iterable[str]) -> frozenset[str]:
    return frozenset(part for noun in nouns for part in noun.split())


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
