# SPDX-License-Identifier: Apache-2.0
"""One question about the newest image: the answer as it is written, earlier turns, and masks. No ROS.

Two questions never run at once (`questions.py` sees to it), so the history needs no lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sa2va_model.results import Turn
    from sa2va_model.sa2va import Answer, Sa2VA


def _ignore(delta: str, text: str) -> None:
    """The default listener."""


@dataclass
class QuestionRequest:
    """A question and who waits for the answer.

    Attributes:
        id: repeated in the answer.
        grounded: masks for the phrases are wanted.
        use_history: earlier questions and answers belong to it.
        max_tokens: longest answer; 0 = the conversation's.
        on_text: told the new and the whole text so far, on the thread that answers.
        cancelled: set it to have the work end at the next token.
    """

    question: str
    id: str = ""
    grounded: bool = True
    use_history: bool = False
    max_tokens: int = 0
    on_text: Callable[[str, str], None] = _ignore
    cancelled: threading.Event = field(default_factory=threading.Event)


class Conversation:
    """Questions to one model.

    Args:
        turns: so many earlier questions and answers are kept.
        max_tokens: longest answer of a request that does not say.
    """

    def __init__(self, model: Sa2VA, *, turns: int = 4, max_tokens: int = 0) -> None:
        self._model = model
        self._max_tokens = max_tokens or model.config.max_new_tokens
        self._turns: deque[Turn] = deque(maxlen=turns)

    def ask(self, rgb: np.ndarray, request: QuestionRequest) -> Answer:
        """Answer about one image, uint8 [H, W, 3].

        Raises:
            InputError: the question is empty or too long.
            CancelledError: the request was cancelled.
        """
        answer = self._model.ask(
            [rgb],
            request.question,
            history=tuple(self._turns) if request.use_history else (),
            masks=request.grounded,
            max_new_tokens=min(request.max_tokens or self._max_tokens, self._max_tokens),
            on_text=request.on_text,
            cancelled=request.cancelled.is_set,
        )
        self._turns.append(answer.turn)
        return answer

    def forget(self) -> None:
        """Begin a new conversation."""
        self._turns.clear()
