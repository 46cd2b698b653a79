# SPDX-License-Identifier: Apache-2.0
"""Listener: tells the words of an answer as they are written, and stops when nobody waits for them any more."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sa2va_model.errors import CancelledError
from sa2va_model.mllm.base import Mllm
from sa2va_model.mllm.chat import parse_answer

OnText = Callable[[str, str], None]
"""Told the new and the whole text so far, on the thread that answers."""
Cancelled = Callable[[], bool]
"""Asked before each token; True = nobody waits for the answer any more."""


class Listener:
    """A choice of tokens (`types.Choice`) that takes the likeliest, as greedy decoding does, and listens."""

    def __init__(
        self, mllm: Mllm, on_text: OnText | None = None, cancelled: Cancelled | None = None
    ) -> None:
        self._mllm, self._on_text, self._cancelled = mllm, on_text, cancelled
        self._ids: list[int] = []
        self._text = ""

    def __call__(self, step: int, logits: Tensor) -> int:
        """Return the next token.

        Raises:
            CancelledError: nobody waits any more.
        """
        if self._cancelled is not None and self._cancelled():
            raise CancelledError("the answer was cancelled")
        token = int(logits.argmax())
        self._ids.append(token)
        if self._on_text is not None:
            self._tell(self._on_text)
        return token

    def _tell(self, on_text: OnText) -> None:
        raw = self._mllm.tokenizer.decode(self._ids)
        text, _ = parse_answer(raw, self._mllm.template.stop_words)
        # A character of several bytes is not whole until its last token; more words may move the end.
        if text.startswith(self._text) and len(text) > len(self._text) and "\ufffd" not in text:
            delta, self._text = text[len(self._text) :], text
            on_text(delta, text)
