# SPDX-License-Identifier: Apache-2.0
"""Which words a model can know: an expression with another word is answered before the model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Vocabulary(Protocol):
    """What a model was trained to understand."""

    def unknown(self, expression: str) -> Sequence[str]:
        """Return the words of an expression that the model cannot know, in their order; none = ask the model."""
