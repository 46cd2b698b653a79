# SPDX-License-Identifier: Apache-2.0
"""The parameters of the tracker node: one table, from which declarations, checks and descriptions
come.

Topic names are no parameters (remap them at launch). Read-only ones are fixed when the node starts;
the others may be set while it runs, and a bad value is refused with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sa2va_model.segmentation.backends.onnx.providers import CHOICES, ProviderOptions
from sa2va_ros.node import tracking_parameters
from sa2va_ros.node.backend_choice import BACKENDS, BackendChoice
from sa2va_ros.node.model_session import DTYPES
from sa2va_ros.node.tracking_parameters import live_config
from sa2va_ros.support import parameter
from sa2va_ros.support.parameter import Parameter
from sa2va_serve.client.config import RemoteConfig, parse_grounder

if TYPE_CHECKING:
    from rclpy.node import Node

__all__ = ["TABLE", "Parameter", "chosen_backend", "declare", "live_config", "remote_config"]

MODEL: tuple[Parameter, ...] = (
    Parameter(
        "model",
        "",
        "Folder of the model: ours or an official Sa2VA checkpoint; empty = the tiny one that ships. "
        "A hub name (owner/name) is downloaded; nothing else is.",
    ),
    Parameter("adapter", "", "Folder of a fine-tuned adapter to load on the model; empty = none."),
    Parameter("device", "auto", "Where the model runs: auto, cpu, cuda or cuda:N."),
    Parameter(
        "dtype",
        "auto",
        "Number format of the weights; auto = float32 on a CPU, bfloat16 on CUDA.",
        choices=DTYPES,
    ),
    Parameter(
        "threads",
        0,
        "CPU threads of the model; 0 = one for a small model, else as many as torch chooses.",
        span=(0, 256),
    ),
    *tracking_parameters.FIXED,
    Parameter(
        "backend",
        "torch",
        "Who computes SAM-2: torch, or onnx = ONNX Runtime with the graphs of `onnx`.",
        choices=BACKENDS,
    ),
    Parameter("onnx", "", "Folder that `sa2va export` has written from the same model."),
    Parameter(
        "provider",
        "auto",
        "Of ONNX Runtime; auto = cuda where the model is on CUDA, else cpu.",
        choices=CHOICES,
    ),
    Parameter(
        "provider_fallback",
        False,
        "Operators that the provider lacks may run elsewhere; false = the node refuses to configure.",
    ),
    Parameter(
        "engine_cache", "", "Folder in which TensorRT keeps its engines; empty = beside the graphs."
    ),
    Parameter("engine_float16", False, "TensorRT may compute in float16 (graphs in float32)."),
    Parameter(
        "answer_tokens",
        0,
        "Longest answer to a question, in tokens; 0 = as the model's configuration says.",
        span=(0, 8192),
    ),
    Parameter(
        "history_turns",
        4,
        "Questions and answers that are kept for goals with use_history.",
        span=(0, 32),
    ),
)
GROUNDER: tuple[Parameter, ...] = (
    Parameter(
        "grounder",
        "local",
        "Where sentences are understood: local, or a server of `sa2va serve` (grpc://host:port; grpcs:// with TLS). "
        "With a server only SAM-2 of the model is loaded.",
    ),
    Parameter(
        "grounder_token",
        "",
        "File whose first line is the robot's token for the server; empty = none.",
    ),
    Parameter(
        "grounder_ca",
        "",
        "PEM file of the authority that vouches for the server; empty = the system's.",
    ),
    Parameter("robot_id", "", "What the server knows the robot as; empty = the machine's name."),
    Parameter(
        "keyframe_encoding",
        "jpeg",
        "How images go to the server: jpeg, a tenth of the bytes; png, exact.",
        choices=("jpeg", "png"),
    ),
    Parameter(
        "grounder_deadline",
        15.0,
        "Seconds that an answer of the server may take.",
        span=(0.1, 600.0),
    ),
    Parameter(
        "fallback_model",
        "",
        "Folder of a whole model that answers while the server is not reached, with the same mask decoder; empty = "
        "sentences wait.",
    ),
)
START: tuple[Parameter, ...] = (
    Parameter(
        "image_transport",
        "raw",
        "raw: subscribe `image` (sensor_msgs/Image); compressed: `image/compressed`.",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "depth_transport",
        "raw",
        "raw: subscribe `depth` (sensor_msgs/Image); compressed: `depth/compressed` (16-bit PNG); compressedDepth: "
        "`depth/compressedDepth` (PNG or RVL).",
        choices=("raw", "compressed", "compressedDepth"),
    ),
    Parameter(
        "classes",
        "",
        "Words with fixed numbers, YAML or JSON: `class_mask` has them as pixels; empty = there is no such topic.",
    ),
    Parameter(
        "objects",
        "",
        "Folder of saved objects (`~/save_object`); empty = sa2va_objects in ~/.ros or $ROS_HOME.",
    ),
    Parameter(
        "default_expression",
        "",
        "Expression that is tracked from the first image on; empty = wait for a command.",
    ),
    Parameter(
        "autostart",
        True,
        "Configure and activate at start; false = wait for lifecycle transitions.",
    ),
    Parameter(
        "bond",
        False,
        "Form a bond with Nav2's lifecycle manager while active (bondpy); false = give it `bond_timeout: 0.0`.",
    ),
    Parameter("status_period", 1.0, "Seconds between two messages on ~/status.", span=(0.05, 60.0)),
    Parameter(
        "target_frame",
        "",
        "TF frame of 3D results, looked up at the image's stamp; empty = the camera's. Needs tf2_ros.",
    ),
    Parameter(
        "tf_timeout",
        0.05,
        "Seconds to wait for the transform of an image's stamp.",
        span=(0.0, 5.0),
    ),
)
RUNNING: tuple[Parameter, ...] = (
    Parameter(
        "max_age",
        0.0,
        "Images older than this many seconds are not processed; 0 = any age. Needs a camera with the node's clock.",
        span=(0.0, 3600.0),
        dynamic=True,
    ),
    Parameter(
        "rate_limit",
        0.0,
        "Most images per second that are processed; 0 = as many as the model manages.",
        span=(0.0, 1000.0),
        dynamic=True,
    ),
    Parameter(
        "lazy",
        False,
        "Process no images while nobody listens to a result and no goal is in work; tracks stand still then.",
        dynamic=True,
    ),
    Parameter(
        "acquire_timeout",
        30.0,
        "Seconds in which a TrackExpression goal that does not say must see its object, at first and after a loss.",
        span=(0.1, 3600.0),
        dynamic=True,
    ),
    Parameter(
        "image_timeout",
        2.0,
        "Seconds without an image after which diagnostics warn.",
        span=(0.1, 3600.0),
        dynamic=True,
    ),
    Parameter(
        "latency_warning",
        0.0,
        "Diagnostics warn when the 95th percentile of the latency is above so many seconds; 0 = never.",
        span=(0.0, 3600.0),
        dynamic=True,
    ),
    Parameter("publish_mask", True, "Publish the label image on `mask`.", dynamic=True),
    Parameter(
        "publish_overlay",
        True,
        "Draw the masks on the image for `overlay`, while someone subscribes.",
        dynamic=True,
    ),
    Parameter(
        "publish_masks_in_tracks",
        False,
        "Put each mask as a PNG crop into its Track.",
        dynamic=True,
    ),
    Parameter(
        "publish_markers", True, "Publish `markers`, while someone subscribes.", dynamic=True
    ),
    Parameter(
        "publish_cloud", True, "Publish `target_points`, while someone subscribes.", dynamic=True
    ),
    Parameter(
        "publish_track_poses",
        False,
        "Publish the pose of each track, with covariance, on `tracks/<id>/pose`.",
        dynamic=True,
    ),
    Parameter(
        "target",
        "",
        "Id or expression of the target, also before it is tracked; empty = the first one seen, or as chosen since.",
        dynamic=True,
    ),
    Parameter(
        "publish_tf",
        False,
        "Publish a TF frame for each object in space. Needs tf2_ros.",
        dynamic=True,
    ),
    Parameter(
        "tf_predict",
        False,
        "With publish_tf also frames `<id>_predicted` for now, while the object is seen: for lookups at now.",
        dynamic=True,
    ),
)
SPACE: tuple[Parameter, ...] = (
    Parameter("use_depth", True, "Use `depth` and `camera_info` where they arrive.", dynamic=True),
    Parameter(
        "rectified",
        False,
        "The images are rectified (image_rect): `p` of camera_info holds, without distortion, and not `k` and `d`.",
        dynamic=True,
    ),
    Parameter(
        "sync_slop",
        0.005,
        "Seconds by which the stamps of an image and its depth may differ; at most half a period.",
        span=(0.0, 1.0),
        dynamic=True,
    ),
    Parameter(
        "depth_wait",
        0.1,
        "Seconds to wait at most for a depth image on its way, while depth flows and has not passed the image; "
        "mask and overlay do not wait.",
        span=(0.0, 1.0),
        dynamic=True,
    ),
    Parameter(
        "depth_scale",
        0.0,
        "Metres for one unit of depth, where a camera departs from REP 118: 0.0001 for a D405 in tenths of "
        "millimetres; 0 = by the encoding (16UC1 and mono16 millimetres, 32FC1 metres).",
        span=(0.0, 10.0),
        dynamic=True,
    ),
    Parameter(
        "depth_min", 0.1, "Metres; nearer depth is not used.", span=(0.0, 100.0), dynamic=True
    ),
    Parameter(
        "depth_max", 10.0, "Metres; farther depth is not used.", span=(0.0, 1000.0), dynamic=True
    ),
    Parameter(
        "cloud_erode",
        2,
        "Pixels taken off a mask's edge before its depth is used.",
        span=(0, 50),
        dynamic=True,
    ),
    Parameter(
        "cloud_voxel",
        0.004,
        "Metres; clouds have one point for each cube of this size; 0 = all points.",
        span=(0.0, 1.0),
        dynamic=True,
    ),
    Parameter(
        "cloud_outlier",
        7.0,
        "Points farther from the middle than so many robust standard deviations are dropped; 0 = none.",
        span=(0.0, 100.0),
        dynamic=True,
    ),
    Parameter(
        "cloud_max_points", 20000, "Most points of a cloud.", span=(12, 1000000), dynamic=True
    ),
    Parameter(
        "pose_method",
        "centroid",
        "Position of target_pose: centroid of the visible surface, or the middle of the box around it.",
        choices=("centroid", "box"),
        dynamic=True,
    ),
)
TABLE = (*MODEL, *GROUNDER, *START, *RUNNING, *tracking_parameters.DYNAMIC, *SPACE)
ORDERED = (
    ("depth_min", "depth_max"),
    ("search_period", "search_limit"),
)  # the first is the smaller


def remote_config(value: Callable[[str], Any]) -> RemoteConfig | None:
    """The link to the server that understands sentences, None if the model on board does.

    Raises:
        InputError: no such address or file.
    """
    found = parse_grounder(value("grounder"))
    if found is None:
        return None
    address, tls = found
    return RemoteConfig(
        address,
        tls=tls,
        authority=value("grounder_ca"),
        token=value("grounder_token"),
        robot_id=value("robot_id"),
        encoding=value("keyframe_encoding"),
        deadline=value("grounder_deadline"),
    )


def declare(node: Node, table: Iterable[Parameter] = TABLE) -> None:
    """Declare a table on a node and let it refuse bad values while it runs.

    Raises:
        InputError: a value given at start is not allowed.
    """
    parameter.declare(node, table, ORDERED)


def chosen_backend(value: Callable[[str], Any]) -> BackendChoice:
    """Who computes SAM-2; `value` tells a parameter."""
    options = ProviderOptions(
        value("provider"),
        half=value("engine_float16"),
        cache=value("engine_cache"),
        fallback=value("provider_fallback"),
    )
    return BackendChoice(value("backend"), value("onnx"), options)
