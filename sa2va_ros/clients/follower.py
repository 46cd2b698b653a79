# SPDX-License-Identifier: Apache-2.0
"""Follows what it is told at a set distance: the recipe for following with this package, as a normal ROS client.

    follow          std_msgs/String   "follow the red ball"; "stop" ends it
    follow_result   std_msgs/String   JSON: outcome (followed, refused, lost), cause, detail, seconds
    cmd_vel         geometry_msgs/Twist, while it follows; TwistStamped with the parameter `stamped`

It needs `target_pose` and `tracks` of the tracker, `odom` of the base and `camera_mount` (where the camera is in
`base_link`, latched; with tf2 that is the static transform). On a robot with Nav2 its FollowObject action takes
`target_pose` in this node's place, see docs/following.md.
"""

from __future__ import annotations

import re
import threading
import time
import traceback
from dataclasses import dataclass, field, replace

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry
from std_msgs.msg import Header

from sa2va_model.errors import InputError
from sa2va_ros.clients.command_node import CAUSES, CommandNode, CommandResult
from sa2va_ros.clients.following import (
    Follow,
    Pose2,
    PoseHistory,
    TargetFilter,
    in_fixed_frame,
    steer,
)
from sa2va_ros.clients.tracker_client import TrackerError
from sa2va_ros.interfaces.commands import clean_text
from sa2va_ros.messages.clouds import matrix_from_transform
from sa2va_ros.messages.images import nanoseconds
from sa2va_ros.msg import Track
from sa2va_ros.support.deadline import Deadline
from sa2va_ros.support.parameter import Parameter
from sa2va_ros.support.qos import NEWEST_IMAGE, reliable
from sa2va_ros.support.spinning import serve

TABLE = (
    Parameter("distance", 0.7, "Metres to keep.", span=(0.2, 10.0), dynamic=True),
    Parameter("max_speed", 0.5, "Metres a second.", span=(0.01, 5.0), dynamic=True),
    Parameter("duration", 0.0, "Seconds to follow; 0 = until `stop`.", span=(0.0, 86400.0)),
    Parameter("tries", 3, "How often it is asked for before it counts as not found.", span=(1, 20)),
    Parameter(
        "min_score",
        0.3,
        "Poses of images on which the track had a lower score are not followed.",
        span=(0.0, 1.0),
        dynamic=True,
    ),
    Parameter("lost_timeout", 15.0, "Seconds out of sight after which it ends.", span=(1.0, 600.0)),
    Parameter(
        "stamped",
        False,
        "cmd_vel is TwistStamped in the base's frame, as Nav2 has it with `enable_stamped_cmd_vel`, not Twist.",
    ),
    Parameter("rate", 20.0, "Commands to the base per second.", span=(1.0, 200.0)),
)
VERBS = re.compile(r"^(please\s+)?(follow|track|keep\s+up\s+with|come\s+after|go\s+after)\s+", re.I)
_SAMPLE = 0.5  # seconds between two remembered places of the target
_COMMAND = "Followed at the start, as if it had come on `follow`; empty = wait for one."


@dataclass(frozen=True)
class FollowResult(CommandResult):
    """What became of a command.

    Attributes:
        outcome: followed; refused (it never moved); lost.
        seconds: from its first pose on, by the stamps of odometry.
        seen: share of these for which the target was seen a moment ago.
        places: (time in seconds, x, y) of the target in `odom`, twice a second, as believed.
    """

    seconds: float = 0.0
    seen: float = 0.0
    places: tuple[tuple[float, float, float], ...] = field(default_factory=tuple)


