# SPDX-License-Identifier: Apache-2.0
"""One camera image on its way through the node: decoded, tracked, put into space, published.

An image is decoded and encoded on a thread of its own while the one before is tracked. The rest, but for `put`, `reset`
and the readers of `latest`, runs on the worker thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sensor_msgs.msg import CompressedImage, Image

from sa2va_model.errors import InputError
from sa2va_model.io.frames import Frame
from sa2va_model.tracks import EventKind, FrameResult, Track
from sa2va_ros.interfaces.classes import Classes
from sa2va_ros.interfaces.target import TargetChoice
from sa2va_ros.messages.images import StampClock
from sa2va_ros.msg import TrackArray
from sa2va_ros.node.frame_worker import FrameWorker
from sa2va_ros.node.latency import Latencies
from sa2va_ros.node.model_session import ModelSession
from sa2va_ros.node.publishing.publishers import OutputOptions, Outputs
from sa2va_ros.node.publishing.publishers_3d import Outputs3D
from sa2va_ros.node.stream import Admitted, ImageStream
from sa2va_ros.space.depth import DepthBuffer, DepthFrame, PinnedDepth
from sa2va_ros.space.localizer import Locator, Place, Scene3D
from sa2va_ros.space.mask_to_object import CloudConfig
from sa2va_ros.space.tf import Frames

if TYPE_CHECKING:
    from rclpy.node import Node

    from sa2va_model.tracking.frame_ring import RingFrame

RESET_SECONDS = 5.0  # how long the image in work may take before a reset is refused
LIVE_PIXELS = 5000  # depth pixels of one object that are looked at on every image


@dataclass(frozen=True)
class Arrived:
    """A camera message, when it came (monotonic seconds), and the depth that belongs to it."""

    message: Image | CompressedImage
    time: float
    depth: PinnedDepth | None


@dataclass(frozen=True)
class Prepared:
    """An image whose turn comes next; `frame` is encoded already where that pays."""

    admitted: Admitted
    frame: Frame | RingFrame


@dataclass(frozen=True)
class Done:
    """One image and what was computed on it, before publishing."""

    admitted: Admitted
    result: FrameResult
    seconds: float  # that the tracker took
    in_space: bool  # somebody wants to know where the objects are


@dataclass(frozen=True)
class PublishedFrame:
    """The newest image that was published, for questions and services.

    Attributes:
        scene: where its objects are; None if nobody asked, or with `problem`.
        problem: why there is no 3D; "" if there is, or nobody asked for it.
    """

    admitted: Admitted
    result: FrameResult
    tracks: TrackArray
    scene: Scene3D | None
    problem: str


@dataclass
class SpaceCounts:
    """Images with a mask on which 3D was wanted, those of them that have it, and why the last one had none."""

    wanted: int = 0
    found: int = 0
    problem: str = ""

    def add(self, problem: str, *, found: bool) -> None:
        """One image more; both numbers change when it is known, so that a reader never sees one alone."""
        self.wanted, self.found = self.wanted + 1, self.found + found
        self.problem = problem or self.problem


class Pipeline:
    """Images in, messages out.

    Args:
        observe: told every published image, on the worker thread.
        busy: whether somebody waits for tracks without listening to a topic (an action).
        forgotten: told when all tracks are, and whether it was because the clock jumped.
    """

    def __init__(
        self,
        node: Node,
        session: ModelSession,
        *,
        observe: Callable[[PublishedFrame], None],
        busy: Callable[[], bool],
        forgotten: Callable[[bool], None] = lambda clock_jumped: None,
    ) -> None:
        self._node, self._session = node, session
        self._observe, self._busy, self._forgotten = observe, busy, forgotten
        self.outputs = Outputs(node, Classes.parse(self._value("classes")))
        self.outputs_3d = Outputs3D(node)
        self.frames = Frames(node, self._value("target_frame"), self._value("tf_timeout"))
        self.depth = DepthBuffer()
        self.target = TargetChoice()
        self.latest: PublishedFrame | None = None
        self.enabled = True
        self.counts_3d = SpaceCounts()
        self._locator = Locator()
        self._stream = ImageStream()
        self._ahead = threading.Lock()  # held while an image is encoded ahead
        self._step = threading.Lock()  # held while the tracker works on an image
        self._next_allowed = 0.0
        self._failed = (0, "")
        self.worker = self._new_worker()

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    # --- starting, pausing, forgetting ------------------------------------------------------------

    def settle(self, seconds: float) -> None:
        """Wait until no image of before a pause is in work: two threads must not drive one tracker.

        Raises:
            InputError: one still is after so many seconds.
        """
        if not self.worker.stop(seconds):
            raise InputError("the last image before the pause is still in work; expected an end")

    def start(self) -> None:
        """Begin to work on images; counters start at zero.

        Raises:
            InputError: an image of before the pause is still in work.
        """
        self.settle(0.0)
        self.worker = self._new_worker()
        self.worker.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop after the image in work; False if it takes longer than `timeout` seconds."""
        return self.worker.stop(timeout)

    def reset(self, reason: str) -> None:
        """Forget all tracks, between two images; what is commanded afterwards is not forgotten."""
        with self.paused(RESET_SECONDS):
            self._forget_tracks(reason, clock_jumped=False)

    @contextmanager
    def paused(self, seconds: float) -> Iterator[None]:
        """The tracker works on no image while this lasts; the newest one waits.

        Raises:
            InputError: the image in work takes longer than `seconds`.
        """
        with ExitStack() as held:
            for lock in (self._ahead, self._step):
                if not lock.acquire(timeout=seconds):
                    raise InputError(
                        f"an image is in work for over {seconds:g} s; expected it to be done"
                    )
                held.callback(lock.release)
            yield

    def restart(self) -> None:
        """The tracker was changed for another one; the stream goes on."""
        self.latest = None
        self._locator.reset()

    def forget(self) -> None:
        """Forget the stream as well, as when the model is freed."""
        self.latest = None
        self._keep_poses(None)
        self.depth.clear()
        self.counts_3d = SpaceCounts()
        self.outputs.latencies = Latencies()
        self.worker = self._new_worker()
        self._locator.reset()
        self._stream = ImageStream()

    @property
    def clock(self) -> StampClock:
        """Turns a frame's seconds into the stamp of the message that they came from."""
        return self._stream.clock

    def put(self, message: Image | CompressedImage) -> None:
        """Hand over an image from the camera; never blocks."""
        if not self.enabled:
            return
        depth = None
        if self._value("use_depth"):
            depth = self.depth.pin(message.header, self._value("sync_slop"))
        self.worker.put(Arrived(message, time.monotonic(), depth))

    def _new_worker(self) -> FrameWorker[Arrived, Prepared, Done]:
        return FrameWorker(
            self._prepare, self._process, self._publish, self._refuse, wanted=self._wanted
        )

    # --- one image, while the one before is in work ------------------------------------------------

    def _wanted(self) -> bool:
        """Whether an image is worth the work: `rate_limit`, and `lazy` with nobody listening."""
        now = time.monotonic()
        limit = self._value("rate_limit")
        if limit and now < self._next_allowed:
            return False
        if self._value("lazy") and not self._listened():
            return False
        if limit:
            # A camera's images do not come evenly: a little early is in time.
            self._next_allowed = max(self._next_allowed + 1 / limit, now + 0.5 / limit)
        return True

    def _listened(self) -> bool:
        listened = self.outputs.wanted() or self.outputs_3d.wanted()
        asked = self._value("publish_tf") or self._value("publish_track_poses")
        return bool(listened or asked or self._busy())

    def _prepare(self, arrived: Arrived) -> Prepared:
        now = self._node.get_clock().now().nanoseconds
        admitted = self._stream.admit(
            arrived.message, now=now, max_age=self._value("max_age"), depth=arrived.depth
        )
        with self._ahead:
            return Prepared(admitted, self._session.encode_ahead(admitted.frame))

    # --- one image, on the worker thread ----------------------------------------------------------

    def _process(self, arrived: Arrived, prepared: Prepared) -> Done:
        admitted = prepared.admitted
        in_space = arrived.depth is not None and self._listened()
        with self._step:
            if admitted.reset:
                self._forget_tracks(admitted.reset, clock_jumped=True)
            start = time.perf_counter()
            result = self._session.process(prepared.frame)
            return Done(admitted, result, time.perf_counter() - start, in_space)

    def _forget_tracks(self, reason: str, *, clock_jumped: bool) -> None:
        self._node.get_logger().warning(f"tracks are reset: {reason}")
        self._session.need_live().reset(reason)
        self._locator.reset()
        if clock_jumped:
            self.frames.reset()
        self._forgotten(clock_jumped)

    def _publish(self, arrived: Arrived, done: Done) -> None:
        admitted, result = done.admitted, done.result
        options = OutputOptions(
            mask=self._value("publish_mask"),
            overlay=self._value("publish_overlay"),
            masks_in_tracks=self._value("publish_masks_in_tracks"),
        )
        self.outputs.images(admitted, result, options)
        target = self.target.observe(result.tracks, result.events)
        scene, problem = self._in_space(admitted, result) if done.in_space else (None, "")
        tracks = self.outputs.tracks(
            admitted, result, scene, target, clock=self._stream.clock, options=options
        )
        if scene is not None:
            self._publish_space(admitted, result, scene, target)
        self._keep_poses(result)
        self.latest = PublishedFrame(admitted, result, tracks, scene, problem)
        self.outputs.latencies.work(time.monotonic() - arrived.time, done.seconds)
        self._observe(self.latest)
        self._tell(result)

    def _keep_poses(self, result: FrameResult | None) -> None:
        """The pose topics of the tracks there are, also on images without 3D."""
        wanted = result is not None and self._value("publish_track_poses")
        tracks = result.tracks if result is not None and wanted else ()
        self.outputs_3d.keep_poses({track.id for track in tracks})

    def failures(self) -> tuple[int, str]:
        """How often a command failed on an image so far, and why the last time."""
        return self._failed

    def _tell(self, result: FrameResult) -> None:
        for event in result.events:
            if event.kind is EventKind.FAILED:
                self._failed = (self._failed[0] + 1, event.detail)
            words = f"'{event.expression}'" if event.expression else "all tracks"
            detail = f": {event.detail}" if event.detail else ""
            self._node.get_logger().info(f"{event.kind.name} {event.track_id} {words}{detail}")

    def _refuse(self, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self._node.get_logger().warning(f"image not used: {text}", throttle_duration_sec=1.0)

    # --- 3D ---------------------------------------------------------------------------------------

    def depth_of(self, admitted: Admitted, wait: float = 0.0) -> DepthFrame:
        """The depth that belongs to an image; raises InputError with the reason why there is none."""
        if admitted.depth is None:
            raise InputError("parameter use_depth is false; expected true for 3D")
        size = (admitted.frame.rgb.shape[0], admitted.frame.rgb.shape[1])
        return admitted.depth.frame(
            size, wait=wait, rectified=self._value("rectified"), scale=self._value("depth_scale")
        )

    def place(self, admitted: Admitted) -> Place:
        """The frame of 3D results for an image; raises InputError without a transform."""
        return self.frames.place(admitted.header)

    def cloud_config(self) -> CloudConfig:
        """The parameters of clouds."""
        return CloudConfig(
            depth_min=self._value("depth_min"),
            depth_max=self._value("depth_max"),
            erode=self._value("cloud_erode"),
            voxel=self._value("cloud_voxel"),
            outlier=self._value("cloud_outlier"),
            max_points=self._value("cloud_max_points"),
        )

    def _in_space(self, admitted: Admitted, result: FrameResult) -> tuple[Scene3D | None, str]:
        """Where the tracks are, and why one is nowhere; nothing where no track has a mask."""
        if not any(track.mask is not None for track in result.tracks):
            return None, ""
        counts = self.counts_3d
        try:
            depth = self.depth_of(admitted, self._value("depth_wait"))
            place = self.place(admitted)
            config = replace(self.cloud_config(), max_pixels=LIVE_PIXELS)
            scene = self._locator.locate(result, admitted.frame.rgb, depth, place, config)
        except InputError as error:
            counts.add(str(error), found=False)
            if self.depth.received:
                text = f"no 3D: {error}"
                self._node.get_logger().warning(text, throttle_duration_sec=5.0)
            return None, str(error)
        problem = next(iter(scene.problems.values()), "")
        counts.add(problem, found=bool(scene.found))
        return scene, problem

    def _publish_space(
        self, admitted: Admitted, result: FrameResult, scene: Scene3D, target: Track | None
    ) -> None:
        self.outputs_3d.publish(
            admitted.header,
            result,
            scene,
            target,
            centroid=self._value("pose_method") == "centroid",
            markers=self._value("publish_markers"),
            cloud=self._value("publish_cloud"),
            poses=self._value("publish_track_poses"),
            tf=self._value("publish_tf"),
        )
