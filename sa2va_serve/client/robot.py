# SPDX-License-Identifier: Apache-2.0
"""RemoteModel: what a robot has in place of the whole model: SAM-2 on board, and where its sentences are understood."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sa2va_model.checkpoints.adapters import decoder_fingerprint, load_decoder, unload_decoder
from sa2va_model.checkpoints.load import load_half, load_model
from sa2va_model.errors import InputError
from sa2va_model.segmentation_half import SegmentationHalf
from sa2va_model.tracking.grounding_worker import GroundingService, GroundingWorker
from sa2va_serve.client.config import RemoteConfig
from sa2va_serve.client.questions import RemoteQuestions
from sa2va_serve.client.remote_grounding import RemoteGrounding


@dataclass
class RemoteModel:
    """A robot's half and its link.

    Attributes:
        fallback: folder of the model that answers while the link is lost; its mask decoder must be the same; "" = none.
    """

    half: SegmentationHalf
    config: RemoteConfig
    fallback: str = ""
    device: str = "auto"

    @classmethod
    def open(
        cls,
        folder: str | Path | None,
        config: RemoteConfig,
        *,
        device: str = "auto",
        adapter: str = "",
        fallback: str = "",
    ) -> RemoteModel:
        """Load SAM-2 of a checkpoint, with what an adapter changes in it.

        Raises:
            InputError: as `load_half` and `load_decoder`.
        """
        made = cls(load_half(folder, device), config, fallback, device)
        made.use_adapter(adapter)
        return made

    def use_adapter(self, folder: str) -> None:
        """Put another adapter in, or none (""): its part of SAM-2 here, and its name to the server.

        Raises:
            InputError: as `load_decoder`; there is none then.
        """
        unload_decoder(self.half)
        self.config = replace(self.config, adapter="")
        if folder:
            self.config = replace(self.config, adapter=load_decoder(self.half, folder).name)

    def grounding(self, *, background: bool = True) -> RemoteGrounding:
        """Whoever answers the live tracker's questions."""
        return RemoteGrounding(
            self.config,
            decoder_fingerprint(self.half),
            self.half.device,
            background=background,
            fallback=self._on_board if self.fallback else None,
        )

    def questions(self) -> RemoteQuestions:
        """Whoever answers questions about the scene."""
        return RemoteQuestions(self.config, self.half)

    def _on_board(self) -> GroundingService:
        model = load_model(self.fallback, self.device)
        its, own = decoder_fingerprint(model), decoder_fingerprint(self.half)
        if its != own:
            raise InputError(
                f"fallback_model {self.fallback}: its embeddings are for mask decoder {its}, the one on board is {own}"
            )
        return GroundingWorker(model, background=True)
