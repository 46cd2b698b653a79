# SPDX-License-Identifier: Apache-2.0
"""CIDEr and METEOR of captions.

CIDEr is that of the COCO caption toolkit (the variant with clipping and a length penalty, from arXiv 1411.5726), on
words cut as its Stanford tokenizer cuts them. METEOR's published number comes from a Java program; it is used through
`pycocoevalcap` where both are installed. Elsewhere NLTK's METEOR with exact and stem matches stands in, under its own
name, because it is another formula and gives larger numbers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import re
import shutil
from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDERS = 4
SIGMA = 6.0

_TOKENS = re.compile(
    r"""[a-z]+(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b"""  # clitics are words of their own
    r"""|-[lr]rb-"""
    r"""|\d+(?:[.,]\d+)*%?"""
    r"""|(?:[a-z]\.){2,}"""  # abbreviations such as e.g.
    r"""|[^\W_]+(?:[-/'’][^\W_]+)*?(?=n't\b|'(?:s|re|ve|ll|d|m)\b)"""
    r"""|[^\W_]+(?:[-/][^\W_]+)*"""
)


def tokens(caption: str) -> list[str]:
    """Words of a caption: lower case, no punctuation, clitics apart, brackets as -lrb- and -rrb- as there."""
    text = caption.lower().replace("(", " -lrb- ").replace(")", " -rrb- ")
    return _TOKENS.findall(text)


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr of each prediction, 0..10; the figure of a data set is their mean (often printed times 100).

    Args:
        predictions: one caption per image.
        references: the true captions of each image; they also say how rare a phrase is.

    Raises:
        ValueError: other than one list of references for each prediction.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} lists of references"
        )
    true = [[_grams(tokens(text)) for text in texts] for texts in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for each in true:
        documents.update({gram for counts in each for gram in counts})
    scale = math.log(float(len(references))) if references else 0.0
    scores = []
    for prediction, each in zip(predictions, true, strict=True):
        said = _Vector(_grams(tokens(prediction)), documents, scale)
        alike = [said.similarity(_Vector(counts, documents, scale)) for counts in each]
        scores.append(10.0 * float(np.mean(alike)) if alike else 0.0)
    return scores


def _grams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1)
    )


class _Vector:
    """A caption as TF-IDF weights, one space for each order of n-grams."""

    def __init__(
        self,
        counts: Counter[tuple[str, ...]],
        documents: Counter[tuple[str, ...]],
        scale: float,
    ) -> None:
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        self.length = 0
        for gram, count in counts.items():
            rare = scale - math.log(max(1.0, documents[gram]))
            self.weights[len(gram) - 1][gram] = count * rare
            self.length += (
                count if len(gram) == 2 else 0
            )  # the toolkit counts bigrams as the length
        self.norms = [math.sqrt(sum(w * w for w in space.values())) for space in self.weights]

    def similarity(self, reference: _Vector) -> float:
        """Mean over the orders of the clipped cosine, less for captions of another length."""
        penalty = math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2))
        total = 0.0
        for n in range(ORDERS):
            theirs = reference.weights[n]
            dot = sum(
                min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0)
                for gram, weight in self.weights[n].items()
            )
            norm = self.norms[n] * reference.norms[n]
            total += penalty * (dot / norm if norm else dot)
        return total / ORDERS


class _NoWordNet:
    """Stands in for WordNet, which would be a download: no word has synonyms."""

    def synsets(self, _word: str) -> list[object]:
        """None."""
        return []


def meteor_name() -> str:
    """What `meteor` computes here: "METEOR" (published, Java) or "METEOR-nltk-stem" (not comparable)."""
    java = shutil.which("java") and importlib.util.find_spec("pycocoevalcap")
    return "METEOR" if java else "METEOR-nltk-stem"


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """METEOR of each prediction, 0..1; see `meteor_name` for which one."""
    if meteor_name() == "METEOR":
        return _java_meteor(predictions, references)
    return nltk_meteor(predictions, references)


def nltk_meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """NLTK's METEOR (the formula of 2007) with exact and stem matches only."""
    from nltk.translate.meteor_score import meteor_score

    return [
        float(meteor_score([tokens(r) for r in each], tokens(said), wordnet=_NoWordNet()))
        if each
        else 0.0
        for said, each in zip(predictions, references, strict=True)
    ]


def _java_meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    from pycocoevalcap.meteor.meteor import Meteor

    said = {str(i): [" ".join(tokens(text))] for i, text in enumerate(predictions)}
    true = {str(i): [" ".join(tokens(t)) for t in each] for i, each in enumerate(references)}
    with contextlib.redirect_stdout(io.StringIO()):
        _, scores = Meteor().compute_score(true, said)
    return [float(score) for score in scores]
