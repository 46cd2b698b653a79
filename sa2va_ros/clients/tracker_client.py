# SPDX-License-Identifier: Apache-2.0
"""The tracker as its users see it: find what a sentence means, ask for its points, watch it, let it go.

For nodes that act on what is tracked (`picker`, `follower`). Calls block and belong on a thread of the
user's own; the executor that spins the node must be another one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile, ReliabilityPolicy

from sa2va_ros.action import TrackExpression
from sa2va_ros.messages.clouds import box_from_pose
from sa2va_ros.messages.images import nanoseconds
from sa2va_ros.msg import Track, TrackArray
from sa2va_ros.space.oriented_box import Box
from sa2va_ros.srv import GetTrackCloud, RemoveTrack
from sa2va_ros.support.deadline import Deadline
from sa2va_ros.support.deferred import REQUESTS

if TYPE_CHECKING:
    from rclpy.node import Node

KEPT = 100  # newest images whose tracks and poses are kept; ten seconds at 10 Hz
STOP_SECONDS = 3.0  # that a tracker has to take a stop
_NEWEST = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class TrackerError(Exception):
    """The tracker did not do what was asked; `code` is one of TrackExpression.Result's, or 0."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Cloud:
    """Points of one object, float64 [N, 3] in metres, and the box around them, in `frame` at `stamp` (nanoseconds)."""

    points: np.ndarray
    frame: str
    stamp: int
    box: Box


@dataclass(frozen=True)
class Sight:
    """One track on one image: when it was taken (nanoseconds), its state (Track.STATE_*), score and value in `mask`."""

    stamp: int
    state: int
    score: float
    mask_value: int = 0


