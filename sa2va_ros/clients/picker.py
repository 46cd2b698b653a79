# SPDX-License-Identifier: Apache-2.0
"""Picks up what it is told: the recipe for grasping with this package, as a normal ROS client.

    pick           std_msgs/String   "pick up the green bottle"; the words after the verb are the expression
    pick_result    std_msgs/String   JSON: outcome (held, refused, failed), cause, detail, score, seconds

TrackExpression finds the object, `tracks` and `target_pose` say whether that can be relied on,
GetTrackCloud gives its points, `grasping.plan_grasp` an axis and a width, and the arm does the rest.
Taking the wrong thing is worse than taking nothing: whatever is doubtful on the way ends the attempt
before the fingers close.
"""

from __future__ import annotations

import re
import statistics
import traceback
from dataclasses import replace

import numpy as np

from sa2va_model.errors import InputError
from sa2va_ros.clients.arm import OPENING, PARKED, Arm, ArmError
from sa2va_ros.clients.command_node import CAUSES, CommandNode
from sa2va_ros.clients.grasping import Grasp, NoGraspError, plan_grasp, rival, whole, without
from sa2va_ros.clients.pick_result import PickResult
from sa2va_ros.clients.table_view import Refusal, TableView
from sa2va_ros.clients.tracker_client import TrackerError
from sa2va_ros.interfaces.commands import clean_text
from sa2va_ros.msg import Track
from sa2va_ros.node.parameters import Parameter
from sa2va_ros.support.deadline import now
from sa2va_ros.support.spinning import serve

TABLE = (
    Parameter(
        "min_score",
        0.35,
        "A track with a lower median score is not taken: refused as `unsure`.",
        span=(0.0, 1.0),
        dynamic=True,
    ),
    Parameter(
        "confirm_images", 8, "Images on which it must be seen before the arm moves.", span=(1, 50)
    ),
    Parameter(
        "looks",
        2,
        "How often it is looked for before it counts as lost while the arm has not moved.",
        span=(1, 5),
    ),
    Parameter("attempts", 2, "How often the fingers close before it gives up.", span=(1, 5)),
)
VERBS = re.compile(r"^(please\s+)?(pick\s+up|pick|grasp|grab|take|lift|get|fetch|give me)\s+", re.I)
CLEAR = 0.06  # metres between the finger tips and the object's top while it moves sideways
TRAVEL = 0.30  # metres above the table: higher than all that stands on it
LIFT = 0.12  # metres
RIVAL = 0.5  # share of a second thing under the mask from which on it is not clear what is meant
STEADY = 0.02  # metres that the pose of a thing at rest may move
MOVED = 0.03  # metres between what was planned and what is seen now, before the fingers go down
EMPTY = 0.004  # metres between closed fingers that hold nothing
_LOST = (Track.STATE_LOST, Track.STATE_NOT_FOUND, Track.STATE_STOPPED)
_COMMAND = "Picked up at the start, as if it had come on `pick`; empty = wait for one."


class Picker(CommandNode):
    """One command at a time, on a thread of its own."""

    def __init__(self) -> None:
        super().__init__("picker", "pick", "pick_result", TABLE, _COMMAND)
        self.view = TableView(self, self._stop_requested)
        self._arm = Arm(self, self._stop_requested.is_set)
        self._begin()

    def _perform(self, command: str) -> PickResult:
        attempt = Attempt(self, command)
        try:
            return attempt.run()
        except (Refusal, NoGraspError) as error:
            return attempt.ended(error.cause, str(error))
        except TrackerError as error:
            return attempt.ended(CAUSES.get(error.code, "error"), str(error))
        except (ArmError, InputError) as error:
            return attempt.ended("error", str(error))
        except Exception as error:  # noqa: BLE001 - one bad command must not end the thread that serves the next
            self.get_logger().error(traceback.format_exc())
            return attempt.ended("error", f"{type(error).__name__}: {error}")


