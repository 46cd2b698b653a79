# SPDX-License-Identifier: Apache-2.0
"""One exported graph that is called with tensors. On a GPU nothing leaves it: inputs and outputs are bound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sa2va_model.errors import InputError
from sa2va_model.segmentation.backends.onnx.manifest import GraphEntry
from sa2va_model.segmentation.backends.onnx.providers import (
    ON_GPU,
    ProviderOptions,
    open_session,
    pick_provider,
)
from sa2va_model.segmentation.backends.onnx.shapes import profile_of

TYPES = {torch.float32: "float32", torch.int64: "int64"}


class Graph:
    """A graph and its session.

    Args:
        folder: of the manifest.
        limits: the most of each dimension that varies, by letter (for TensorRT).
    """

    def __init__(
        self, folder: Path, entry: GraphEntry, options: ProviderOptions, limits: dict[str, int]
    ) -> None:
        self._entry = entry
        self.session = open_session(folder / entry.file, options, profile_of(entry, limits))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs; tensors on the CPU or on the GPU that the provider uses, in the manifest's order."""
        if inputs[0].is_cuda:
            return self._on_gpu(inputs)
        given = {
            name: tensor.detach().contiguous().numpy()
            for name, tensor in zip(self._entry.inputs, inputs, strict=True)
        }
        return tuple(torch.from_numpy(out) for out in self.session.run(None, given))

    def _on_gpu(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        binding, device = self.session.io_binding(), inputs[0].device
        sizes: dict[str, int] = {}
        kept = []
        for (name, dims), tensor in zip(self._entry.inputs.items(), inputs, strict=True):
            tensor = tensor.detach().contiguous()
            kept.append(tensor)  # until the run is over
            sizes |= {d: n for d, n in zip(dims, tensor.shape, strict=True) if isinstance(d, str)}
            binding.bind_input(
                name,
                "cuda",
                device.index or 0,
                TYPES[tensor.dtype],
                list(tensor.shape),
                tensor.data_ptr(),
            )
        outputs = []
        for name, dims in self._entry.outputs.items():
            shape = [sizes[d] if isinstance(d, str) else d for d in dims]
            out = torch.empty(shape, device=device)
            binding.bind_output(name, "cuda", device.index or 0, "float32", shape, out.data_ptr())
            outputs.append(out)
        torch.cuda.current_stream(device).synchronize()  # ONNX Runtime has a stream of its own
        self.session.run_with_iobinding(binding)
        return tuple(outputs)


def settled(options: ProviderOptions, device: torch.device) -> ProviderOptions:
    """The options for weights on `device`: tensors stay where the provider computes."""
    name = options.provider
    if name == "auto":
        name = "cuda" if device.type == "cuda" else "cpu"
    if device.type == "cuda" and name not in ON_GPU:
        raise InputError(
            f"provider is {name!r} but the model is on {device}; expected cuda or tensorrt, or --device cpu"
        )
    threads = options.threads or (torch.get_num_threads() if device.type == "cpu" else 0)
    return replace(options, provider=pick_provider(name), threads=threads, device=device.index or 0)
