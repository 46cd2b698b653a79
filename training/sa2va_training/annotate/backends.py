# SPDX-License-Identifier: Apache-2.0
"""Who is asked: any endpoint that speaks OpenAI's protocol (vLLM, …), a Sa2VA of ours, or whoever knows the truth."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import cv2
import numpy as np

from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA

_TRIES, _PAUSE, _TIMEOUT = 5, 0.5, 120.0
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class UnansweredError(RuntimeError):
    """A question that got no answer however often it was asked; the next run asks it again."""


class Annotator(Protocol):
    """StageAnswers questions about pictures."""

    @property
    def name(self) -> str:
        """For the record."""
        ...

    def answer(self, prompt: str, pictures: Sequence[np.ndarray], about: str) -> str:
        """One answer.

        Args:
            pictures: uint8 [H, W, 3] each.
            about: what the object is called, for whoever knows the truth; models are not told.

        Raises:
            UnansweredError: there is none for now.
        """
        ...


@dataclass(frozen=True)
class Endpoint:
    """`POST url/chat/completions`, tried again where the server is busy or fails. `OPENAI_API_KEY` is sent if set.

    Attributes:
        url: up to and without `/chat/completions`.
        model: what the server calls it; "" = the first that it lists.
        pause: seconds before the second try; doubled for each one after.
    """

    url: str
    model: str = ""
    pause: float = _PAUSE

    @property
    def name(self) -> str:
        """For the record."""
        return f"{self.url}#{self.model}"

    def answer(self, prompt: str, pictures: Sequence[np.ndarray], about: str) -> str:
        """See `Annotator`."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(rgb)}} for rgb in pictures
        ]
        content.append({"type": "text", "text": prompt})
        asked = {
            "model": self.model or self._first_model(),
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 300,
        }
        reply = self._request("POST", "/chat/completions", asked)
        try:
            return str(reply["choices"][0]["message"]["content"]).strip()
        except (KeyError, IndexError, TypeError) as error:
            raise UnansweredError(f"{self.url}: a reply without choices[0].message") from error

    def _first_model(self) -> str:
        return str(self._request("GET", "/models")["data"][0]["id"])

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = None if body is None else json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
        why = ""
        for number in range(_TRIES):
            if number:
                time.sleep(self.pause * 2 ** (number - 1))
            try:
                request = Request(self.url.rstrip("/") + path, data, headers, method=method)
                with urlopen(request, timeout=_TIMEOUT) as reply:
                    return json.loads(reply.read())
            except HTTPError as error:
                if error.code not in _AGAIN:
                    raise InputError(
                        f"{self.url}{path}: status {error.code}; expected an OpenAI-compatible server"
                    ) from error
                why = f"status {error.code}"
            except (OSError, HTTPException, ValueError) as error:
                why = f"{type(error).__name__}: {error}"
        raise UnansweredError(f"{self.url}: no answer in {_TRIES} tries ({why})")


@dataclass(frozen=True)
class OwnModel:
    """A Sa2VA that is asked like any user asks it."""

    model: Sa2VA
    name: str = "model"

    def answer(self, prompt: str, pictures: Sequence[np.ndarray], about: str) -> str:
        """See `Annotator`."""
        return self.model.ask(list(pictures), prompt, masks=False).text


@dataclass(frozen=True)
class KnownNames:
    """Knows what everything is called (simulated clips): captions are its name, and a check compares."""

    name: str = "truth"

    def answer(self, prompt: str, pictures: Sequence[np.ndarray], about: str) -> str:
        """See `Annotator`."""
        if "yes or no" in prompt:
            return "yes" if prompt.count(about) > 1 else "no"
        return f"the {about}"


def _data_url(rgb: np.ndarray) -> str:
    ok, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90]
    )
    if not ok:
        raise RuntimeError(f"OpenCV cannot encode {rgb.shape} {rgb.dtype}")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
