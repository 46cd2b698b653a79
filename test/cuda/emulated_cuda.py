# SPDX-License-Identifier: Apache-2.0
"""CUDA without a GPU: tensors that say they are on `cuda:0`, hold real numbers, and keep CUDA's rules.

    with Cuda() as gpu:
        gpu.move(model)                 # every branch for a GPU is taken; nothing is injected
        model.segment(image, "the mug")
    assert not gpu.faults, gpu.report() # `gpu.waits`: where the host waits for the device, and how often

Rules: operands of one kernel are of one type (SAME) and on one device, but for 0-dim CPU scalars in element-wise
kernels and CPU indices; attention whose values are narrower than its keys wants queries with memory of their own;
while a graph is captured nothing may wait, and what it reads must be there when it runs. Forward, backward and
optimizer. Graphs are kept by `graph_tape`, the names in `torch.cuda` by `stand_in`. Not seen: streams, time.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import graph_tape
import stand_in
import torch
import torch.nn.functional as F
from graph_tape import Graph, Memory
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

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


@dataclass(frozen=True)
class Rule:
    """What CUDA asks of a kernel."""

    name: str
    same: bool  # operands of one type
    waits: bool  # for an answer
    moves: bool
    one_device: bool  # numbers on the CPU as well
    indexed: bool  # CPU indices are allowed
    aliases: bool  # its answer may be memory that it was given
    changes: bool  # what it was given


@cache
def rule_of(func: Any) -> Rule:
    """The rule of an operator, by its name and schema."""
    schema, name = func._schema, func._schema.name.split("::")[1]
    returned = [r.alias_info for r in schema.returns if r.alias_info is not None]
    return Rule(
        name=name,
        same=name.startswith(SAME),
        waits=name in WAITS,
        moves=name in MOVES,
        one_device=name.startswith(ONE_DEVICE),
        indexed=name.startswith("index"),
        aliases=bool(returned) or name == "_unsafe_view",
        changes=any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments),
    )


class OnCuda(Tensor):
    """A CPU tensor, `inner`, that passes for one on a CUDA device, in `memory` that views of it share."""

    def __new__(cls, inner: Tensor, index: int = 0, memory: Memory | None = None) -> Any:
        options = {"dtype": inner.dtype, "device": torch.device("cuda", index)}
        out = Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), **options
        )
        out.inner, out.number, out.memory = inner, index, memory or Memory()
        return out

    def __torch_dispatch__(self, *_: Any) -> Any:
        raise RuntimeError("used outside of `with Cuda()`")

    tolist = lambda self: self.cpu().tolist()  # noqa: E731
    record_stream = lambda self, stream: None  # noqa: E731
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Cuda(TorchDispatchMode):
    """See above; `faults` and `waits` are counted by their lines."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # half the time of a small kernel

    def __init__(self) -> None:
        super().__init__()
        self.faults, self.waits = Counter[str](), Counter[str]()
        self._attention = F.scaled_dot_product_attention

    def __enter__(self) -> Any:
        self._freed = Graph.reads_freed
        F.scaled_dot_product_attention = self._attend
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        F.scaled_dot_product_attention = self._attention
        if Graph.reads_freed > self._freed:
            self.faults["replay: a graph reads memory that nobody has any more"] += 1
        return super().__exit__(*error)

    def move(self, module: nn.Module, index: int = 0) -> Any:
        """`module.to("cuda")`; tied weights stay tied."""
        known: dict[int, Any] = {}
        for store in (s for part in module.modules() for s in (part._parameters, part._buffers)):
            for name, old in store.items():
                if old is None or isinstance(old, OnCuda):
                    continue
                made: Any = OnCuda(old.detach(), index)
                if isinstance(old, nn.Parameter):
                    made = nn.Parameter(made, old.requires_grad)
                store[name] = known.setdefault(id(old), (made, old))[0]
        return module

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule, seen = rule_of(func), list[Tensor]()
        plain = _plain(args, seen)
        options = {name: _plain(value, seen) for name, value in (kwargs or {}).items()}
        there: list[Any] = [t for t in seen if isinstance(t, OnCuda)]
        index = there[0].number if there else None
        if options.get("device") is not None:
            wanted, options["device"] = torch.device(options["device"]), torch.device("cpu")
            index = _index(wanted) if wanted.type == "cuda" else None
        if rule.name == "copy_":
            index = getattr(args[0], "number", None)
        if options.pop("pin_memory", False):
            options["pin_memory"] = False
        self._check(rule, args, kwargs or {}, seen, there, index)
        out = func(*plain, **options)
        if index is None:
            return out
        return self._owned(rule, (func, plain, options), out, there, index)

    def _owned(self, rule: Rule, kernel: Any, out: Any, there: list[Any], index: int) -> Any:
        """The kernel's answer on the device; what it was given and gives back stays itself."""
        same = {id(t.inner): t for t in there} if rule.aliases else {}
        places = {_place(t.inner): t.memory for t in there} if rule.aliases else {}
        made: list[Memory] = []

        def own(tensor: Tensor) -> Tensor:
            known = same.get(id(tensor))
            if known is not None:
                return known
            memory = places.get(_place(tensor)) if places else None
            wrapped = OnCuda(tensor, index, memory)
            if memory is None:
                made.append(wrapped.memory)
            return wrapped

        answer = _each(out, own)
        graph = graph_tape.capturing()
        if graph is not None and (made or rule.changes):
            graph.note(kernel, index, [t.memory for t in there], out, made)
        return answer

    def _check(
        self,
        rule: Rule,
        args: Any,
        options: dict[str, Any],
        seen: list[Tensor],
        there: list[Any],
        index: int | None,
    ) -> None:
        name, graph = rule.name, graph_tape.capturing()
        if rule.moves:
            self._check_move(name, args, options, seen[-1], index)
            return
        if not there:
            return
        if rule.same:
            kinds = {str(t.dtype)[6:] for t in seen if t.is_floating_point()}
            if len(kinds) > 1:
                self.faults[f"{name}: {' and '.join(sorted(kinds))} at {_line()}"] += 1
        masked = rule.indexed and any(t.dtype == torch.bool for t in seen[1:2])
        if masked or rule.waits:
            self._wait(name, graph)
        indices = {t.number for t in there}
        if len(indices) > 1:
            where = " and ".join(f"cuda:{n}" for n in sorted(indices))
            self.faults[f"{name}: tensors on {where} at {_line()}"] += 1
        if len(there) < len(seen) and not (rule.indexed and isinstance(args[0], OnCuda)):
            host = (t for t in seen if not isinstance(t, OnCuda))
            if any(t.ndim or rule.one_device for t in host):
                self.faults[f"{name}: tensors on cuda:0 and on cpu at {_line()}"] += 1

    def _check_move(
        self, name: str, args: Any, options: dict[str, Any], source: Any, index: int | None
    ) -> None:
        """Between host and device is waited for, but for an upload of pinned memory."""
        upload = index is not None
        if (
            isinstance(source, OnCuda) == upload
            or (upload and not source.ndim)
            or not source.numel()
        ):
            return
        quick = options.get("non_blocking", name == "copy_" and len(args) > 2 and args[2])
        if not (upload and quick and hasattr(source, "pinned")):
            self._wait(name, graph_tape.capturing())

    def _wait(self, name: str, graph: Graph | None) -> None:
        counted = self.waits if graph is None else self.faults
        counted[f"{name}: waits for the device at {_line()}"] += 1

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """cuDNN gives the answer the query's layout, and refuses it where objects share storage."""
        shared = any(s == 0 and n > 1 for s, n in zip(query.stride(), query.shape, strict=True))
        if isinstance(query, OnCuda) and shared and key.shape[-1] != value.shape[-1]:
            self.faults[f"attention: an expanded query at {_line()}"] += 1
        return self._attention(query, key, value, *args, **kwargs)

    def report(self) -> str:
        """All faults, one a line."""
        return "\n".join(f"{count:5d}  {what}" for what, count in self.faults.most_common())


def _plain(value: Any, seen: list[Tensor]) -> Any:
    """The value with what is behind its tensors, which are added to `seen`."""
    if isinstance(value, Tensor):
        seen.append(value)
        return value.inner if isinstance(value, OnCuda) else value
    if type(value) in (list, tuple):
        return type(value)([_plain(item, seen) for item in value])
    return value


def _each(out: Any, own: Any) -> Any:
    if isinstance(out, Tensor):
        return own(out)
    return type(out)([_each(item, own) for item in out]) if type(out) in (list, tuple) else out


def _index(device: torch.device) -> int:
    return stand_in.current_device() if device.index is None else device.index


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _line() -> str:
    """The innermost line of ours that runs."""
    helpers = (__file__, graph_tape.__file__, stand_in.__file__)
    frame = sys._getframe(1)
    while frame.f_code.co_filename in helpers or "-packages" in frame.f_code.co_filename:
        if frame.f_back is None:
            return "?"
        frame = frame.f_back
    return f"{'/'.join(frame.f_code.co_filename.split('/')[-3:])}:{frame.f_lineno}"
