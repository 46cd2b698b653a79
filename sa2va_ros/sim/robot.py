# SPDX-License-Identifier: Apache-2.0
"""What the simulated robots share: a camera with truth, time that physics keeps, episodes and a referee.

truth_target       latched JSON {"expression": "the green bottle", "value": 3}: what the episode's
                   sentence means, as the value in `truth`
~/next_episode     std_srvs/Trigger: the scene of the next seed, the first time that of `seed`; the
                   message is JSON with the sentence
~/score            std_srvs/Trigger: the truth about what was done so far, as JSON
/clock             rosgraph_msgs/Clock: simulated time, for nodes with `use_sim_time`

Simulated time never runs ahead of what this machine can do, and with `pace` not of the tracker either: what a robot
reaches does not depend on how busy the machine is.
"""

from __future__ import annotations

import json
import math
import time
from abc import abstractmethod
from typing import Any

from rclpy.duration import Duration
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sa2va_ros.messages.images import fill_time, nanoseconds
from sa2va_ros.msg import TrackArray
from sa2va_ros.sim.camera import SimCamera, names
from sa2va_ros.support.parameter import Parameter
from sa2va_ros.support.qos import reliable

TABLE = (
    Parameter("seed", 0, "Of the first scene; each further episode adds 1.", span=(0, 2**31 - 1)),
    Parameter("rate", 10.0, "Images per second, if rendering keeps up.", span=(0.1, 120.0)),
    Parameter(
        "scene",
        "shapes",
        "What stands about: shapes, or kitchen: things of the furniture catalogue, where it is installed.",
        choices=("shapes", "kitchen"),
    ),
    Parameter(
        "state_rate", 50.0, "Messages about the robot's state per second.", span=(1.0, 500.0)
    ),
    Parameter("width", 320, "Pixels.", span=(16, 4096)),
    Parameter("height", 240, "Pixels.", span=(16, 4096)),
    Parameter(
        "pace",
        0.0,
        "Simulated seconds by which the newest `tracks` may be behind: time waits for a tracker that is slower. "
        "0 = it waits for nobody.",
        span=(0.0, 60.0),
    ),
    Parameter("speed", 1.0, "Simulated seconds in a second, at most.", span=(0.01, 100.0)),
    Parameter(
        "frame_id", "camera_optical_frame", "Frame of the images: x right, y down, z forward."
    ),
)
SLICE = 0.02  # seconds by which the world moves on at once
_BEHIND = 0.5  # seconds; a machine that falls back further lets simulated time slow down
_PATIENCE = 2.0  # seconds after which time goes on by one image all the same: the last one may have got lost


class SimRobot(SimCamera):
    """Moves a world on and renders it, on the thread that spins."""

    def __init__(self, name: str, table: tuple[Parameter, ...]) -> None:
        self._episodes = 0
        self._simulated, self._told_state = 0.0, 0.0
        self._free, self._freed = math.inf, time.monotonic()  # until when time may run; since when
        super().__init__(name, table)
        self.create_service(Trigger, "~/next_episode", self._next_episode)
        self.create_service(Trigger, "~/score", self._tell_score)
        self._state_period = 1.0 / self._value("state_rate")
        self._clock_topic = self.create_publisher(Clock, "/clock", reliable(10))
        self._speed, self._pace = self._value("speed"), self._value("pace")
        if self._pace:
            # A shorter one would hold time before the next image is taken.
            self._pace = max(self._pace, 1.5 * self._period)
            self.create_subscription(TrackArray, "tracks", self._on_tracks, reliable(10))

    # --- what a robot adds ------------------------------------------------------------------------

    @abstractmethod
    def _begin(self, seed: int) -> tuple[Any, str, int, dict[str, Any]]:
        """Make a scene: the simulator, the sentence, its object's index, and what else is told of it."""

    @abstractmethod
    def _looked(self) -> None:
        """The world moved on by SLICE seconds."""

    @abstractmethod
    def _tell_state(self, stamp: int) -> None:
        """Publish joint states, odometry …; stamp in nanoseconds."""

    @abstractmethod
    def _score(self) -> dict[str, Any]:
        """The truth about the episode so far."""

    def _render(self) -> Any:
        return self._simulator.render()

    # --- episodes ---------------------------------------------------------------------------------

    def _make_simulator(self) -> Any:
        self._target_topic = self.create_publisher(
            String, "truth_target", reliable(1, latched=True)
        )
        return self._make_scene()

    def _make_scene(self) -> Any:
        self._seed = self._value("seed") + max(self._episodes - 1, 0)
        simulator, self._sentence, self._target, self._facts = self._begin(self._seed)
        meant = {"expression": self._sentence, "value": self._target + 1}
        self._target_topic.publish(String(data=json.dumps(meant)))
        return simulator

    def _next_episode(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        self._simulator.close()
        self._episodes += 1
        self._simulator = self._make_scene()
        objects = names(self._simulator.scene)
        self._names.publish(String(data=json.dumps(objects)))
        # Whoever asked speaks of the new scene at once.
        for topic in (self._target_topic, self._names):
            topic.wait_for_all_acked(Duration(seconds=1.0))
        response.success = True
        response.message = json.dumps(
            {
                "seed": self._seed,
                "expression": self._sentence,
                "target": self._target,
                "objects": list(objects.values()),
                **self._facts,
            }
        )
        return response

    def _tell_score(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = True
        response.message = json.dumps({"target": self._target, **self._score()})
        return response

    # --- time -------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now, before = self._until(), self._simulated
        while self._simulated + SLICE <= now:
            self._simulator.step(SLICE)
            self._simulated += SLICE
            self._looked()
        if self._simulated > before:
            self._tell_clock()
        if self._simulated - self._told_state >= self._state_period:
            self._told_state = self._simulated
            self._tell_state(self._start + round(self._simulated * 1e9))
        due = int(self._simulated / self._period)
        if due > self._frame:
            self._frame = due
            self._publish()

    def _until(self) -> float:
        """Up to when simulated time may run now, in seconds since the start."""
        spent = time.monotonic()
        now = (spent - self._began) * self._speed
        if spent - self._freed > _PATIENCE:
            self._free, self._freed = max(self._free, self._simulated) + self._period, spent
        limit = min(self._simulated + _BEHIND, self._free)
        if now > limit:
            self._began += (now - limit) / self._speed
            now = limit
        return now

    def _on_tracks(self, message: TrackArray) -> None:
        behind = (nanoseconds(message.header.stamp) - self._start) / 1e9
        if math.isinf(self._free) or behind + self._pace > self._free:
            self._free = behind + self._pace
        self._freed = time.monotonic()

    def _tell_clock(self) -> None:
        message = Clock()
        fill_time(message.clock, self._start + round(self._simulated * 1e9))
        self._clock_topic.publish(message)
