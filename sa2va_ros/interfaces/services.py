# SPDX-License-Identifier: Apache-2.0
"""The node's services; what follows from a request is told on the topics.

What takes its time (a cloud, a reset between two images, an adapter) is done beside the executor and answered when it
is done; everything else is answered at once.

A refused request is an answer with the reason in its `message`, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import PointField
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from sa2va_model.errors import InputError
from sa2va_model.tracks import Track
from sa2va_ros.interfaces.commands import Router, tracks_named
from sa2va_ros.interfaces.target import ENDED
from sa2va_ros.messages import tracks as conversions_tracks
from sa2va_ros.messages.clouds import fill_cloud, fill_point, fill_pose, fill_solid
from sa2va_ros.msg import Track as TrackMessage
from sa2va_ros.node.adapter_change import AdapterChange
from sa2va_ros.node.model_session import ModelSession
from sa2va_ros.node.pipeline import Pipeline, PublishedFrame
from sa2va_ros.space.localizer import locate_one
from sa2va_ros.srv import (
    AddPrompt,
    GetTrackCloud,
    ListTracks,
    LoadAdapter,
    RemoveTrack,
    SaveObject,
    SelectTarget,
    SetTarget,
)
from sa2va_ros.support.background_work import WorkQueue
from sa2va_ros.support.deferred import Later, create_deferred_service

if TYPE_CHECKING:
    from rclpy.node import Node


class Services:
    """Serves them for as long as the node lives, whatever its lifecycle state.

    Args:
        adapters: loads them.
        active: raises InputError with the reason while the node cannot track anything.
    """

    def __init__(
        self,
        node: Node,
        session: ModelSession,
        pipeline: Pipeline,
        router: Router,
        adapters: AdapterChange,
        active: Callable[[], None],
    ) -> None:
        self._active = active
        self._session, self._pipeline, self._router = session, pipeline, router
        self._node, self._adapters = node, adapters
        served = {
            "set_target": (SetTarget, self._set_target),
            "select_target": (SelectTarget, self._select_target),
            "add_prompt": (AddPrompt, self._add_prompt),
            "remove_track": (RemoveTrack, self._remove_track),
            "list_tracks": (ListTracks, self._list_tracks),
            "get_track_cloud": (GetTrackCloud, self._get_track_cloud),
            "save_object": (SaveObject, self._save_object),
            "load_adapter": (LoadAdapter, self._load_adapter),
            "reset": (Trigger, self._reset),
            "enable": (SetBool, self._enable),
        }
        files = WorkQueue("objects")
        beside = {
            "get_track_cloud": WorkQueue("clouds"),
            "reset": WorkQueue("resets"),
            "add_prompt": files,
            "save_object": files,
        }
        for name, (kind, serve) in served.items():
            answer = _refusing(serve)
            if name in beside:
                answer = _beside(answer, beside[name])
            create_deferred_service(node, kind, f"~/{name}", answer)

    def _set_target(self, request: SetTarget.Request, response: SetTarget.Response) -> None:
        self._active()
        response.track_id = self._router.track(
            request.expression,
            track_id=request.track_id,
            replace=request.replace,
            select=not request.keep_target,
        )
        response.accepted = True

    def _select_target(
        self, request: SelectTarget.Request, response: SelectTarget.Response
    ) -> None:
        response.track_id = self._router.select(request.track_id.strip())
        response.success = True

    def _add_prompt(self, request: AddPrompt.Request, response: AddPrompt.Response) -> None:
        self._active()
        arguments = conversions_tracks.prompt_arguments(request.prompt)
        if (latest := self._pipeline.latest) is not None:
            conversions_tracks.check_prompt(arguments, latest.admitted.frame.rgb.shape[:2])
        response.track_id = self._router.prompt(**arguments)
        response.accepted = True

    def _save_object(self, request: SaveObject.Request, response: SaveObject.Response) -> None:
        self._active()
        track_id, path = self._router.save(request.track_id.strip(), request.name.strip())
        response.track_id, response.path, response.success = track_id, str(path), True

    def _remove_track(self, request: RemoveTrack.Request, response: RemoveTrack.Response) -> None:
        before = len(self._living())
        response.remaining = before
        self._session.need_model()
        stopped = self._router.stop(request.track_id)
        response.success = stopped > 0 or not request.track_id
        response.remaining = max(before - stopped, 0)

    def _list_tracks(self, request: ListTracks.Request, response: ListTracks.Response) -> None:
        if (latest := self._pipeline.latest) is not None:
            response.tracks = latest.tracks

    def _get_track_cloud(
        self, request: GetTrackCloud.Request, response: GetTrackCloud.Response
    ) -> None:
        self._session.need_live()
        latest = self._pipeline.latest
        if latest is None:
            raise InputError("there is no image yet; expected one on the image topic")
        track = _named(request.track_id or self._pipeline.target.id, latest)
        depth = self._pipeline.depth_of(latest.admitted)
        place = latest.scene.place if latest.scene else self._pipeline.place(latest.admitted)
        config = self._pipeline.cloud_config()
        object_from_mask = locate_one(track, latest.admitted.frame.rgb, depth, place, config)
        response.track_id = track.id
        response.track = conversions_tracks.fill_track(TrackMessage(), track, self._pipeline.clock)
        fill_solid(response.track, object_from_mask, _velocity(track, latest))
        response.header = Header(stamp=latest.admitted.header.stamp, frame_id=place.frame)
        fill_cloud(response.cloud, object_from_mask, response.header, PointField)
        fill_pose(response.pose, object_from_mask.box.centre, object_from_mask.box.rotation)
        fill_point(response.size, object_from_mask.box.size)
        response.success = True

    def _load_adapter(self, request: LoadAdapter.Request, response: LoadAdapter.Response) -> Later:
        if request.scale not in (0.0, 1.0):
            raise InputError(f"scale is {request.scale:g}; expected 1 (or 0, which means 1)")
        later = Later()

        def done(loaded: str, problem: str) -> None:
            response.success, response.message = not problem, problem or loaded
            self._node.get_logger().info(f"load_adapter: {response.message}")
            later.give(response)

        self._adapters.begin(request.path, done)
        return later

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self._session.need_live()
        self._pipeline.reset("asked for by the service ~/reset")
        response.success = True

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> None:
        self._pipeline.enabled = request.data
        response.message = "images are processed" if request.data else "images are ignored"
        response.success = True

    def _living(self) -> list[Track]:
        latest = self._pipeline.latest
        tracks = latest.result.tracks if latest else ()
        return [track for track in tracks if track.state not in ENDED]


def _refusing(serve: Callable[[Any, Any], Later | None]) -> Callable[[Any, Any], Any]:
    """A service callback that answers with the reason where a request is refused."""

    def answer(request: Any, response: Any) -> Any:
        try:
            return serve(request, response) or response
        except InputError as error:
            response.message = str(error)
        except Exception as error:  # noqa: BLE001 - a request that cannot be served never ends a thread or the node
            response.message = f"{type(error).__name__}: {error}"
        return response

    return answer


def _beside(answer: Callable[[Any, Any], Any], work: WorkQueue) -> Callable[[Any, Any], Later]:
    """A service callback whose work is done on another thread, one request after the other."""

    def begin(request: Any, response: Any) -> Later:
        later = Later()
        work.put(lambda: later.give(answer(request, response)))
        return later

    return begin


def _named(name: str, latest: PublishedFrame) -> Track:
    """The track that a request means.

    Raises:
        InputError: it means none.
    """
    if not name:
        raise InputError("there is no target; expected a track_id, or a target (~/select_target)")
    tracks = latest.result.tracks
    wanted = tracks_named(name, tracks, what="track")[0]
    return next(track for track in tracks if track.id == wanted)


def _velocity(track: Track, latest: PublishedFrame) -> np.ndarray:
    """As published; zero if nobody wanted to know."""
    located = latest.scene.found.get(track.id) if latest.scene else None
    return located.velocity if located else np.zeros(3)
