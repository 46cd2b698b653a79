# SPDX-License-Identifier: Apache-2.0
"""Several adapters on one model: each is read once, and one at a time is in force.

For a server, whose robots may each have their own: a change copies the few other trained parts and reads no file. The
LoRA weights of all lie beside the frozen ones at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sa2va_model.checkpoints.adapters import (
    decoder_fingerprint,
    fingerprint,
    put_lora,
    read_adapter,
    read_parts,
    unload_adapter,
)
from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA

if TYPE_CHECKING:
    from peft import PeftModel


class AdapterSet:
    """The adapters of one model, by name; "" is the bare model, which is in force at first.

    Args:
        folders: of adapters, called as they call themselves.
            Nothing else may change the model's adapters while the set lives.

    Raises:
        InputError: as `load_adapter`, or two have one name.
    """

    def __init__(self, model: Sa2VA, folders: Sequence[str | Path] = ()) -> None:
        unload_adapter(model)
        self._model, self.active = model, ""
        self._places = dict(model.named_parameters()) | dict(model.named_buffers())
        self._vocabulary = model.vocabulary
        self._peft: PeftModel | None = None
        self._parts: dict[str, dict[str, Tensor]] = {"": {}}
        self._originals: dict[str, Tensor] = {}
        self._lora: dict[str, str] = {}  # name -> what `peft` calls it
        self._base = fingerprint(model)
        self._decoders = {"": decoder_fingerprint(model)}
        for folder in folders:
            self.add(folder)

    @property
    def decoders(self) -> dict[str, str]:
        """For each name, the fingerprint of the mask decoder that its embeddings are for."""
        return dict(self._decoders)

    def use(self, name: str) -> bool:
        """Have the model answer with that adapter, while nothing runs it; return whether that is a change.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self._parts:
            names = ", ".join(repr(known) for known in self._parts if known) or "none"
            raise InputError(
                f"adapter is {name!r}; expected one of those that are loaded ({names})"
            )
        if name == self.active:
            return False
        self._put(name)
        return True

    def add(self, folder: str | Path, name: str = "") -> None:
        """Read one more, while nothing runs the model; the bare model is in force then.

        Args:
            name: to ask for it by; "" = its own.

        Raises:
            InputError: as `load_adapter`, or another one has the name.
        """
        adapter = read_adapter(folder)
        name = name or adapter.name
        if name in self._parts:
            raise InputError(f"{folder}: another adapter is called {name!r}; rename one")
        self.use("")
        parts = read_parts(adapter, self._base, self._places)
        if adapter.lora:
            called = f"adapter{len(self._lora)}"
            self._peft = put_lora(self._model, adapter.folder, called, self._peft)
            self._lora[name] = called
        for place in parts.keys() - self._originals.keys():
            self._originals[place] = self._places[place].detach().clone()
        self._parts[name] = {n: tensor.to(self._model.device) for n, tensor in parts.items()}
        self._put(name)
        decoder = decoder_fingerprint(self._model)
        self._put("")
        self._decoders[name] = decoder

    @torch.no_grad()
    def _put(self, name: str) -> None:
        wanted = self._parts[name]
        for place in self._originals:
            self._places[place].copy_(wanted.get(place, self._originals[place]))
        if self._peft is not None:
            self._switch_lora(self._peft, self._lora.get(name))
        self._model.vocabulary = None if name else self._vocabulary
        self._model.forget()
        self.active = name

    @staticmethod
    def _switch_lora(peft: PeftModel, called: str | None) -> None:
        layers: Any = peft.base_model
        if called is None:
            layers.disable_adapter_layers()
            return
        layers.enable_adapter_layers()
        peft.set_adapter(called)
        peft.requires_grad_(requires_grad=False)