class Follower(CommandNode):
    """One command at a time, on a thread of its own; a new one ends the one before."""

    def __init__(self) -> None:
        super().__init__("follower", "follow", "follow_result", TABLE, _COMMAND)
        self._mount: TransformStamped | None = None
        self._history, self._lock = PoseHistory(), threading.Lock()
        self._odom = self._base = ""
        kind = TwistStamped if self._value("stamped") else Twist
        self._speeds = self.create_publisher(kind, "cmd_vel", reliable(5))
        self.create_subscription(Odometry, "odom", self._on_odometry, NEWEST_IMAGE)
        self.create_subscription(
            TransformStamped, "camera_mount", self._on_mount, reliable(1, latched=True)
        )
        self._begin()

    # --- what is heard ----------------------------------------------------------------------------

    def _on_mount(self, message: TransformStamped) -> None:
        self._mount = message

    def _on_odometry(self, message: Odometry) -> None:
        pose = message.pose.pose
        turned = pose.orientation
        yaw = 2 * float(np.arctan2(turned.z, turned.w))  # a base on the floor turns about z only
        stamp = nanoseconds(message.header.stamp) / 1e9
        with self._lock:
            self._odom, self._base = message.header.frame_id, message.child_frame_id
            self._history.add(Pose2(stamp, pose.position.x, pose.position.y, yaw))

    # --- one command after the other --------------------------------------------------------------

    def _perform(self, command: str) -> FollowResult | None:
        if command.strip().rstrip(".!").lower() == "stop":
            return None
        result = self._follow(command)
        self._drive(0.0, 0.0)
        return result

    def _follow(self, command: str) -> FollowResult:
        refused = FollowResult(command, "refused")
        try:
            expression = VERBS.sub("", clean_text(command, "follow"))
            self._wait_ready(30.0)
            track = self._find(expression)
        except TrackerError as error:
            return replace(refused, cause=CAUSES.get(error.code, "error"), detail=str(error))
        except InputError as error:
            return replace(refused, cause="error", detail=str(error))
        try:
            return self._keep_up(command, track.id)
        except InputError as error:
            return replace(refused, cause="error", detail=str(error))
        except Exception as error:  # noqa: BLE001 - one bad command must not end the thread that serves the next
            self.get_logger().error(traceback.format_exc())
            return replace(refused, cause="error", detail=f"{type(error).__name__}: {error}")
        finally:
            self._tracker.stop(track.id)

    def _find(self, expression: str) -> Track:
        tries = self._value("tries")
        for number in range(tries):
            try:
                return self._tracker.find(
                    expression, self._value("acquire_timeout"), stop_requested=self._interrupted
                )
            except TrackerError as error:
                if error.code not in CAUSES or number == tries - 1:
                    raise
        raise AssertionError("tries is at least 1")

    def _wait_ready(self, seconds: float) -> None:
        deadline = Deadline(self, seconds)
        while self._mount is None or self._history.newest is None:
            if deadline.passed or self._interrupted():
                missing = "camera_mount" if self._mount is None else "odom"
                raise InputError(
                    f"nothing came on {missing}; expected where the camera and the base are"
                )
            time.sleep(0.02)

    # --- following --------------------------------------------------------------------------------

    def _keep_up(self, command: str, track_id: str) -> FollowResult:
        target, heard = TargetFilter(), self._newest_stamp()
        began = last = self._now().time
        result = FollowResult(command, "followed")
        places: list[tuple[float, float, float]] = []
        looks = seen = 0
        duration, patience = self._value("duration"), self._value("lost_timeout")
        while not self._interrupted():
            heard = self._update(target, track_id, heard)
            base = self._now()
            settings = Follow(distance=self._value("distance"), max_speed=self._value("max_speed"))
            self._drive(*steer(target, base, settings))
            looks, seen = looks + 1, seen + (base.time - target.time < 0.5)
            here = target.at(base.time, settings.coast)
            if here is not None and base.time - last >= _SAMPLE:
                last = base.time
                places.append((round(base.time, 3), round(here[0], 3), round(here[1], 3)))
            result = replace(
                result,
                seconds=round(base.time - began, 2),
                seen=round(seen / looks, 3),
                places=tuple(places),
            )
            if duration and base.time - began >= duration:
                return result
            if base.time - max(target.time, began) > patience:
                detail = f"not seen for {patience:g} s"
                return replace(result, outcome="lost", cause="lost", detail=detail)
            time.sleep(1.0 / self._value("rate"))
        return result

    def _now(self) -> Pose2:
        with self._lock:
            newest = self._history.newest
        assert newest is not None
        return newest

    def _newest_stamp(self) -> int:
        poses = self._tracker.poses()
        return nanoseconds(poses[-1].header.stamp) if poses else 0

    def _update(self, target: TargetFilter, track_id: str, heard: int) -> int:
        """Take in the poses since the one of stamp `heard`; returns the stamp of the newest."""
        least = self._value("min_score")
        sights = {sight.stamp: sight for sight in self._tracker.sights(track_id)}
        for pose in self._tracker.poses(heard):
            stamp = nanoseconds(pose.header.stamp)
            sight = sights.get(stamp)
            if sight is None:  # tracks come a moment before or after the pose: next time
                if stamp < max(sights, default=0):
                    heard = stamp
                continue
            heard = stamp
            if sight.state != Track.STATE_TRACKING or sight.score < least:
                continue
            place = self._on_floor(pose, stamp / 1e9)
            if place is not None:
                target.update(stamp / 1e9, place)
        return heard

    def _on_floor(self, pose: PoseStamped, stamp: float) -> np.ndarray | None:
        """The pose's place in the odometry's frame, [2]; None if where the base was then is not known.

        Raises:
            InputError: the pose is in a frame that is not known.
        """
        point = pose.pose.position
        position = np.array([point.x, point.y, point.z])
        mount = self._mount
        assert mount is not None
        if pose.header.frame_id == self._odom:
            return position[:2]
        if pose.header.frame_id != mount.child_frame_id:
            raise InputError(
                f"target_pose is in '{pose.header.frame_id}'; expected '{mount.child_frame_id}' "
                f"(camera_mount) or '{self._odom}' (odom)"
            )
        with self._lock:
            base = self._history.at(stamp)
        if base is None:
            return None
        return in_fixed_frame(position, matrix_from_transform(mount.transform), base)

    def _drive(self, speed: float, turn: float) -> None:
        twist = Twist()
        twist.linear.x, twist.angular.z = float(speed), float(turn)
        if not self._value("stamped"):
            self._speeds.publish(twist)
            return
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._base)
        self._speeds.publish(TwistStamped(header=header, twist=twist))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is asked to stop; the exit status is 2 if it could not start."""
    return serve("follower", lambda _: Follower(), args)


if __name__ == "__main__":
    raise SystemExit(main())
