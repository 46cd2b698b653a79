# SPDX-License-Identifier: Apache-2.0
"""New pictures from few annotated ones: named objects are cut out and glued into other pictures.

Copy and paste (arXiv 2012.07177) for referring expressions: fifty pictures show an object in fifty places, and a model
learns the places. What can be asked about a collage follows from the names alone: a phrase of the data that is made of
the words of exactly one name means that object, one that fits no name means nothing that is there. Places and
relations are not asked for, because the glued things changed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sa2va_training.data.masks import Mask
from sa2va_training.data.pictures import Picture
from sa2va_training.data.sample import Dataset, Sample

_FILLERS = frozenset(("the", "a", "an", "this", "that", "object", "thing", "item", "one"))
_GLUED = 1, 5  # objects of a collage that were not there
_SCALES = 0.65, 1.4
_TURN = 15.0  # degrees
_TRIES = 6
_HIDDEN = 0.45  # of an object; one that is covered further is no longer asked for
SMALLEST = 0.0015  # of a picture; less of an object is neither cut out nor asked for
_KEPT = 4096  # cut-outs in memory


def content(text: str) -> frozenset[str]:
    """The words of a phrase that say something."""
    return frozenset(text.lower().rstrip(". ").split()) - _FILLERS


@dataclass(frozen=True)
class Cutting:
    """An object that can be cut out."""

    picture: Picture
    mask: Mask
    name: str


@dataclass(frozen=True)
class CollageObject:
    """An object of a collage: its name and bool [H, W]."""

    name: str
    mask: np.ndarray


@dataclass(frozen=True)
class Cutout:
    """What was cut out: RGBA uint8 [h, w, 4] with a rim of its old surroundings, from a picture of some height."""

    name: str
    rgba: np.ndarray
    height: int


def _cut(cutting: Cutting) -> Cutout | None:
    """None if it shows too little."""
    rgb = cutting.picture.read()
    mask = cutting.mask.read(*rgb.shape[:2])
    if mask.mean() < SMALLEST:
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = tuple(slice(max(i[0] - 2, 0), i[-1] + 3) for i in (rows, columns))
    alpha = mask[window].astype(np.uint8) * 255
    return Cutout(cutting.name, np.dstack([rgb[window], alpha]), len(rgb))


class Album:
    """All named objects and all phrases of some datasets, each dataset a page."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        """Goes through all samples once; pictures are not opened."""
        self.pages: list[list[Cutting]] = []
        self._cut: dict[tuple[int, int], Cutout | None] = {}
        texts: set[str] = set()
        for dataset in datasets:
            page: list[Cutting] = []
            for index in range(len(dataset)):
                sample = dataset[index]
                texts.update(r.text for r in sample.referrings)
                for thing in () if sample.clip else sample.objects:
                    if (mask := thing.masks[0]) is not None:
                        page.append(Cutting(sample.frames[0], mask, thing.name))
            if page:
                self.pages.append(page)
        names = {cutting.name for page in self.pages for cutting in page}
        words = frozenset().union(*map(content, names))
        texts.update(f"the {name}" for name in names)
        found = {text: content(text) for text in sorted(texts)}
        self.phrases = {text: said for text, said in found.items() if said and said <= words}

    def draw(self, rng: np.random.Generator) -> Cutout | None:
        """Any object of any page; None if it shows too little of itself."""
        page = int(rng.integers(len(self.pages)))
        place = page, int(rng.integers(len(self.pages[page])))
        if place not in self._cut:
            if len(self._cut) >= _KEPT:
                self._cut.clear()
            self._cut[place] = _cut(self.pages[page][place[1]])
        return self._cut[place]

    def meant(
        self, names: Sequence[str], unknown: Sequence[str] = ()
    ) -> tuple[dict[str, int], list[str]]:
        """What can be asked where things of these names are.

        Args:
            names: of what is there.
            unknown: of what may be there, too.

        Returns:
            phrases that mean exactly one of them, with its place in `names`; phrases that mean none. Neither has one
            that fits something unknown.
        """
        words, open_words = [content(name) for name in names], [content(name) for name in unknown]
        one: dict[str, int] = {}
        none: list[str] = []
        for text, said in self.phrases.items():
            if any(said <= own for own in open_words):
                continue
            fits = [n for n, own in enumerate(words) if said <= own]
            if len(fits) == 1:
                one[text] = fits[0]
            elif not fits:
                none.append(text)
        return one, none


def nearly(names: Sequence[str], none: Iterable[str]) -> list[str]:
    """Those of the phrases that mean nothing of what is there, of which something has all words but one."""
    words = [content(name) for name in names]
    return [t for t in none if len(said := content(t)) > 1 and _misses_one(said, words)]


def _misses_one(said: frozenset[str], words: Sequence[frozenset[str]]) -> bool:
    return any(len(said - own) == 1 for own in words)


def glue(
    sample: Sample, album: Album, rng: np.random.Generator
) -> tuple[np.ndarray, list[CollageObject]]:
    """A picture with things of others in it.

    Args:
        sample: one image with `objects`.

    Returns:
        uint8 [H, W, 3] and everything in it that has a name; what is nearly covered has an empty mask.
    """
    rgb = sample.frames[0].read().copy()
    height, width = rgb.shape[:2]
    known = [(o.name, o.masks[0]) for o in sample.objects]
    whole = [CollageObject(n, m.read(height, width)) for n, m in known if m is not None]
    whole = [thing for thing in whole if thing.mask.any()]
    shown = [thing.mask.copy() for thing in whole]
    for _ in range(int(rng.integers(_GLUED[0], _GLUED[1] + 1))):
        cutout = album.draw(rng)
        placed = None
        if cutout is not None:
            placed = _placed(cutout, (height, width), [t.mask for t in whole], rng)
        if cutout is None or placed is None:
            continue
        colours, alpha = placed
        rgb = (rgb + alpha[..., None] * (colours - rgb)).round().astype(np.uint8)
        mask = alpha > 0.5
        shown = [old & ~mask for old in shown]
        whole.append(CollageObject(cutout.name, mask))
        shown.append(mask.copy())
    return rgb, [
        CollageObject(
            t.name, left if left.sum() >= (1 - _HIDDEN) * t.mask.sum() else np.zeros_like(left)
        )
        for t, left in zip(whole, shown, strict=True)
    ]


def _placed(
    cutout: Cutout,
    size: tuple[int, int],
    whole: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray] | None:
    """An object somewhere in a picture: colours float32 [H, W, 3], cover float32 [H, W]; None if there is no room."""
    rgba, (height, width) = cutout.rgba, size
    scale = height / cutout.height * float(np.exp(rng.uniform(*np.log(_SCALES))))
    angle, mirror = np.deg2rad(rng.uniform(-_TURN, _TURN)), -1.0 if rng.random() < 0.5 else 1.0
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= mirror
    gain = rng.uniform(0.85, 1.15)
    middle = turn @ np.array([rgba.shape[1] / 2, rgba.shape[0] / 2])
    for _ in range(_TRIES):
        place = np.array([rng.uniform(0.06, 0.94) * width, rng.uniform(0.1, 0.94) * height])
        move = np.column_stack([turn, place - middle])
        warped = cv2.warpAffine(rgba, move, (width, height), flags=cv2.INTER_LINEAR)
        mask = warped[..., 3] > 127
        if mask.mean() < SMALLEST:
            continue
        if any((m & mask).sum() > _HIDDEN * m.sum() > 0 for m in whole if m.any()):
            continue
        break
    else:
        return None
    cover = cv2.GaussianBlur(warped[..., 3].astype(np.float32) / 255, (0, 0), 0.6)
    return np.clip(warped[..., :3].astype(np.float32) * gain, 0, 255), np.asarray(cover)
