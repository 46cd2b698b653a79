# SPDX-License-Identifier: Apache-2.0
"""Makes a CPU build of PyTorch believe in two CUDA devices. A plugin of pytest (`-p stand_in`): it comes before torch.

What stays as it was: there is no memory of a device and no kernel, see `emulated_cuda`.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DEVICES = 2
_HERE = Path(__file__).parent


def _load_the_accelerator() -> None:
    """Compiles and loads `accelerator.cpp`; PyTorch asks for the hooks once, when it is imported."""
    found = find_spec("torch")
    assert found is not None
    assert found.origin is not None
    root, made = Path(found.origin).parent, f"{tempfile.mkdtemp()}/accelerator.so"
    flags = [f"-I{root}/include", f"-I{root}/include/torch/csrc/api/include", f"-L{root}/lib"]
    source = str(_HERE / "accelerator.cpp")
    command = ["g++", "-std=c++20", "-shared", "-fPIC", *flags, source, "-lc10", "-ltorch_cpu"]
    subprocess.run([*command, "-o", made], check=True)
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(f"{root}/lib/{name}", ctypes.RTLD_GLOBAL)
    ctypes.CDLL(made)


_load_the_accelerator()

import torch  # noqa: E402


class _Current(threading.local):
    """Each thread's current device."""

    index = 0


_CURRENT = _Current()


def current_device() -> int:
    """As torch's."""
    return _CURRENT.index


@contextmanager
def device(wanted: Any) -> Iterator[None]:
    """As torch's."""
    before = _CURRENT.index
    set_device(wanted)
    try:
        yield
    finally:
        _CURRENT.index = before


def set_device(wanted: Any) -> None:
    """As torch's."""
    index = wanted if isinstance(wanted, int) else torch.device(wanted).index
    _CURRENT.index = _CURRENT.index if index is None else index


class Quiet:
    """In place of streams and events: whatever is asked of it, it does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@contextmanager
def stream(_: Any) -> Iterator[None]:
    """As torch's."""
    yield


def _pinned(tensor: Any) -> Any:
    """Pinned memory is the same memory, and known as such: uploads of it are not waited for."""
    tensor.pinned = True
    return tensor


def _on_host(data: Any) -> Any:
    """Numbers among the elements of a list are read back, as torch does."""
    if isinstance(data, list | tuple):
        return [_on_host(item) for item in data]
    return data.item() if isinstance(data, torch.Tensor) and not data.ndim else data


def _install() -> None:
    cuda: Any = torch.cuda
    for name, value in {
        **{name: (lambda *_: True) for name in ("is_available", "is_initialized")},
        **{name: (lambda *_: None) for name in ("_lazy_init", "synchronize", "empty_cache")},
        **{name: (lambda *_: 0) for name in ("memory_allocated", "max_memory_allocated")},
        **{name: (lambda *_: Quiet()) for name in ("current_stream", "default_stream")},
        **{thing.__name__: thing for thing in (current_device, device, set_device, stream)},
        **{"Stream": Quiet, "Event": Quiet},
        "device_count": lambda: DEVICES,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda *_, **__: True,
        "graph_pool_handle": lambda: (0, 1),
    }.items():
        setattr(cuda, name, value)
    torch.Tensor.pin_memory = _pinned  # type: ignore[method-assign, assignment]
    # What bitsandbytes asks for when it is imported.
    torch._C._cuda_getCurrentRawStream = lambda device: 0  # type: ignore[attr-defined]
    torch._C._set_only_lift_cpu_tensors(True)  # or torch.tensor(…, device="cuda") asks for a GPU
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    plain: Any = torch.tensor
    torch.tensor = lambda data, **options: plain(_on_host(data), **options)
    mode: Any = torch.inference_mode
    # Subclasses cannot be views in inference mode; for these rules no_grad is the same.
    mode.__enter__ = lambda self: setattr(self, "plain", torch.no_grad()) or self.plain.__enter__()
    mode.__exit__ = lambda self, *error: self.plain.__exit__(*error)


_install()