class Attempt:
    """One command, from the words to the lifted object."""

    def __init__(self, picker: Picker, command: str) -> None:
        self._picker, self._command = picker, command
        self._tracker, self._arm = picker._tracker, picker._arm
        self._result = PickResult(command, "refused")
        self._began = now(picker)
        self._closed = self._moved = False
        self._missed = "error", "not tried"  # why the last attempt ended

    def run(self) -> PickResult:
        """Do it.

        Raises:
            Refusal, NoGraspError, TrackerError, ArmError, InputError: it ended before.
        """
        expression = VERBS.sub("", clean_text(self._command, "pick"))
        self._arm.wait_ready(30.0)
        self._park()
        self._lap("park")
        looks = self._picker._value("looks")
        for number in range(1, looks + 1):
            track_id = self._find(expression)
            try:
                self._confirm(track_id)
                return self._take(track_id)
            except Refusal as refusal:
                # What flickers may be found firmly on another image; once the arm has moved it is in the way.
                if refusal.cause != "lost" or self._moved or number == looks:
                    raise
            finally:
                self._tracker.stop(track_id)
        raise AssertionError("looks is at least 1")

    def _find(self, expression: str) -> str:
        timeout = self._picker._value("acquire_timeout")
        track = self._tracker.find(
            expression, timeout, stop_requested=self._picker._stop_requested.is_set
        )
        self._lap("find")
        return str(track.id)

    def _take(self, track_id: str) -> PickResult:
        """Grasp what was confirmed, again if it slipped."""
        attempts = self._picker._value("attempts")
        for number in range(1, attempts + 1):
            self._result = replace(self._result, attempts=number)
            if number > 1:
                self._park()
                self._confirm(track_id)
            if self._grasp(track_id):
                return self.ended("", "")
        raise Refusal(*self._missed)

    def ended(self, cause: str, detail: str) -> PickResult:
        """The result as it is now."""
        outcome = "held" if not cause else "failed" if self._closed else "refused"
        self._lap("rest")
        return replace(self._result, outcome=outcome, cause=cause, detail=detail)

    def _lap(self, stage: str) -> None:
        here = now(self._picker)
        began = self._began or here  # 0: of a simulated clock nothing had been heard
        spent = self._result.seconds.get(stage, 0.0) + here - began
        seconds = {**self._result.seconds, stage: round(spent, 3)}
        self._result, self._began = replace(self._result, seconds=seconds), here

    def _park(self) -> None:
        """Out of the camera's sight, from wherever it is: up first, then open and aside."""
        here = self._arm.position
        if np.abs(here - PARKED[:3]).max() < 0.01 and self._arm.opening > OPENING - 0.01:
            return
        self._arm.grip(OPENING)
        self._arm.go((float(here[0]), float(here[1]), TRAVEL), 0.0, opening=OPENING)
        self._arm.go(PARKED[:3], PARKED[3], opening=OPENING)

    def _grasp(self, track_id: str) -> bool:
        """Plan, close and lift; whether it is in the fingers."""
        grasp = self._plan(track_id)
        self._lap("confirm and plan")
        self._moved = True
        x, y, tip = grasp.position
        above = max(grasp.top + CLEAR, tip + LIFT)
        travel = max(TRAVEL, above)
        here = self._arm.position
        self._arm.go((float(here[0]), float(here[1]), travel), 0.0, opening=grasp.opening)
        self._arm.go((x, y, travel), grasp.yaw, opening=grasp.opening)
        if not self._still_there(track_id, grasp):
            return False
        self._arm.go((x, y, above), grasp.yaw, opening=grasp.opening)
        try:
            self._arm.go((x, y, tip), grasp.yaw, opening=grasp.opening, slow=True)
        except ArmError as error:  # a finger stands on something: up again
            self._arm.go((x, y, travel), grasp.yaw, opening=grasp.opening)
            raise Refusal("no room", f"a finger met something on the way down: {error}") from error
        self._closed = True
        between = self._arm.grip()
        self._lap("reach")
        self._missed = "slipped", "the fingers closed, and it was not between them"
        if between < EMPTY:
            return False
        self._arm.go((x, y, tip + LIFT), grasp.yaw, opening=0.0)
        self._arm._sleep(1.0)
        self._lap("lift")
        return self._arm.opening > EMPTY

    def _confirm(self, track_id: str) -> None:
        """The track is seen on several images, surely, and rests.

        Raises:
            Refusal: `lost`, `unsure` or `bad 3D`.
        """
        wanted = self._picker._value("confirm_images")
        since = max((sight.stamp for sight in self._tracker.sights(track_id)), default=0)
        sights = self._tracker.watch(track_id, wanted, 10.0, since)
        if len(sights) < wanted:
            raise Refusal("lost", f"it was on {len(sights)} of {wanted} images")
        seen = [sight for sight in sights if sight.state == Track.STATE_TRACKING]
        if len(seen) < 0.75 * wanted or sights[-1].state in _LOST:
            raise Refusal("lost", f"it was seen on {len(seen)} of {wanted} images")
        score = statistics.median(sight.score for sight in seen)
        self._result = replace(self._result, score=round(score, 3))
        least = self._picker._value("min_score")
        if score < least:
            raise Refusal("unsure", f"score {score:.2f}; taken from {least:g} on")
        places = self._places(sights[0].stamp - 1)
        if len(places) < 2:
            raise Refusal("bad 3D", "no target_pose came")
        wander = float(np.linalg.norm(places - np.median(places, 0), axis=1).max())
        if wander > STEADY and np.linalg.norm(places[-1] - places[0]) > STEADY / 2:
            raise Refusal("bad 3D", f"its pose wanders by {wander * 100:.1f} cm")

    def _places(self, since: int) -> np.ndarray:
        """Positions of `target_pose` after a stamp, [N, 3] in `world`."""
        places = []
        for pose in self._tracker.poses(since):
            world = self._picker.view.world_from(pose.header.frame_id)
            point = pose.pose.position
            places.append(world[:3, :3] @ (point.x, point.y, point.z) + world[:3, 3])
        return np.array(places).reshape(-1, 3)

    def _plan(self, track_id: str) -> Grasp:
        try:
            cloud = self._tracker.cloud(track_id)
        except TrackerError as error:
            raise Refusal("bad 3D", str(error)) from error
        world = self._picker.view.world_from(cloud.frame)
        points = cloud.points @ world[:3, :3].T + world[:3, 3]
        scene, eye = self._picker.view.scene_points()
        sights = self._tracker.sights(track_id)
        under = self._picker.view.mask_points(sights[-1].mask_value if sights else 0)
        if (share := rival(under, scene)) > RIVAL:
            raise Refusal(
                "unsure", f"the mask lies on two things, {share:.0%} as much on the second"
            )
        points = whole(points, scene)
        grasp = plan_grasp(points, without(scene, points), eye)
        self._result = replace(
            self._result,
            grasp=tuple(round(v, 4) for v in (*grasp.position, grasp.yaw, grasp.width)),
        )
        return grasp

    def _still_there(self, track_id: str, grasp: Grasp) -> bool:
        """Just before going down: whether it is where it was, as far as the gripper lets the camera see it.

        Raises:
            Refusal: `lost`.
        """
        sights = self._tracker.sights(track_id)
        if not sights or sights[-1].state in _LOST:
            raise Refusal("lost", "it was lost while the arm moved")
        places = self._places(0)
        if not len(places):
            raise Refusal("lost", "no target_pose came while the arm moved")
        gap = float(np.linalg.norm(places[-1][:2] - grasp.position[:2]))
        # The pose is that of the visible surface, which lies towards the camera by up to its radius.
        if gap <= MOVED + grasp.width / 2 + grasp.top / 4:
            return True
        self._missed = "lost", f"it is {gap * 100:.0f} cm away from where it was"
        return False


def main(args: list[str] | None = None) -> int:
    """Run the node until it is asked to stop; the exit status is 2 if it could not start."""
    return serve("picker", lambda _: Picker(), args)


if __name__ == "__main__":
    raise SystemExit(main())
