# SPDX-License-Identifier: Apache-2.0
"""CUDA without a GPU: tensors that say they are on `cuda:0`, hold real numbers, and keep CUDA's rules.

    with Cuda() as gpu:
        gpu.move(model)                 # every branch for a GPU is taken; nothing is injected
        model.segment(image, "the mug")
    assert not gpu.faults, gpu.report() # `gpu.waits`: where the host waits for the device, and how often

Rules: operands of one kernel are of one type (SAME) and on one device, but for 0-dim CPU scalars in element-wise
kernels and CPU indices; attention whose values are narrower than its keys wants queries with memory of their own;
while a graph is captured nothing may wait. Graphs are kept by `graph_tape`. Not seen: streams, freed memory, time.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import graph_tape
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SAME = (
    *("native_layer_norm", "native_group_norm", "native_batch_norm", "_fused_rms_norm", "convolution", "mm", "addmm"),
    *("bmm", "baddbmm", "mv", "dot", "linear", "_scaled_dot_product", "index_put", "index_copy", "index_add", "lerp"),
    *("scatter", "grid_sampler", "embedding_bag"),
)  # fmt: skip
ONE_DEVICE = (
    *("cat", "stack", "mm", "addmm", "bmm", "convolution"),
    *("native_", "index_copy", "scatter", "gather"),
)
WAITS = ("_local_scalar_dense", "nonzero", "equal", "_unique2", "masked_select")
MOVES = ("_to_copy", "copy_")
_GUARD = """#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace { C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>); }"""


@cache
def _allow_the_name() -> None:
    """A CPU build of PyTorch has no device guard for CUDA; two lines of C++ (g++, one second) give it one."""
    root, made = Path(torch.__file__).parent, f"{tempfile.mkdtemp()}/guard.so"
    flags = [f"-I{root}/include", f"-I{root}/include/torch/csrc/api/include", f"-L{root}/lib"]
    command = ["g++", "-std=c++20", "-shared", "-fPIC", "-xc++", "-", *flags, "-lc10", "-o", made]
    subprocess.run(command, input=_GUARD.encode(), check=True)
    ctypes.CDLL(made)
    cuda: Any = torch.cuda
    cuda._lazy_init = lambda: None
    cuda.is_available, cuda.is_initialized, cuda.device_count = (
        (lambda: True),
        (lambda: True),
        (lambda: 1),
    )
    cuda.current_device, cuda.set_device = (lambda: 0), (lambda device: None)
    cuda.get_device_capability = lambda device=None: (9, 0)
    cuda.is_bf16_supported = lambda *_, **__: True
    cuda.memory_allocated = cuda.max_memory_allocated = lambda device=None: 0
    cuda.synchronize = cuda.empty_cache = lambda *_: None
    torch.Tensor.pin_memory = lambda self: self  # type: ignore[method-assign, assignment]
    graph_tape.install(cuda.__dict__.__setitem__)
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # or torch.tensor(…, device="cuda") asks for a real one
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    plain: Any = torch.tensor
    torch.tensor = lambda data, **options: plain(_on_host(data), **options)
    mode: Any = torch.inference_mode
    # Subclasses cannot be views in inference mode; for these rules no_grad is the same.
    mode.__enter__ = lambda self: setattr(self, "plain", torch.no_grad()) or self.plain.__enter__()
    mode.__exit__ = lambda self, *error: self.plain.__exit__(*error)


def _on_host(data: Any) -> Any:
    """Numbers among the elements of a list are read back, as torch does."""
    if isinstance(data, list | tuple):
        return [_on_host(item) for item in data]
    return data.item() if isinstance(data, OnCuda) and not data.ndim else data


