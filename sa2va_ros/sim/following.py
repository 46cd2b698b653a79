# SPDX-License-Identifier: Apache-2.0
"""Nav2's following server for the simulated base: the action FollowObject with the law of `clients/following.py`.

Stands in for opennav_following where that is not installed, so that a behaviour tree can be run against the simulator:
same action, same meaning of goal and result (`max_duration` reached is a success, an object that is not seen for
`detection_timeout` is FAILED_TO_DETECT_OBJECT).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.action.server import ServerGoalHandle

from sa2va_model.errors import InputError
from sa2va_ros.clients.follow_tree import action_types
from sa2va_ros.clients.follower import Follower, FollowResult
from sa2va_ros.clients.following import Follow, TargetFilter, steer
from sa2va_ros.messages.images import nanoseconds
from sa2va_ros.support.deferred import DeferredActionServer
from sa2va_ros.support.qos import reliable
from sa2va_ros.support.spinning import serve

DETECTION_TIMEOUT = 5.0  # seconds


class SimFollowing(Follower):
    """One goal at a time; a new one ends the one before.

    Raises:
        InputError: nav2_msgs is not installed.
    """

    def __init__(self) -> None:
        self._kind = action_types()["FollowObject"]
        super().__init__()
        self._goals: deque[ServerGoalHandle] = deque()
        self._server = DeferredActionServer(self, self._kind, "follow_object", self._accept)

    def _accept(self, goal: ServerGoalHandle) -> None:
        self._goals.append(goal)
        threading.Thread(target=self._serve, args=(goal,), daemon=True).start()

    def _perform(self, command: str) -> FollowResult | None:
        return None  # goals only

    def _serve(self, goal: ServerGoalHandle) -> None:
        result = self._kind.Result()
        poses: deque[PoseStamped] = deque(maxlen=50)
        topic = self.create_subscription(
            PoseStamped, goal.request.pose_topic, lambda pose: poses.append(pose), reliable(5)
        )
        try:
            self._wait_ready(30.0)
            result.error_code, result.error_msg = self._keep_near(goal, poses)
        except InputError as error:
            result.error_code, result.error_msg = result.TF_ERROR, str(error)
        finally:
            self._drive(0.0, 0.0)
            self.destroy_subscription(topic)
        self._server.finish(goal, result, succeeded=not result.error_code)

    def _keep_near(self, goal: ServerGoalHandle, poses: deque[PoseStamped]) -> tuple[int, str]:
        """Drive until the goal is over; its error code and message."""
        target, wanted = TargetFilter(), goal.request.max_duration
        began, seconds = self._now().time, wanted.sec + wanted.nanosec / 1e9
        while not (self._stop_requested.is_set() or goal.is_cancel_requested):
            if goal is not self._goals[-1]:
                return self._kind.Result.UNKNOWN, "another goal came"
            while poses:
                pose = poses.popleft()
                stamp = nanoseconds(pose.header.stamp) / 1e9
                if (place := self._on_floor(pose, stamp)) is not None:
                    target.update(stamp, place)
            base = self._now()
            if seconds and base.time - began > seconds:
                return self._kind.Result.NONE, ""
            if base.time - max(target.time, began) > DETECTION_TIMEOUT:
                return self._kind.Result.FAILED_TO_DETECT_OBJECT, "no pose for 5 s"
            settings = Follow(distance=self._value("distance"), max_speed=self._value("max_speed"))
            self._drive(*steer(target, base, settings))
            goal.publish_feedback(self._feedback(base.time - began))
            time.sleep(1.0 / self._value("rate"))
        return self._kind.Result.UNKNOWN, "cancelled"

    def _feedback(self, seconds: float) -> Any:
        feedback = self._kind.Feedback(state=self._kind.Feedback.CONTROLLING)
        feedback.following_time.sec = int(seconds)
        return feedback


def main(args: list[str] | None = None) -> int:
    """Run the node until it is asked to stop; the exit status is 2 if it could not start."""
    return serve("sim_following", lambda _: SimFollowing(), args)


if __name__ == "__main__":
    raise SystemExit(main())
