# SPDX-License-Identifier: Apache-2.0
"""Who runs the graphs: ONNX Runtime's providers by the names that users give, and what they are told.

Needs neither torch nor an accelerator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sa2va_model.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
CHOICES = ("auto", *NAMES)
PACKAGES = {
    "cpu": "pip install 'sa2va_ros[onnx]'",
    "cuda": "pip install 'sa2va_ros[onnx-gpu]'",
    "tensorrt": "pip install 'sa2va_ros[onnx-gpu]' and TensorRT",
    "openvino": "pip install onnxruntime-openvino",
}
ON_GPU = ("cuda", "tensorrt")


@dataclass(frozen=True)
class ProviderOptions:
    """Who runs the graphs and how.

    Attributes:
        provider: one of `CHOICES`; auto = CUDA where ONNX Runtime has it, else the CPU.
        device: index of the GPU.
        threads: of the CPU; 0 = ONNX Runtime's own choice.
        half: TensorRT may compute in float16.
        cache: folder in which TensorRT keeps its engines; "" = beside the graphs.
        fallback: operators that the provider lacks may run elsewhere.
    """

    provider: str = "auto"
    device: int = 0
    threads: int = 0
    half: bool = False
    cache: str = ""
    fallback: bool = False

    def __post_init__(self) -> None:
        if self.provider not in CHOICES:
            raise InputError(f"provider is {self.provider!r}; expected one of {', '.join(CHOICES)}")


def runtime() -> ModuleType:
    """ONNX Runtime.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"onnxruntime is not installed: {PACKAGES['cpu']}") from error
    return onnxruntime


def pick_provider(name: str) -> str:
    """The provider that a name means here.

    Raises:
        InputError: ONNX Runtime has none of that name.
    """
    there = runtime().get_available_providers()
    if name == "auto":
        return "cuda" if NAMES["cuda"] in there else "cpu"
    if NAMES[name] not in there:
        known = ", ".join(short for short, long in NAMES.items() if long in there)
        raise InputError(
            f"provider {name!r} is not in this onnxruntime (it has {known}); {PACKAGES[name]}"
        )
    return name


def open_session(
    file: Path, options: ProviderOptions, profile: Mapping[str, tuple[str, str, str]]
) -> InferenceSession:
    """A session on one graph, all of whose nodes run where they should.

    Args:
        profile: for each input with dimensions that vary the least, usual and largest shape, "1x2x3" each (TensorRT).

    Raises:
        InputError: the provider is not there or does not start, the file is no graph that ONNX Runtime reads, or nodes
            fell to another provider and `fallback` is off.
    """
    ort, name = runtime(), pick_provider(options.provider)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if options.threads:
        settings.intra_op_num_threads = options.threads
    try:
        session: InferenceSession = ort.InferenceSession(
            str(file), settings, providers=_providers(name, file, options, profile)
        )
    except Exception as error:
        raise InputError(f"{file}: ONNX Runtime cannot open it ({_one_line(error)})") from error
    if NAMES[name] not in session.get_providers():
        raise InputError(
            f"provider {name!r} did not start, ONNX Runtime fell back to "
            f"{', '.join(session.get_providers())}; {PACKAGES[name]}"
        )
    elsewhere = {k: v for k, v in placements(session).items() if k != name}
    if elsewhere and not options.fallback:
        told = ", ".join(f"{sum(v.values())} on {k} ({_kinds(v)})" for k, v in elsewhere.items())
        raise InputError(
            f"{file}: not all nodes run on {name}: {told}; allow it with provider fallback"
        )
    return session


def placements(session: InferenceSession) -> dict[str, Counter[str]]:
    """Which operators run on which provider, by our names; empty where ONNX Runtime does not tell."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:
        return {}
    short = {long: name for name, long in NAMES.items()}
    found: dict[str, Counter[str]] = {}
    for part in ask():
        name = short.get(part.ep_name, part.ep_name)
        found.setdefault(name, Counter()).update(node.op_type for node in part.get_nodes())
    return found


def _kinds(nodes: Counter[str]) -> str:
    return ", ".join(kind for kind, _ in nodes.most_common(3))


def _providers(
    name: str, file: Path, options: ProviderOptions, profile: Mapping[str, tuple[str, str, str]]
) -> list[Any]:
    """What `InferenceSession` is given."""
    gpu = {"device_id": options.device}
    if name == "cpu":
        return [NAMES[name]]
    if name == "openvino":
        return [(NAMES[name], {"device_type": "CPU"}), NAMES["cpu"]]
    cuda = (NAMES["cuda"], {**gpu, "use_tf32": "0"})
    if name == "cuda":
        return [cuda, NAMES["cpu"]]
    cache = Path(options.cache) if options.cache else file.parent / "tensorrt"
    shapes = {
        f"trt_profile_{kind}_shapes": ",".join(f"{k}:{v[n]}" for k, v in profile.items())
        for n, kind in enumerate(("min", "opt", "max"))
    }
    engine = {
        **gpu,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": options.half,
        **(shapes if profile else {}),
    }
    return [(NAMES[name], engine), cuda, NAMES["cpu"]]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