class OnCuda(Tensor):
    """A CPU tensor, `inner`, that passes for one on `cuda:0`."""

    def __new__(cls, inner: Tensor) -> Any:
        options = {"dtype": inner.dtype, "device": torch.device("cuda", 0)}
        out = Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), **options
        )
        out.inner = inner
        return out

    def __torch_dispatch__(self, *_: Any) -> Any:
        raise RuntimeError("used outside of `with Cuda()`")

    tolist = lambda self: self.cpu().tolist()  # noqa: E731
    record_stream = lambda self, stream: None  # noqa: E731
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Cuda(TorchDispatchMode):
    """See above; `faults` and `waits` are counted by their lines."""

    def __init__(self) -> None:
        super().__init__()
        _allow_the_name()
        self.faults, self.waits = Counter[str](), Counter[str]()
        self._attention = F.scaled_dot_product_attention

    def __enter__(self) -> Any:
        F.scaled_dot_product_attention = self._attend
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        F.scaled_dot_product_attention = self._attention
        return super().__exit__(*error)

    def move(self, module: nn.Module) -> Any:
        """`module.to("cuda")`; tied weights stay tied."""
        known: dict[int, Any] = {}
        for store in (s for part in module.modules() for s in (part._parameters, part._buffers)):
            for name, old in store.items():
                if old is None or isinstance(old, OnCuda):
                    continue
                made: Any = OnCuda(old.detach())
                if isinstance(old, nn.Parameter):
                    made = nn.Parameter(made, old.requires_grad)
                store[name] = known.setdefault(id(old), (made, old))[0]
        return module

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name.split("::")[1], dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [t for t in tensors if isinstance(t, OnCuda)]
        onto = bool(there)
        if kwargs.get("device") is not None:
            onto = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = torch.device("cpu")
        onto = isinstance(args[0], OnCuda) if name == "copy_" else onto
        self._check(name, args, tensors, there, onto)
        plain = tree_map_only(OnCuda, lambda t: t.inner, (args, kwargs))
        same = {} if name == "_to_copy" else {id(t.inner): t for t in there}  # changed in place

        def own(tensor: Tensor) -> Tensor:
            known = same.get(id(tensor))
            return known if known is not None else OnCuda(tensor) if onto else tensor

        return tree_map_only(Tensor, own, func(*plain[0], **plain[1]))

    def _check(
        self, name: str, args: Any, tensors: list[Tensor], there: list[Any], onto: bool
    ) -> None:
        kinds = {str(t.dtype)[6:] for t in tensors if t.is_floating_point()}
        if there and name.startswith(SAME) and len(kinds) > 1:
            self.faults[f"{name}: {' and '.join(sorted(kinds))} at {_line()}"] += 1
        moved = name in MOVES and any(
            isinstance(t, OnCuda) != onto and t.ndim and t.numel() for t in tensors[-1:]
        )
        indexed = bool(there) and name.startswith("index")
        masked = indexed and any(t.dtype == torch.bool for t in tensors[1:2])
        if moved or masked or (there and name in WAITS):
            counted = self.faults if graph_tape.capturing() else self.waits
            counted[f"{name}: waits for the device at {_line()}"] += 1
        apart = [
            t
            for t in tensors
            if not isinstance(t, OnCuda) and (t.ndim or name.startswith(ONE_DEVICE))
        ]
        if there and apart and name not in MOVES and not (indexed and isinstance(args[0], OnCuda)):
            self.faults[f"{name}: tensors on cuda:0 and on cpu at {_line()}"] += 1

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """cuDNN gives the answer the query's layout, and refuses it where objects share storage."""
        shared = any(s == 0 and n > 1 for s, n in zip(query.stride(), query.shape, strict=True))
        if isinstance(query, OnCuda) and shared and key.shape[-1] != value.shape[-1]:
            self.faults[f"attention: an expanded query at {_line()}"] += 1
        return self._attention(query, key, value, *args, **kwargs)

    def report(self) -> str:
        """All faults, one a line."""
        return "\n".join(f"{count:5d}  {what}" for what, count in self.faults.most_common())


def _line() -> str:
    """The innermost line of ours that runs."""
    helpers, frame = (__file__, graph_tape.__file__), sys._getframe(1)
    while frame.f_code.co_filename in helpers or "-packages" in frame.f_code.co_filename:
        if frame.f_back is None:
            return "?"
        frame = frame.f_back
    return f"{'/'.join(frame.f_code.co_filename.split('/')[-3:])}:{frame.f_lineno}"
