# SPDX-License-Identifier: Apache-2.0
"""Who computes SAM-2, as the node's parameters say. No ROS, and no torch before it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.onnx.providers import ProviderOptions

if TYPE_CHECKING:
    from sa2va_model.segmentation.backends.registry import Profile

BACKENDS = ("torch", "onnx")


@dataclass(frozen=True)
class BackendChoice:
    """PyTorch, or exported graphs.

    Attributes:
        backend: one of BACKENDS.
        folder: of the graphs; "" with torch.
        options: who runs the graphs.
    """

    backend: str = "torch"
    folder: str = ""
    options: ProviderOptions = field(default_factory=ProviderOptions)

    def profile(self) -> Profile:
        """What `use_profile` takes.

        Raises:
            InputError: backend and folder do not go together, a folder that holds no graphs, no such provider.
        """
        if (self.backend == "onnx") != bool(self.folder):
            raise InputError(
                f"backend is {self.backend!r} and onnx is {self.folder!r}; expected backend onnx with a folder of "
                "sa2va export, or neither"
            )
        if not self.folder:
            return "auto"
        from sa2va_model.segmentation.backends.onnx.backend import onnx_backend

        return onnx_backend(self.folder, self.options)
