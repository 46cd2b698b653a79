# SPDX-License-Identifier: Apache-2.0
"""RemoteQuestions: questions about the scene, answered by a server; masks are made on board."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import numpy as np

from sa2va_model.checkpoints.adapters import decoder_fingerprint
from sa2va_model.errors import CancelledError, InputError
from sa2va_model.mllm.decoding.listener import Cancelled, OnText
from sa2va_model.results import Answer, Turn
from sa2va_model.segmentation_half import SegmentationHalf
from sa2va_serve.client.channel import Channel
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.wire import codec
from sa2va_serve.wire import grounding_pb2 as pb

TICK = 0.05  # seconds between two looks whether the answer is still wanted
LIMIT = 120.0  # seconds for an answer


class RemoteQuestions:
    """Asks as `Sa2VA.ask` does, for those parts of it that a conversation with a robot needs."""

    def __init__(self, config: RemoteConfig, half: SegmentationHalf) -> None:
        self.config, self._remote, self._half = half.config, config, half
        self._channel, self._decoder = Channel(config), decoder_fingerprint(half)
        self._numbers = itertools.count(1)

    def ask(
        self,
        frames: Sequence[np.ndarray],
        question: str,
        *,
        history: Sequence[Turn] = (),
        masks: bool = True,
        max_new_tokens: int | None = None,
        on_text: OnText | None = None,
        cancelled: Cancelled | None = None,
    ) -> Answer:
        """The answer about some frames; see `Sa2VA.ask`.

        Raises:
            InputError: the server is not reached, or refuses.
            CancelledError: `cancelled` said so.
        """
        request = self._request(frames, question, history, max_new_tokens)
        last = self._listen(request, on_text, cancelled)
        reply = codec.from_meaning(last.whole, self._half.device)
        if not masks:
            reply = replace(reply, embeddings=reply.embeddings[:0], phrases=())
        turn = Turn(question, last.whole.written)
        return self._half.answers(list(frames), [(turn, reply)], range(len(frames)))[0]

    def close(self) -> None:
        """End; questions that are open fail."""
        self._channel.close()

    def _request(
        self,
        frames: Sequence[np.ndarray],
        question: str,
        history: Sequence[Turn],
        max_new_tokens: int | None,
    ) -> pb.AskRequest:
        config = self._remote
        header = pb.Header(
            robot_id=config.name,
            request_id=f"question {next(self._numbers)}",
            adapter=config.adapter,
            decoder=self._decoder,
        )
        images = [pb.Keyframe(image=codec.encode_image(rgb, config.encoding)) for rgb in frames]
        past = [pb.Turn(question=turn.question, written=turn.answer) for turn in history]
        return pb.AskRequest(
            header=header,
            keyframes=images,
            question=question,
            history=past,
            max_tokens=max_new_tokens or 0,
        )

    def _listen(
        self, request: pb.AskRequest, on_text: OnText | None, cancelled: Cancelled | None
    ) -> pb.AskReply:
        """The last reply. Another thread reads the network, so that this one can stop at any time."""
        call, heard = self._channel.ask(request, LIMIT), queue.SimpleQueue[Any]()
        threading.Thread(target=_read, args=(call, heard), name="sa2va-words", daemon=True).start()
        text = ""
        while True:
            if cancelled is not None and cancelled():
                call.cancel()
                raise CancelledError("the answer was cancelled")
            try:
                reply = heard.get(timeout=TICK)
            except queue.Empty:
                continue
            if isinstance(reply, grpc.RpcError):
                raise InputError(f"{self._remote.address}: {call.details() or call.code().name}")
            if reply is None:
                raise InputError(f"{self._remote.address}: the answer broke off")
            if reply.HasField("whole"):
                return self._checked(request, reply)
            text += reply.delta
            if on_text is not None:
                on_text(reply.delta, text)

    def _checked(self, request: pb.AskRequest, reply: pb.AskReply) -> pb.AskReply:
        if reply.request_id != request.header.request_id or reply.decoder != self._decoder:
            raise InputError(f"{self._remote.address}: the answer is to another question")
        return reply


def _read(call: Any, heard: queue.SimpleQueue[Any]) -> None:
    try:
        for reply in call:
            heard.put(reply)
        heard.put(None)
    except grpc.RpcError as error:
        heard.put(error)
