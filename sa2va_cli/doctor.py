# SPDX-License-Identifier: Apache-2.0
"""`sa2va doctor`: what is installed, what is missing, and the command that installs it.

Works when nearly everything is missing: every check imports what it needs itself and reports instead of failing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sa2va_cli.backend import add_provider, provider_options
from sa2va_model.errors import InputError

NAME = "doctor"
HELP = "Say what is installed, which device, which ROS, which model; what is missing and the command that installs it."
EXAMPLES = """examples:
  sa2va doctor
  sa2va doctor tiny_onnx --provider cuda        which operators of exported graphs run where
  sa2va doctor --model checkpoints/Sa2VA-1B --json doctor.json"""

HALF_APART = (
    3e-2  # a provider that computes in float16, from the CPU; relative to the largest value
)
PIP = "pip install -e ."
SAM2 = "SAM2_BUILD_CUDA=0 pip install --no-deps --no-build-isolation sam2==1.1.0"
MESSAGES = "make setup, then: source install/setup.bash"

# Import name -> (name for pip, the command that installs it).
PACKAGES = {
    "torch": ("torch", PIP),
    "transformers": ("transformers", PIP),
    "sam2": ("sam2", SAM2),
    "numpy": ("numpy", PIP),
    "cv2": ("opencv-python-headless", PIP),
    "PIL": ("pillow", PIP),
    "safetensors": ("safetensors", PIP),
    "av": ("av", PIP),
    "rosbags": ("rosbags", PIP),
}
# What only some distributions have, and what is lost without it.
ROS_EXTRAS = {
    "launch_ros": "without it: no ros2 launch; python -m sa2va_ros.tracker_node starts the node",
    "tf2_ros": "without it: results in the camera's frame only",
    "vision_msgs": "without it: no Detection2DArray and Detection3DArray",
    "cv_bridge.boost.cv_bridge_boost": "without it: the node reads images itself",
    "message_filters": "without it: consumers pair topics themselves",
    "diagnostic_updater": "without it: the node publishes /diagnostics itself",
}
DRAW = (
    "from sa2va_sim.gl import load_mujoco\n"
    "mujoco = load_mujoco()\n"
    "model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size=\"1\"/></worldbody></mujoco>')\n"
    "with mujoco.Renderer(model, 32, 32) as renderer:\n"
    "    renderer.update_scene(mujoco.MjData(model))\n"
    "    renderer.render()\n"
    "import os\n"
    "print(mujoco.__version__, 'draws with', os.environ.get('MUJOCO_GL', 'its default'))\n"
)


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        state: "ok", "missing" (something does not work without it) or "absent" (an optional thing).
        text: what was found, or what is lost.
        cure: the command that installs it.
    """

    name: str
    state: str
    text: str
    cure: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Beside the common options (--model is looked at, --json writes the report) a folder of graphs."""
    parser.add_argument(
        "graphs",
        nargs="?",
        metavar="DIR",
        help="folder that sa2va export has written: only it is examined",
    )
    add_provider(parser)


def run(args: argparse.Namespace) -> int:
    """Examine and print; the exit status is 1 if something is missing."""
    sections = SECTIONS if args.graphs is None else {f"Graphs in {args.graphs}": check_graphs}
    report = {title: list(check(args)) for title, check in sections.items()}
    for title, findings in report.items():
        print(title)
        for finding in findings:
            mark = {"ok": " ok     ", "missing": " MISSING", "absent": " -      "}[finding.state]
            print(f" {mark} {finding.name:<24} {finding.text}")
            if finding.cure:
                print(f"{'':>34} -> {finding.cure}")
    missing = [f.name for findings in report.values() for f in findings if f.state == "missing"]
    print(f"missing: {', '.join(missing)}" if missing else "nothing is missing")
    if args.json:
        _write(args.json, {title: [asdict(f) for f in found] for title, found in report.items()})
    return 1 if missing else 0


def _write(path: str, report: dict[str, list[dict[str, str]]]) -> None:
    try:
        Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}, expected a file that can be written"
        ) from error


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_packages(args: argparse.Namespace) -> Iterator[Check]:
    """Python, this package, and what it imports."""
    yield Check("python", "ok", f"{platform.python_version()} at {sys.executable}")
    folder = Path(__file__).resolve().parent.parent
    yield Check("sa2va_ros", "ok", f"{_version('sa2va_ros')} in {folder}")
    for module, (distribution, cure) in PACKAGES.items():
        try:
            imported = importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            yield Check(distribution, "missing", _reason(error), cure)
        else:
            yield Check(
                distribution, "ok", getattr(imported, "__version__", _version(distribution))
            )


def check_device(args: argparse.Namespace) -> Iterator[Check]:
    """Where the model would compute."""
    yield Check("processor", "ok", f"{os.cpu_count()} cores, {platform.machine()}")
    try:
        import torch
    except (ImportError, OSError):
        yield Check("gpu", "absent", "not known without torch")
        return
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield Check("gpu", "absent", f"none that torch can use (it is built {built})")
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Check(f"cuda:{index}", "ok", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")


def check_model(args: argparse.Namespace) -> Iterator[Check]:
    """The checkpoint folder, without loading it."""
    if args.model:
        folder, cure = Path(args.model), "give the folder of a Sa2VA checkpoint with --model"
    else:
        import sa2va_model

        folder = Path(sa2va_model.__file__).parent / "weights" / "tiny"
        cure = "install again; the weights are part of the package"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        text = f"{folder}/config.json: {getattr(error, 'strerror', None) or _reason(error)}"
        yield Check("model", "missing", text, cure)
        return
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        yield Check("model", "missing", f"{folder}: no *.safetensors file", cure)
        return
    size = sum(path.stat().st_size for path in weights) / 1e6
    kind = config.get("model_type", "?") if isinstance(config, dict) else "?"
    yield Check("model", "ok", f"{folder} ({kind}, {size:.1f} MB of weights)")


def check_ros(args: argparse.Namespace) -> Iterator[Check]:
    """rclpy, its middleware, and our messages."""
    distribution = os.environ.get("ROS_DISTRO")
    cure = "make setup (ROS 2 Jazzy wheels), or source a ROS 2 distribution"
    try:
        import rclpy

        middleware = rclpy.get_rmw_implementation_identifier()
    except (ImportError, OSError, RuntimeError) as error:
        yield Check("rclpy", "missing", _reason(error), cure)
        return
    origin = f"ROS 2 {distribution}" if distribution else f"wheel {_version('ros-jazzy-rclpy')}"
    yield Check("rclpy", "ok", f"{origin}, {middleware}")
    try:
        messages = importlib.import_module("sa2va_ros.msg")
        # The import alone does not load the compiled part.
        messages.TrackArray.__class__.__import_type_support__()
    # The generators have an exception class of their own for libraries that do not load.
    except Exception as error:  # noqa: BLE001
        yield Check("sa2va_ros.msg", "missing", _reason(error), MESSAGES)
    else:
        where = Path(str(messages.__file__)).parent
        compiled = messages.TrackArray.__class__._TYPE_SUPPORT is not None
        text = str(where) if compiled else f"{where}: its libraries do not load"
        yield Check(
            "sa2va_ros.msg", "ok" if compiled else "missing", text, "" if compiled else MESSAGES
        )
    for module, loss in ROS_EXTRAS.items():
        try:
            importlib.import_module(module)
        except (
            ImportError,
            OSError,
            AttributeError,
            SystemError,
        ):  # the last two: for another NumPy
            yield Check(module, "absent", loss)
        else:
            yield Check(module, "ok", "")


def check_video(args: argparse.Namespace) -> Iterator[Check]:
    """The encoder of our videos."""
    try:
        import av

        encoder = av.codec.Codec("libx264", "w").long_name
    except ImportError:
        yield Check("H.264 encoder", "missing", "av is missing", PIP)
    except (ValueError, LookupError) as error:
        yield Check("H.264 encoder", "missing", _reason(error), "pip install --force-reinstall av")
    else:
        yield Check("H.264 encoder", "ok", encoder)


def check_simulator(args: argparse.Namespace) -> Iterator[Check]:
    """MuJoCo drawing without a screen; in a process of its own, because a bad driver may abort."""
    command = [sys.executable, "-c", DRAW]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        yield Check(
            "mujoco", "missing", "drawing 32 x 32 pixels took over a minute", "MUJOCO_GL=osmesa"
        )
        return
    if done.returncode == 0:
        yield Check("mujoco", "ok", done.stdout.strip())
        return
    lines = done.stderr.strip().splitlines()
    reason = lines[-1] if lines else f"ended with status {done.returncode}"
    cure = f"{PIP[:-1]}'.[sim]'" if "No module named" in reason else "tools/system_packages.sh"
    yield Check("mujoco", "missing", reason, cure)


def check_graphs(args: argparse.Namespace) -> Iterator[Check]:
    """Which operators of each graph run on which provider."""
    from sa2va_model.segmentation.backends.onnx import providers
    from sa2va_model.segmentation.backends.onnx.comparison import difference
    from sa2va_model.segmentation.backends.onnx.manifest import read_manifest
    from sa2va_model.segmentation.backends.onnx.shapes import limits_of, profile_of

    folder, wanted = Path(args.graphs), provider_options(args)
    manifest = read_manifest(folder)
    name = providers.pick_provider(wanted.provider)
    runtime = providers.runtime()
    yield Check("onnxruntime", "ok", f"{runtime.__version__}, provider {name}")
    kind = "float16 inside" if manifest.half else "float32"
    quantised = f", int8: {', '.join(manifest.quantised)}" if manifest.quantised else ""
    yield Check("source", "ok", f"{manifest.source}, opset {manifest.opset}, {kind}{quantised}")
    graphs = [(g, limits_of(e.config)) for e in manifest.segmenters for g in e.graphs.values()]
    graphs += [(manifest.vision.graph, {})] if manifest.vision else []
    open_ = replace(wanted, provider=name, fallback=True)
    for graph, limits in graphs:
        session = providers.open_session(folder / graph.file, open_, profile_of(graph, limits))
        placed = providers.placements(session)
        counts = {where: sum(nodes.values()) for where, nodes in placed.items()}
        text = ", ".join(f"{count} nodes on {where}" for where, count in counts.items())
        elsewhere = [where for where in counts if where != name]
        worst = " ".join(
            f"({', '.join(kind for kind, _ in placed[where].most_common(4))} on {where})"
            for where in elsewhere
        )
        state = "missing" if elsewhere and not wanted.fallback else "ok"
        text = text or "placement not told by this onnxruntime"
        text = f"{text}; {graph.difference:.0e} from PyTorch {worst}".strip()
        if name != "cpu":
            plain = providers.open_session(
                folder / graph.file, providers.ProviderOptions("cpu"), {}
            )
            apart = difference(graph, session, plain)
            allowed = HALF_APART if wanted.half else graph.tolerance
            state = state if apart <= allowed else "missing"
            text += f"; {apart:.0e} from the CPU{'' if apart <= allowed else f', {allowed:.0e} expected'}"
        yield Check(graph.file, state, text)


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Check]]] = {
    "Packages": check_packages,
    "Device": check_device,
    "Model": check_model,
    "ROS 2": check_ros,
    "Video": check_video,
    "Simulator": check_simulator,
}
