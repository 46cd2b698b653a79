# SPDX-License-Identifier: Apache-2.0
"""What people call the objects of the catalogue (`nouns.txt`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from sa2va_model.errors import InputError
from sa2va_sim.words.vocabulary import SHAPES

_FILE = "nouns.txt"


@dataclass(frozen=True)
class Noun:
    """Words for one kind of object.

    Attributes:
        name: the everyday word, the object's class.
        names: everything that may truly be said of it, `name` first.
        doubtful: what some people would say of it; such a word neither means it nor is it absent.
    """

    name: str
    names: tuple[str, ...]
    doubtful: tuple[str, ...]


@lru_cache(maxsize=1)
def nouns() -> dict[str, Noun]:
    """By the catalogue's name, lower case.

    Raises:
        InputError: a line of the table cannot be read, or lists a name twice.
    """
    text = (resources.files(__package__) / _FILE).read_text(encoding="utf-8")
    found: dict[str, Noun] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        columns = [column.strip() for column in line.split("|")]
        if len(columns) != 4:
            raise InputError(f"{_FILE}, line {number}: {len(columns)} columns; expected 4")
        listed, name, also, doubtful = (_words(column) for column in columns)
        noun = Noun(name[0], (*name, *also), doubtful)
        for one in listed:
            if one in found:
                raise InputError(f"{_FILE}, line {number}: {one!r} is there already")
            found[one] = noun
    return found


def _words(column: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in column.split(",") if word.strip())


@lru_cache(maxsize=1)
def class_names() -> tuple[str, ...]:
    """The nine shapes of the toy world, then the classes of the catalogue in the order of the table."""
    return tuple(dict.fromkeys((*SHAPES, *(noun.name for noun in nouns().values()))))


@lru_cache(maxsize=1)
def all_names() -> tuple[str, ...]:
    """Every name that something may be called, the doubtful ones too, without repetition."""
    every = (word for noun in nouns().values() for word in (*noun.names, *noun.doubtful))
    return tuple(dict.fromkeys((*SHAPES, *every)))
