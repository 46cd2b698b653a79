# SPDX-License-Identifier: Apache-2.0
"""What a server refuses, under the names of gRPC's status codes; every transport tells it in its own way."""

from __future__ import annotations


class ServeError(Exception):
    """A request that is not answered.

    Attributes:
        code: name of a gRPC status code.
        retry_after: seconds after which to try again; None = not again in this form.
    """

    code = "INTERNAL"
    retry_after: float | None = None


class BusyError(ServeError):
    """Too much to do: the request was refused at once."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after: float, *, draining: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        if draining:
            self.code = "UNAVAILABLE"


class LateError(ServeError):
    """The deadline passed before it was answered."""

    code = "DEADLINE_EXCEEDED"


class AbandonedError(ServeError):
    """Nobody waits any more."""

    code = "CANCELLED"


class BadRequestError(ServeError):
    """A request that no server would answer."""

    code = "INVALID_ARGUMENT"


class WrongDecoderError(ServeError):
    """The robot's mask decoder is not the one that the embeddings are for."""

    code = "FAILED_PRECONDITION"


class NoAdapterError(ServeError):
    """No adapter of that name is loaded."""

    code = "NOT_FOUND"


class ModelFailedError(ServeError):
    """The model failed on this request; the next may do better. INTERNAL is what dies on the way, as a Ray replica."""

    code = "ABORTED"
