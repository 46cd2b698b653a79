# SPDX-License-Identifier: Apache-2.0
"""One question about the newest image: the answer as it is written, earlier turns, and masks. No ROS.

Two questions never run at once (`questions.py` sees to it), so the history needs no lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sa2va_model.errors import CancelledError
from sa2va_model.mllm import chat as prompts

if TYPE_CHECKING:
    from sa2va_model.sa2va import Answer, Sa2VA


def _ignore(delta: str, text: str) -> None:
    """The default listener."""


@dataclass
class Request:
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
        self._turns: deque[tuple[str, str]] = deque(maxlen=turns)

    def ask(self, rgb: np.ndarray, request: Request) -> Answer:
        """The answer about one image, uint8 [H, W, 3].

        Raises:
            InputError: the question is empty or too long.
            CancelledError: the request was cancelled.
        """
        from sa2va_model.sa2va import Answer

        question = prompts.clean_expression(request.question)
        limit = min(request.max_tokens or self._max_tokens, self._max_tokens)
        reply = self._model.reply(
            f"{prompts.IMAGE_PLACEHOLDER}\n{question}",
            [rgb],
            history=self._history() if request.use_history else "",
            max_new_tokens=limit,
            choose=_Listener(self._model, request),
        )
        self._turns.append((question, reply.text))
        embeddings = reply.embeddings if request.grounded else reply.embeddings[:0]
        masks = self._model.propagate([rgb], embeddings, 1)
        return Answer(reply.text, reply.phrases if request.grounded else (), masks)

    def forget(self) -> None:
        """Begin a new conversation."""
        self._turns.clear()

    def _history(self) -> str:
        """Earlier turns in the checkpoint's chat template; their images are not shown again."""
        template = self._model.mllm.template
        return "".join(
            template.instruction.format(input=question) + answer + template.stop_words[0] + "\n"
            for question, answer in self._turns
        )


class _Listener:
    """Chooses the most likely token, as plain decoding does, and tells what was written so far."""

    def __init__(self, model: Sa2VA, request: Request) -> None:
        self._model, self._request = model, request
        self._ids: list[int] = []
        self._text = ""

    def __call__(self, step: int, logits: Any) -> int:
        """The next token."""
        if self._request.cancelled.is_set():
            raise CancelledError
        token = int(logits.argmax())
        self._ids.append(token)
        raw = self._model.mllm.tokenizer.decode(self._ids)
        text, _ = prompts.parse_answer(raw, self._model.mllm.template.stop_words)
        # A character of several bytes is not whole until its last token; more words may move the end.
        if text.startswith(self._text) and len(text) > len(self._text) and "\ufffd" not in text:
            delta, self._text = text[len(self._text) :], text
            self._request.on_text(delta, text)
        return token