class TrackerClient:
    """Everything a consumer needs of one tracker node.

    Args:
        tracker: name of the tracker's node, for its services and actions.
    """

    def __init__(self, node: Node, tracker: str = "sa2va_tracker") -> None:
        self._node = node
        self._changed = threading.Condition()
        self._sights: dict[str, deque[Sight]] = {}
        self._poses: deque[PoseStamped] = deque(maxlen=KEPT)
        self._action = ActionClient(
            node,
            TrackExpression,
            f"{tracker}/track_expression",
            goal_service_qos_profile=REQUESTS,
            result_service_qos_profile=REQUESTS,
            cancel_service_qos_profile=REQUESTS,
        )
        self._cloud = node.create_client(
            GetTrackCloud, f"{tracker}/get_track_cloud", qos_profile=REQUESTS
        )
        self._remove = node.create_client(
            RemoveTrack, f"{tracker}/remove_track", qos_profile=REQUESTS
        )
        node.create_subscription(TrackArray, "tracks", self._on_tracks, _NEWEST)
        node.create_subscription(PoseStamped, "target_pose", self._on_pose, _NEWEST)

    # --- what is asked for ------------------------------------------------------------------------

    def find(
        self,
        expression: str,
        seconds: float,
        *,
        stop_requested: Callable[[], bool] = lambda: False,
        keep: Callable[[Any], None] | None = None,
    ) -> Track:
        """The track of what a sentence means, once it was found; it goes on being tracked.

        Args:
            seconds: to wait for it.
            stop_requested: whether to give up.
            keep: hears the action's feedback.

        Raises:
            TrackerError: it was not found, with the action's error_code and message.
        """
        if not self._action.wait_for_server(min(seconds, 30.0)):
            raise TrackerError("no tracker offers the action track_expression")
        goal = TrackExpression.Goal(expression=expression, stop_when_found=True)
        goal.continue_after_goal = True
        goal.acquire_timeout = Duration(
            sec=int(seconds), nanosec=int((seconds - int(seconds)) * 1e9)
        )

        def heard(message: Any) -> None:
            if keep is not None:
                keep(message.feedback)

        sent = self._on_executor(
            lambda: self._action.send_goal_async(goal, feedback_callback=heard), stop_requested
        )
        handle = self._wait(sent, 10.0, stop_requested, "an answer to the goal")
        if not handle.accepted:
            raise TrackerError(f"the tracker refused '{expression}'")
        try:
            # The tracker keeps the time; a little more here, for a tracker that does not answer.
            asked = self._on_executor(handle.get_result_async, stop_requested)
            result = self._wait(asked, seconds + 10, stop_requested, "a result").result
        except TrackerError:
            self._on_executor(handle.cancel_goal_async, lambda: True)
            raise
        if result.error_code != TrackExpression.Result.NONE:
            raise TrackerError(result.error_msg or "not found", int(result.error_code))
        return result.track

    def cloud(self, track_id: str, seconds: float = 5.0) -> Cloud:
        """The points of a track on the newest image.

        Raises:
            TrackerError: there are none, with the tracker's reason.
        """
        if not self._cloud.wait_for_service(seconds):
            raise TrackerError("no tracker offers the service get_track_cloud")
        sent = self._cloud.call_async(GetTrackCloud.Request(track_id=track_id))
        answer = self._wait(sent, seconds, lambda: False, "points")
        if not answer.success:
            raise TrackerError(answer.message)
        header = answer.header
        box = box_from_pose(answer.pose, answer.size)
        return Cloud(points_of(answer.cloud), header.frame_id, nanoseconds(header.stamp), box)

    def stop(self, track_id: str = "") -> None:
        """Let a track go ("" = all); says nothing if the tracker does not answer.

        Returns when the tracker has taken it: behind a `find` that follows at once it would stop the new track.
        """
        if self._remove.service_is_ready():
            taken = threading.Event()
            sent = self._remove.call_async(RemoveTrack.Request(track_id=track_id))
            sent.add_done_callback(lambda _: taken.set())
            taken.wait(STOP_SECONDS)  # of the wall: it may be the last thing that a node does

    def _on_executor(self, call: Callable[[], Any], stop_requested: Callable[[], bool]) -> Any:
        """What a call returns that is made on the thread that spins the node.

        rclpy's action client notes a request after it has left; an answer that the spinning thread takes in between is
        thrown away. `stop_requested`: whether to give up; the call is made all the same.

        Raises:
            TrackerError: nobody spins the node.
        """
        executor = self._node.executor
        if executor is None:
            raise TrackerError("nobody spins this node")
        task = executor.create_task(call)
        return (
            None
            if stop_requested()
            else self._wait(task, 10.0, stop_requested, "anything: its own node is busy")
        )

    def _wait(
        self, future: Any, seconds: float, stop_requested: Callable[[], bool], what: str
    ) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        deadline = Deadline(self._node, seconds)
        while not done.wait(0.05):
            if stop_requested():
                raise TrackerError("stopped")
            if deadline.passed:
                raise TrackerError(f"the tracker did not send {what} within {seconds:.0f} s")
        return future.result()

    # --- what is heard ----------------------------------------------------------------------------

    def _on_tracks(self, message: TrackArray) -> None:
        stamp = nanoseconds(message.header.stamp)
        with self._changed:
            alive = {track.id for track in message.tracks}
            for name in [name for name in self._sights if name not in alive]:
                del self._sights[name]
            for track in message.tracks:
                sights = self._sights.setdefault(track.id, deque(maxlen=KEPT))
                sights.append(Sight(stamp, track.state, track.score, track.mask_value))
            self._changed.notify_all()

    def _on_pose(self, message: PoseStamped) -> None:
        with self._changed:
            self._poses.append(message)
            self._changed.notify_all()

    def sights(self, track_id: str) -> list[Sight]:
        """How a track was on the newest images, oldest first."""
        with self._changed:
            return list(self._sights.get(track_id, ()))

    def poses(self, since: int = 0) -> list[PoseStamped]:
        """The newest poses of the target whose stamps are after `since` (nanoseconds), oldest first."""
        with self._changed:
            return [pose for pose in self._poses if nanoseconds(pose.header.stamp) > since]

    def watch(self, track_id: str, images: int, seconds: float, since: int = 0) -> list[Sight]:
        """What becomes of a track on `images` further images taken after `since`; fewer if time runs out."""
        deadline = Deadline(self._node, seconds)
        with self._changed:
            while True:
                kept = self._sights.get(track_id, ())
                found = [sight for sight in kept if sight.stamp > since]
                if len(found) >= images or deadline.passed:
                    return found[:images]
                self._changed.wait(0.05)


def points_of(cloud: Any) -> np.ndarray:
    """x, y, z of a `sensor_msgs/PointCloud2` with float32 fields, float64 [N, 3]; points that are not numbers go."""
    offsets = {field.name: field.offset for field in cloud.fields}
    order = ">" if cloud.is_bigendian else "<"
    kind = np.dtype(
        {
            "names": ["x", "y", "z"],
            "formats": [f"{order}f4"] * 3,
            "offsets": [offsets[name] for name in ("x", "y", "z")],
            "itemsize": cloud.point_step,
        }
    )
    rows = np.frombuffer(bytes(cloud.data), kind)
    points = np.column_stack([rows["x"], rows["y"], rows["z"]]).astype(np.float64)
    return points[np.isfinite(points).all(1)]
