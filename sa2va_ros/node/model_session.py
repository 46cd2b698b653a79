# SPDX-License-Identifier: Apache-2.0
"""The model and what it follows, from loading to freeing. No ROS.

Whatever is asked for while nothing is loaded is refused with that reason.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.tracking.track_names import TrackNames
from sa2va_model.tracks import FrameResult
from sa2va_ros.interfaces.conversation import Conversation
from sa2va_ros.node.backend_choice import BackendChoice
from sa2va_ros.support.quiet_imports import quiet_imports

if TYPE_CHECKING:
    from sa2va_model.sa2va import Sa2VA
    from sa2va_model.segmentation_half import SegmentingModel
    from sa2va_model.tracking.by_example.example import ObjectExample
    from sa2va_model.tracking.frame_ring import RingFrame
    from sa2va_model.tracking.live import LiveConfig, LiveTracker
    from sa2va_ros.node.shared_model import SharedModel
    from sa2va_serve.client.config import RemoteConfig
    from sa2va_serve.client.remote_grounding import RemoteGrounding
    from sa2va_serve.client.robot import RemoteModel

DTYPES = ("auto", "float32", "bfloat16", "float16")
END_SECONDS = 1.0  # how long a language model at work is waited for


@dataclass(frozen=True)
class EngineSettings:
    """What is loaded and how.

    Attributes:
        model, adapter: folders; "" = the model that ships, no adapter.
        dtype: one of DTYPES; auto = float32 on a CPU, bfloat16 on CUDA.
        threads: of the CPU; 0 = suited to the model.
        live: makes the tracker's configuration; called when torch is imported.
        history_turns, max_tokens: of questions about the scene.
        remote: where sentences are understood; None = on board.
        fallback: folder of the model that answers while the link is lost; "" = sentences wait.
        backend: who computes SAM-2.
    """

    model: str
    adapter: str
    device: str
    dtype: str
    threads: int
    live: Callable[[], LiveConfig]
    history_turns: int
    max_tokens: int
    remote: RemoteConfig | None = None
    fallback: str = ""
    backend: BackendChoice = field(default_factory=BackendChoice)


class ModelSession:
    """One model, the live tracker on it and the conversation with it.

    Args:
        shared: the model of several cameras; None = one of its own.
        name: of the camera, where the model is shared.

    Attributes:
        held: for what the model is held, so that nobody else may begin to use it; "" if it is not.
    """

    def __init__(self, shared: SharedModel | None = None, name: str = "") -> None:
        self._shared, self._camera = shared, name
        self.held = ""
        self._lock = threading.Lock()  # around `held`, and the tracks that wait for another tracker
        self._waiting: dict[str, str] = {}  # their expressions by id
        self._names = TrackNames()  # of all tracks while the node lives, whatever is loaded
        self.model: SegmentingModel | None = None
        self.remote: RemoteModel | None = None
        self.link: RemoteGrounding | None = None
        self.live: LiveTracker | None = None
        self.conversation: Conversation | None = None
        self.adapter = ""
        self._settings: EngineSettings | None = None

    # --- loading and freeing ----------------------------------------------------------------------

    def load(self, settings: EngineSettings) -> None:
        """Load the model; takes from a second to minutes.

        Raises:
            InputError: the folder holds no model that can be used here; others as torch raises them.
        """
        folder = _existing(settings)
        if settings.remote is not None:
            if self._shared is not None:
                raise InputError(
                    "parameter grounder is a server's; expected local, which several cameras share"
                )
            self._load_remote(folder, settings, settings.remote)
            return
        if self._shared is None:
            model = _load(folder, settings)
        else:
            key = (
                settings.model,
                settings.adapter,
                settings.device,
                settings.dtype,
                settings.threads,
                settings.backend,
            )
            model = self._shared.take(self._camera, key, lambda: _load(folder, settings))
        self.adapter, self._settings, self.model = settings.adapter, settings, model
        self._begin()

    def _load_remote(
        self, folder: Path | None, settings: EngineSettings, remote: RemoteConfig
    ) -> None:
        """Load SAM-2 alone: a server understands the sentences."""
        from sa2va_serve.needs import need

        need("grpc", "remote")
        _import_model()
        import torch

        from sa2va_model.checkpoints.load import suit_threads
        from sa2va_serve.client.robot import RemoteModel

        profile = settings.backend.profile()
        self.remote = RemoteModel.open(
            folder,
            remote,
            device=settings.device,
            adapter=settings.adapter,
            fallback=settings.fallback,
        )
        if settings.threads:
            torch.set_num_threads(settings.threads)
        else:
            suit_threads(self.remote.half)
        self.remote.half.use_profile(profile)
        self.adapter, self._settings, self.model = settings.adapter, settings, self.remote.half
        self._begin()

    def _begin(self) -> None:
        from sa2va_model.tracking.live import LiveTracker

        assert self.model is not None
        assert self._settings is not None
        config = self._settings.live()
        grounding: Any = None
        if self._shared is not None:
            grounding = self._shared.grounding(self._camera, config)
        elif self.remote is not None:
            grounding = self.link = self.remote.grounding()
        self.live = LiveTracker(self.model, config, self._names, grounding=grounding)
        asked: Any = self.model if self.remote is None else self.remote.questions()
        self.conversation = Conversation(
            asked, turns=self._settings.history_turns, max_tokens=self._settings.max_tokens
        )

    def unload(self) -> bool:
        """Free everything and give the memory back; False if the language model is still at work."""
        if self.model is None and self.live is None:
            return True
        ended = self.close()
        free_memory()
        return ended

    def close(self) -> bool:
        """Free everything, as before the process ends; False if the language model is still at work."""
        live, self.live = self.live, None
        self.model, self.conversation, self.adapter = None, None, ""
        self.remote, self.link = None, None
        ended = live is None or _close(live)
        if self._shared is not None:
            self._shared.put_back(self._camera)
        return ended

    # --- adapters ---------------------------------------------------------------------------------

    def hold(self, why: str) -> None:
        """Keep the model for something that changes it.

        Raises:
            InputError: nothing is loaded, or it is held already.
        """
        self.need_live()
        if self._shared is not None and self._shared.several:
            raise InputError("the model is shared by several cameras; expected one alone")
        with self._lock:
            if self.held:
                raise InputError(f"{self.held}; expected to be asked when that is done")
            self.held = why

    def release(self) -> None:
        """The model may be used again."""
        with self._lock:
            self.held = ""

    def check_adapter(self, path: str) -> None:
        """Raise InputError unless there is an adapter in the folder ("" = none is wanted)."""
        from sa2va_model.checkpoints.adapters import read_adapter

        if path:
            read_adapter(path)

    def change_adapter(self, path: str, patience: float = END_SECONDS) -> str:
        """Put another adapter in, or none (""), while nobody else runs the model.

        The tracker begins anew; tracks that were named by words go on from them, under their ids.

        Args:
            patience: seconds for the language model to end what it is at.

        Returns:
            What is loaded now, in words.

        Raises:
            InputError: the adapter does not fit; the model is without any then. Or the model is at work, or was freed.
        """
        model, live = self.need_model(), self.live
        if live is None:
            raise InputError("the node is not configured; expected a configured node")
        with self._lock:
            self._waiting, self.live = live.expressions(), None
        ended = live.close(patience)
        try:
            if not ended:
                raise InputError("the language model is at work; expected an idle one, try again")
            self._put_adapter(path)
        finally:
            self._go_on(model)
        return f"adapter {path}" if path else "no adapter"

    def _put_adapter(self, path: str) -> None:
        if self.remote is not None:
            self.adapter = ""
            self.remote.use_adapter(path)
            self.adapter = path
            return
        model: Any = self.need_model()
        if path:
            _load_adapter(model, path)
        else:
            from sa2va_model.checkpoints.adapters import unload_adapter

            unload_adapter(model)

    def _go_on(self, model: SegmentingModel) -> None:
        """A new tracker takes over what the last one followed by words."""
        if self.model is not model:
            raise InputError("the model was freed meanwhile; expected it to be kept")
        if self.remote is None:
            self.adapter = _adapter_name(model)
        with self._lock:
            self._begin()
            assert self.live is not None
            for name, expression in self._waiting.items():
                self.live.resume(name, expression)
            self._waiting = {}

    # --- work -------------------------------------------------------------------------------------

    def need_model(self) -> SegmentingModel:
        """The model.

        Raises:
            InputError: none is loaded.
        """
        if self.model is None:
            raise InputError("the node is not configured; expected a configured node")
        return self.model

    def need_live(self) -> LiveTracker:
        """The live tracker.

        Raises:
            InputError: none is loaded, or another one is being made.
        """
        if self.live is None:
            raise InputError(
                f"{self.held}; expected to be asked when that is done"
                if self.held
                else "the node is not configured; expected a configured node"
            )
        return self.live

    def _need_free(self) -> LiveTracker:
        """The live tracker, which nothing is about to take the place of."""
        if self.held:
            raise InputError(f"{self.held}; expected to be asked when that is done")
        return self.need_live()

    def need_conversation(self) -> Conversation:
        """The conversation.

        Raises:
            InputError: none is loaded, or the model is held for something else.
        """
        if self.held:
            raise InputError(f"{self.held}; expected to be asked when that is done")
        if self.conversation is None:
            raise InputError("no model is loaded; expected a configured node")
        return self.conversation

    def encode_ahead(self, frame: Frame) -> Frame | RingFrame:
        """Prepare a frame while the one before is processed; cameras that share a model take turns instead."""
        live = self.live
        return frame if live is None or self._shared is not None else live.encode_ahead(frame)

    def process(self, frame: Frame | RingFrame) -> FrameResult:
        """One frame."""
        live = self.need_live()
        if self._shared is None:
            return live.process(frame)
        with self._shared.turn():
            return live.process(frame)

    def track(self, expression: str, *, track_id: str | None = None, replace: bool = False) -> str:
        """Start a track; see `LiveTracker.track`."""
        return self._need_free().track(expression, track_id=track_id, replace=replace)

    def prompt(self, **arguments: Any) -> str:
        """Start or correct a track that is shown; see `LiveTracker.prompt`."""
        return self._need_free().prompt(**arguments)

    def follow(self, example: ObjectExample, *, track_id: str | None = None) -> str:
        """Look for what an example shows; see `LiveTracker.follow`."""
        return self._need_free().follow(example, track_id=track_id)

    def example(self, track_id: str, name: str = "") -> ObjectExample:
        """Return what was seen of a track lately; see `LiveTracker.example`."""
        return self.need_live().example(track_id, name)

    def stop(self, track_id: str | None = None) -> int:
        """Stop one track, or all; see `LiveTracker.stop`. Never refused: it also ends what waits for a tracker."""
        with self._lock:
            if self.live is not None:
                return self.live.stop(track_id)
            names = [name for name in self._waiting if track_id in (None, name)]
            for name in names:
                del self._waiting[name]
        if not self.held:
            self.need_live()
        return len(names)


def _existing(settings: EngineSettings) -> Path | None:
    """The model's folder, fetched if it is a hub's; None = the model that ships. Without torch.

    Raises:
        InputError: a folder is missing, or is none of a model or of an adapter.
    """
    if settings.adapter and not Path(settings.adapter).is_dir():
        raise InputError(f"{settings.adapter}: no such folder; expected one of an adapter")
    if not settings.model:
        return None
    from sa2va_model.checkpoints.files.hub import find_folder

    folder = find_folder(settings.model)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; expected a Sa2VA checkpoint folder")
    return folder


def _import_model() -> None:
    """Import what a model needs: seconds, in which everything else goes on."""
    with quiet_imports():
        for name in ("checkpoints.load", "tracking.live"):
            importlib.import_module(f"sa2va_model.{name}")


def _load(folder: Path | None, settings: EngineSettings) -> Sa2VA:
    # Not at the top: torch takes seconds, and without it the node can still say what is missing.
    _import_model()
    import torch

    from sa2va_model.checkpoints.load import load_model, suit_threads

    profile = settings.backend.profile()  # what is wrong with it shows before the model is loaded
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model = load_model(folder, device=settings.device, dtype=dtype)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    else:
        suit_threads(model)
    if settings.adapter:
        _load_adapter(model, settings.adapter)
    model.use_profile(profile)
    return model


def _close(live: LiveTracker) -> bool:
    """End the tracker's language thread; False if it works on something that takes longer."""
    return live.close(END_SECONDS)


def _load_adapter(model: Sa2VA, path: str) -> None:
    from sa2va_model.checkpoints.adapters import load_adapter

    load_adapter(model, path)


def _adapter_name(model: Any) -> str:
    from sa2va_model.checkpoints.adapters import active_adapter

    active = active_adapter(model)
    return str(active.folder) if active else ""


def free_memory() -> None:
    """Give what is free back to the system; glibc and CUDA would keep it for later."""
    gc.collect()
    # Not imported here: another thread may be at it, and it takes seconds.
    device = sys.modules.get("sa2va_model.device")
    if device is not None:
        device.free_unused()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library gives memory back by itself
