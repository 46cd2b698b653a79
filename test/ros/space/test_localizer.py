# SPDX-License-Identifier: Apache-2.0
"""3D over DDS: a wall at a known distance, whose pose, cloud and motion are known exactly.

The masks of the model with random weights mean nothing; wherever they are, the wall is behind them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: `make setup` installs it")

HEIGHT, WIDTH, FOCAL = 120, 160, 150.0
PICTURE = cv2.resize(
    np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8), (WIDTH, HEIGHT)
)
CLOUD = "sa2va_tracker/get_track_cloud"


@pytest.fixture(scope="module")
def node(start_node: Callable[..., Any], nano_folder: Path) -> Any:
    settings = {
        "model": nano_folder,
        "threads": 1,
        "status_period": 0.1,
        "verify_period": 0.0,
        "depth_wait": 0.5,  # a busy machine may take that long from the depth image to the node
    }
    reliable = {
        f"qos_overrides./space/{topic}.subscription.reliability": "reliable"
        for topic in ("image", "depth", "camera_info")
    }
    return start_node(remaps=("__ns:=/space",), **settings, **reliable)


@pytest.fixture(scope="module")
def connected(node: Any, start_client: Callable[[str], Any], wait_for: Any) -> Any:
    from diagnostic_msgs.msg import DiagnosticArray
    from geometry_msgs.msg import PoseStamped
    from sensor_msgs.msg import PointCloud2
    from visualization_msgs.msg import MarkerArray

    from sa2va_ros.support.qos import reliable

    client = start_client("/space")
    client.wait_connected()
    for kind, topic in (
        (PoseStamped, "target_pose"),
        (PointCloud2, "target_points"),
        (MarkerArray, "markers"),
        (DiagnosticArray, "/diagnostics"),
    ):
        wait_for(client.listen(kind, topic, reliable(20)).get_publisher_count, 20, topic)
    return client


@pytest.fixture
def client(node: Any, connected: Any) -> Iterator[Any]:
    """The client, with one track that has a mask, and nothing collected."""
    connected.command("stop")
    connected.stream_until(PICTURE, lambda c: not c.got["tracks"][-1].tracks)
    connected.command("the wall")
    connected.stream_until(PICTURE, lambda c: seen(c.got["tracks"][-1]))
    for topic in ("tracks", "target_pose", "target_points", "markers", "/diagnostics"):
        connected.got[topic].clear()
    yield connected
    assert node.process.poll() is None, node.output
    assert "Traceback" not in node.output, node.output


def seen(tracks: Any) -> list[Any]:
    return [track for track in tracks.tracks if track.area]


def camera_info(header: Any, **changes: Any) -> Any:
    from sensor_msgs.msg import CameraInfo

    info = CameraInfo(header=header, height=HEIGHT, width=WIDTH, distortion_model="plumb_bob")
    info.k = [FOCAL, 0.0, WIDTH / 2, 0.0, FOCAL, HEIGHT / 2, 0.0, 0.0, 1.0]
    info.d = [0.0] * 5
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def shoot(
    client: Any,
    metres: np.ndarray | None,
    encoding: str = "32FC1",
    *,
    info: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """Send camera_info, depth and image of one moment; returns the tracks of that image.

    Args:
        metres: None = no depth image; `changes` spoil its message.
    """
    from sensor_msgs.msg import Image

    from sa2va_ros.messages.images import fill_image

    image = client.image(PICTURE)
    client.send("camera_info", camera_info(image.header, **(info or {})))
    if metres is not None:
        pixels = metres.astype(np.float32)
        if encoding == "16UC1":
            pixels = np.nan_to_num(metres * 1000).astype(np.uint16)
        message = fill_image(Image(), pixels, encoding, image.header)
        for name, value in changes.items():
            setattr(message, name, value)
        client.send("depth", message)
    return client.stream(image)


def wall(distance: float) -> np.ndarray:
    """A wall with every seventh column not measured."""
    depth = np.full((HEIGHT, WIDTH), distance)
    depth[:, ::7] = np.nan
    return depth


def cloud_of(client: Any, name: str = "") -> Any:
    from sa2va_ros.srv import GetTrackCloud

    return client.call(GetTrackCloud, CLOUD, GetTrackCloud.Request(track_id=name))


def xyz(cloud: Any) -> np.ndarray:
    kind = [("xyz", "<f4", 3), ("bgr0", "u1", 4)]
    return np.frombuffer(bytes(cloud.data), kind)["xyz"]


def vector(message: Any) -> np.ndarray:
    return np.array([message.x, message.y, message.z])


def solid_of(client: Any, tracks: Any, metres: np.ndarray) -> Any:
    """The object under the published mask of that image."""
    from sa2va_ros.space.cameras import camera_from_info
    from sa2va_ros.space.mask_to_object import CloudConfig, object_from_mask

    client.stream_until(None, lambda c: any(m.header == tracks.header for m in c.got["mask"]))
    mask = next(m for m in client.got["mask"] if m.header == tracks.header)
    labels = np.frombuffer(bytes(mask.data), np.uint8).reshape(HEIGHT, WIDTH)
    camera = camera_from_info(camera_info(tracks.header))
    inside = labels == seen(tracks)[0].mask_value
    return object_from_mask(
        inside, metres.astype(np.float32), PICTURE, camera, CloudConfig(max_pixels=5000)
    )


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_distance_and_place_are_exact_for_both_encodings(
    client: Any, wait_for: Any, encoding: str
) -> None:
    tracks = shoot(client, wall(1.25), encoding)
    (track,) = seen(tracks)
    assert track.has_3d
    assert tracks.target_frame == ""  # that of the camera
    pose = wait_for(lambda: client.got["target_pose"], 10, "target_pose")[-1]
    assert pose.header == tracks.header
    position = vector(pose.pose.position)
    assert position[2] == pytest.approx(1.25, abs=2e-3)
    expected = solid_of(client, tracks, wall(1.25))
    assert position == pytest.approx(expected.centroid, abs=1e-3)
    assert vector(track.size) == pytest.approx(expected.box.size, abs=1e-3)
    assert vector(track.pose.pose.position)[2] == pytest.approx(1.25, abs=2e-3)
    covariance = np.array(track.pose.covariance).reshape(6, 6)
    assert np.allclose(covariance, covariance.T)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    cloud = wait_for(lambda: client.got["target_points"], 10, "target_points")[-1]
    assert cloud.header == tracks.header
    assert np.allclose(xyz(cloud)[:, 2], 1.25, atol=2e-3)
    markers = wait_for(lambda: client.got["markers"], 10, "markers")[-1].markers
    assert [marker.ns for marker in markers] == ["", "box", "name"]
    assert all(marker.header == tracks.header for marker in markers)


def test_the_service_gives_the_same_object_once(client: Any) -> None:
    tracks = shoot(client, wall(0.8))
    answer = cloud_of(client)
    assert answer.success, answer.message
    assert answer.header == tracks.header
    assert answer.cloud.header == tracks.header
    points = xyz(answer.cloud)
    assert np.allclose(points[:, 2], 0.8, atol=2e-3)
    assert len(points) == answer.cloud.width > 50
    # The box is around the points, and size belongs to its axes; its ends are percentiles.
    x, y, z, w = (getattr(answer.pose.orientation, name) for name in "xyzw")
    from sa2va_ros.space.mask_to_object import matrix_of

    along = (points - vector(answer.pose.position)) @ matrix_of(x, y, z, w)
    inside = (np.abs(along) <= vector(answer.size) / 2 + 1e-3).all(axis=1)
    assert inside.mean() > 0.94
    track = seen(tracks)[0]
    assert cloud_of(client, track.id).success
    assert cloud_of(client, track.expression).success
    refused = cloud_of(client, "nobody")
    assert not refused.success
    assert "nobody" in refused.message


def test_rectified_images_have_another_camera(client: Any, wait_for: Any) -> None:
    """The same camera_info: an unknown lens as it comes, twice the focal length after rectification."""
    zoomed = [2 * FOCAL, 0, WIDTH / 2, 0, 0, 2 * FOCAL, HEIGHT / 2, 0, 0, 0, 1, 0]
    info = {"d": [0.1] * 4, "distortion_model": "barrel", "p": [float(v) for v in zoomed]}
    straight = seen(shoot(client, wall(1.0)))[0]
    assert not seen(shoot(client, wall(1.0), info=info))[0].has_3d
    assert client.set_parameter("rectified", True)[0]
    track = seen(shoot(client, wall(1.0), info=info))[0]
    assert track.has_3d
    assert vector(track.size)[:2].max() == pytest.approx(
        vector(straight.size)[:2].max() / 2, rel=0.1
    )
    assert not seen(shoot(client, wall(1.0), info={"p": [0.0] * 12}))[0].has_3d
    assert "p is [0.0, 0.0, 0.0, 0.0" in cloud_of(client).message
    assert client.set_parameter("rectified", False)[0]
    assert seen(shoot(client, wall(1.0)))[0].has_3d


def test_velocity_is_the_slope_of_the_positions(client: Any) -> None:
    for n in range(6):
        tracks = shoot(client, wall(1.5 - 0.02 * n))  # 0.1 s apart
    velocity = vector(seen(tracks)[0].velocity)
    assert velocity[2] == pytest.approx(-0.2, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"metres": None}, "no depth image"),
        ({"metres": np.ones((60, 80))}, "depth is 80x60; expected 160x120"),
        ({"metres": np.zeros((HEIGHT, WIDTH))}, "0 of"),
        ({"metres": np.full((HEIGHT, WIDTH), 99.0)}, "0 of"),
        ({"metres": np.ones((HEIGHT, WIDTH)), "encoding": "16UC1", "step": 10}, "step is 10 bytes"),
        ({"metres": np.ones((HEIGHT, WIDTH)), "data": b"123"}, "data has 3 bytes"),
        ({"metres": np.ones((HEIGHT, WIDTH)), "info": {"width": 80}}, "camera_info is 80x120"),
        ({"metres": np.ones((HEIGHT, WIDTH)), "info": {"k": [0.0] * 9}}, "expected focal lengths"),
        (
            {
                "metres": np.ones((HEIGHT, WIDTH)),
                "info": {"d": [0.1] * 4, "distortion_model": "barrel"},
            },
            "distortion_model is 'barrel'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason_and_the_mask_lives_on(
    client: Any, arguments: dict[str, Any], says: str
) -> None:
    tracks = shoot(client, **arguments)
    (track,) = seen(tracks)
    assert not track.has_3d
    answer = cloud_of(client)
    assert not answer.success
    assert says in answer.message
    assert seen(shoot(client, wall(1.0)))[0].has_3d  # nothing of it stays


def test_depth_of_another_frame_or_stamp_is_refused(client: Any) -> None:
    from std_msgs.msg import Header

    header = Header(frame_id="other_optical_frame")
    image = client.image(PICTURE)
    header.stamp = image.header.stamp
    client.send("camera_info", camera_info(image.header))
    from sensor_msgs.msg import Image

    from sa2va_ros.messages.images import fill_image

    client.send("depth", fill_image(Image(), wall(1.0).astype(np.float32), "32FC1", header))
    tracks = client.stream(image)
    assert not seen(tracks)[0].has_3d
    assert "depth is in frame 'other_optical_frame'" in cloud_of(client).message
    tracks = shoot(client, None)  # only the depth image before it is there
    assert not seen(tracks)[0].has_3d
    assert "the nearest is -0.100 s away" in cloud_of(client).message


def test_diagnostics_warn_of_missing_depth_and_recover(client: Any, wait_for: Any) -> None:
    def depth_line(level: int) -> Any:
        for array in client.got["/diagnostics"]:
            for status in array.status:
                if status.name == "space/sa2va_tracker: depth" and status.level == bytes([level]):
                    return status
        return None

    shoot(client, None)
    warned = wait_for(lambda: depth_line(1), 10, "a warning about depth")
    assert "no 3D: no depth image of the image's stamp" in warned.message
    client.got["/diagnostics"].clear()
    shoot(client, wall(1.0))
    wait_for(lambda: depth_line(0), 10, "an end of the warning")
    names = {s.name.split(": ")[1] for s in client.got["/diagnostics"][-1].status}
    assert names == {"images", "tracker", "depth", "model", "memory"}


def test_depth_may_be_switched_off_and_the_position_chosen(client: Any, wait_for: Any) -> None:
    assert client.set_parameter("use_depth", False)[0]
    assert not seen(shoot(client, wall(1.0)))[0].has_3d
    assert client.set_parameter("use_depth", True)[0]
    assert client.set_parameter("pose_method", "box")[0]
    client.got["target_pose"].clear()
    track = seen(shoot(client, wall(1.0)))[0]
    pose = wait_for(lambda: client.got["target_pose"], 10, "target_pose")[-1]
    assert pose.pose == track.pose.pose
    assert client.set_parameter("pose_method", "centroid")[0]
    assert client.set_parameter("depth_min", 20.0) == (
        False,
        "parameter depth_min is 20.0; expected at most depth_max, which is 10.0",
    )


def test_each_track_has_a_pose_of_its_own_on_request(client: Any, wait_for: Any) -> None:
    from geometry_msgs.msg import PoseWithCovarianceStamped

    from sa2va_ros.support.qos import reliable

    (track,) = seen(shoot(client, wall(1.0)))
    topic = f"tracks/{track.id}/pose"
    listening = client.listen(PoseWithCovarianceStamped, topic, reliable(5))
    assert not listening.get_publisher_count()
    assert client.set_parameter("publish_track_poses", True)[0]
    shoot(client, wall(1.0))
    wait_for(listening.get_publisher_count, 20, "the topic of the track")
    tracks = shoot(client, wall(1.2))
    found = [
        m for m in client.stream_until(None, lambda c: c.got[topic]) if m.header == tracks.header
    ]
    assert found[0].pose.pose.position.z == pytest.approx(1.2, abs=2e-3)
    assert min(np.diag(np.array(found[0].pose.covariance).reshape(6, 6))) > 0
    client.command("stop")
    client.stream_until(PICTURE, lambda c: not c.got["tracks"][-1].tracks)
    # The topic ends with the track; and one that lives when nobody wants it any more, without another image.
    wait_for(lambda: not listening.get_publisher_count(), 20, "the end of the topic")
    client.command("the wall")
    client.stream_until(PICTURE, lambda c: any(t.area for t in c.got["tracks"][-1].tracks))
    (track,) = seen(shoot(client, wall(1.0)))
    listening = client.listen(PoseWithCovarianceStamped, f"tracks/{track.id}/pose", reliable(5))
    wait_for(listening.get_publisher_count, 20, "the topic of the next track")
    assert client.set_parameter("publish_track_poses", False)[0]
    wait_for(lambda: not listening.get_publisher_count(), 20, "the end of the topic")


def test_where_the_target_is_now_is_predicted_while_it_is_seen(client: Any, wait_for: Any) -> None:
    from geometry_msgs.msg import PoseWithCovarianceStamped

    from sa2va_ros.messages.images import nanoseconds
    from sa2va_ros.support.qos import reliable

    shoot(client, wall(1.0))
    listening = client.listen(PoseWithCovarianceStamped, "predicted_pose", reliable(20))
    wait_for(listening.get_publisher_count, 20, "predicted_pose")
    # The stamps must be those of now, or nothing can be said about now; a jump is believed when several images say so.
    client._stamp = before = time.time_ns() - round(5e9)
    client.stream_until(PICTURE, lambda c: nanoseconds(c.got["tracks"][-1].header.stamp) > before)
    client._stamp = time.time_ns()
    told = shoot(client, wall(1.0))
    assert seen(told)[0].has_3d
    poses = client.stream_until(None, lambda c: c.got["predicted_pose"])
    assert nanoseconds(poses[0].header.stamp) > nanoseconds(told.header.stamp)
    assert poses[0].pose.pose.position.z == pytest.approx(1.0, abs=0.01)
    time.sleep(1.5)
    count = len(poses)
    time.sleep(0.5)
    assert len(poses) == count  # nothing is known about now any more


def test_tf_is_refused_where_it_is_not_installed(
    client: Any, start_node: Callable[..., Any]
) -> None:
    try:
        import tf2_ros  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("tf2_ros is installed: nothing to refuse")
    accepted, reason = client.set_parameter("publish_tf", True)
    assert not accepted
    assert "needs tf2_ros, which is not installed" in reason
    node = start_node(target_frame="base_link")
    assert node.process.wait(240) == 2
    assert "parameter target_frame 'base_link' needs tf2_ros" in node.output
    assert len(node.output.splitlines()) == 1
