# SPDX-License-Identifier: Apache-2.0
"""Another adapter on the running model, loaded beside the executor: images and services go on to be heard meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sa2va_model.errors import InputError
from sa2va_ros.node.model_session import ModelSession
from sa2va_ros.node.pipeline import Pipeline

PATIENCE = 10.0  # seconds for an image or an answer in work to be done

Done = Callable[[str, str], None]  # what is loaded now, and why it failed ("" if it did not)


class AdapterChange:
    """Loads adapters, one at a time.

    Meanwhile the newest image waits, and what cannot be done is refused with the reason. Then tracks that were named by
    words start again from them.

    Args:
        quiet: ends questions and goals, waiting so many seconds at most; False if the model is still at work.
    """

    def __init__(
        self, session: ModelSession, pipeline: Pipeline, quiet: Callable[[float], bool]
    ) -> None:
        self._session, self._pipeline, self._quiet = session, pipeline, quiet
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether an adapter is being loaded."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, path: str, done: Done) -> None:
        """Load the adapter of a folder, or take off what is loaded (""); `done` is told on another thread.

        Raises:
            InputError: nothing is loaded that an adapter could be put on, or another one is at it.
        """
        self._session.hold("an adapter is being loaded")
        self._thread = threading.Thread(
            target=self._run, args=(path, done), name="adapter", daemon=True
        )
        self._thread.start()

    def _run(self, path: str, done: Done) -> None:
        loaded = problem = ""
        try:
            loaded = self._change(path)
        except InputError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - a folder can be spoilt in many ways; the node goes on
            problem = f"{type(error).__name__}: {error}"
        finally:
            self._session.release()
        done(loaded, problem)

    def _change(self, path: str) -> str:
        self._session.check_adapter(path)  # before anything is disturbed
        if not self._quiet(PATIENCE):
            raise InputError("an answer is in work; expected an idle model, try again")
        with self._pipeline.paused(PATIENCE):
            try:
                return self._session.change_adapter(path, PATIENCE)
            finally:
                self._pipeline.restart()
