# SPDX-License-Identifier: Apache-2.0
"""Objects in space as RViz and Foxglove draw them: a box, its name, and an arrow where it goes."""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import Point
from rclpy.duration import Duration
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from sa2va_model.io.overlay import colour
from sa2va_model.tracks import FrameResult, Track
from sa2va_ros.messages.clouds import fill_point, fill_pose
from sa2va_ros.space.localizer import Located, Scene3D

LIFETIME = Duration(seconds=1)  # of a marker that is not renewed, e.g. because the node ended
MOVING = 0.02  # m/s; slower is drawn without an arrow


def marker_array(header: Header, result: FrameResult, scene: Scene3D) -> MarkerArray:
    """Markers of one image; those of the image before are taken away."""
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for track in result.tracks:
        located = scene.found.get(track.id)
        if located is not None:
            markers += _markers(header, track, located)
    return MarkerArray(markers=markers)


def _markers(header: Header, track: Track, located: Located) -> list[Any]:
    object_from_mask, number = located.object_from_mask, track.mask_value
    red, green, blue = (channel / 255.0 for channel in colour(track))

    def marker(namespace: str, kind: int, alpha: float) -> Marker:
        made = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD)
        made.color = ColorRGBA(r=red, g=green, b=blue, a=alpha)
        made.lifetime = LIFETIME.to_msg()
        return made

    box = marker("box", Marker.CUBE, 0.35)
    fill_pose(box.pose, object_from_mask.box.centre, object_from_mask.box.rotation)
    fill_point(box.scale, object_from_mask.box.size.clip(1e-3))
    name = marker("name", Marker.TEXT_VIEW_FACING, 1.0)
    name.text, name.scale.z = track.expression or track.id, 0.04
    fill_point(name.pose.position, object_from_mask.centroid)
    made = [box, name]
    if (located.velocity**2).sum() > MOVING**2:
        arrow = marker("velocity", Marker.ARROW, 1.0)
        ends = (object_from_mask.centroid, object_from_mask.centroid + located.velocity)
        arrow.points = [fill_point(Point(), end) for end in ends]
        arrow.scale.x, arrow.scale.y, arrow.scale.z = 0.008, 0.016, 0.02
        made.append(arrow)
    return made
