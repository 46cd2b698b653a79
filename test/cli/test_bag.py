# SPDX-License-Identifier: Apache-2.0
"""Bags of both storages: images in, tracks out, and everything that can be wrong with a recording."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sa2va_model.errors import InputError
from sa2va_model.io.frames import FrameSource
from sa2va_model.tracks import Event, EventKind, FrameResult, Track, TrackState
from sa2va_ros.bags import bag
from sa2va_ros.bags.bag import BagImages, read_messages
from sa2va_ros.bags.writer import BagWriter

START_NS = 1_700_000_000_123_456_789
STEP_NS = 33_333_333


def error_of(path: Path, topic: str | None = None) -> str:
    """The one line that a bad bag gives, on opening or on reading."""
    with pytest.raises(InputError) as caught:
        list(BagImages(path, topic))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_images_come_with_their_headers(make, tmp_path, frames, storage: str) -> None:
    source = BagImages(make.bag(tmp_path / "bag", frames, storage=storage))
    assert isinstance(source, FrameSource)
    assert (source.storage, source.topic, source.frame_count) == (storage, "/camera/image_raw", 12)
    assert source.fps == pytest.approx(30, rel=0.01)
    got = list(source)
    assert all((a.rgb == b).all() for a, b in zip(got, frames, strict=True))
    for index, frame in enumerate(got):
        stamp = frame.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == START_NS + index * STEP_NS
        assert source.clock.nanoseconds(frame.stamp) == START_NS + index * STEP_NS
        assert frame.recorded == START_NS + index * STEP_NS + 5_000_000
        assert frame.header.frame_id == "camera_optical_frame"
    assert len(list(source)) == 12


@pytest.mark.parametrize(
    ("encoding", "tolerance"),
    [("bgr8", 0), ("rgba8", 0), ("mono8", 60), ("jpeg", 6), ("png", 0)],
)
def test_encodings(make, tmp_path, frames, encoding: str, tolerance: float) -> None:
    source = BagImages(make.bag(tmp_path / "bag", frames[:2], encoding=encoding))
    first = next(iter(source)).rgb
    assert first.dtype == np.uint8
    assert np.abs(first.astype(int) - frames[0]).mean() <= tolerance


def test_storage_file_and_unfinished_recording(make, tmp_path, frames) -> None:
    path = make.bag(tmp_path / "bag", frames, storage="mcap")
    assert len(list(BagImages(path / "bag.mcap"))) == 12
    (path / "metadata.yaml").unlink()  # the recorder was killed
    assert len(list(BagImages(path))) == 12


def test_zero_stamp_becomes_the_time_of_recording(make, tmp_path, frames) -> None:
    def forget(index: int, message) -> None:
        message.header.stamp.sec = message.header.stamp.nanosec = 0

    got = list(BagImages(make.bag(tmp_path / "bag", frames[:3], change=forget)))
    assert [f.header.stamp.sec * 10**9 + f.header.stamp.nanosec for f in got] == [
        f.recorded for f in got
    ]


def test_topic_is_chosen_or_listed(make, tmp_path, frames) -> None:
    camera_info = ("/camera/info", "sensor_msgs/msg/CameraInfo")
    depth = ("/camera/depth", "sensor_msgs/msg/Image")
    path = make.bag(tmp_path / "two", frames[:2], extra=[camera_info, depth])
    message = error_of(path)
    assert (
        "2 image topics, expected --topic with one of: /camera/depth (sensor_msgs/msg/Image)"
        in (message)
    )
    assert "/camera/image_raw (sensor_msgs/msg/Image)" in message
    assert len(list(BagImages(path, "/camera/image_raw"))) == 2
    assert len(list(BagImages(path, "camera/image_raw"))) == 2
    assert "topic '/camera/info' is sensor_msgs/msg/CameraInfo, expected" in error_of(
        path, "/camera/info"
    )
    assert "no topic '/nothing', expected one of: /camera/depth" in error_of(path, "/nothing")


def test_bag_without_an_image_topic_lists_what_it_has(make, tmp_path, frames) -> None:
    path = make.bag(
        tmp_path / "bag",
        [],
        topic="/unused",
        extra=[("/odom", "nav_msgs/msg/Odometry"), ("/chatter", "std_msgs/msg/String")],
    )
    with pytest.raises(InputError, match="holds no message, expected at least one image"):
        list(BagImages(path))
    store = bag.typestore()
    from rosbags.rosbag2 import Writer

    with Writer(tmp_path / "blind", version=8) as writer:
        for name, kind in (("/odom", "nav_msgs/msg/Odometry"), ("/chatter", "std_msgs/msg/String")):
            writer.add_connection(name, kind, typestore=store)
    message = error_of(tmp_path / "blind")
    assert "no image topic" in message
    assert "it has: /chatter (std_msgs/msg/String), /odom (nav_msgs/msg/Odometry)" in message


def skipped_of(path: Path) -> str:
    """Why the one bad image of four could not be used."""
    source = BagImages(path)
    assert len(list(source)) == 3
    assert source.skipped == 1
    return source.first_skipped


def test_bad_images_are_skipped_counted_and_named(make, tmp_path, frames) -> None:
    def at_two(**values) -> object:
        def change(index: int, message) -> None:
            for name, value in values.items() if index == 2 else ():
                setattr(message, name, value)

        return change

    path = make.bag(tmp_path / "encoding", frames[:4], change=at_two(encoding="yuv999"))
    assert f"{path}: topic /camera/image_raw: image 2: image encoding 'yuv999'" in skipped_of(path)
    path = make.bag(tmp_path / "cut", frames[:4], change=at_two(data=np.zeros(100, np.uint8)))
    assert "image 2: image 128x96 rgb8: data has 100 bytes; expected 36864" in skipped_of(path)
    path = make.bag(tmp_path / "depth", frames[:4], change=at_two(encoding="16UC1", step=256))
    assert "image 2: image encoding '16UC1' holds distances" in skipped_of(path)
    path = make.bag(
        tmp_path / "jpeg",
        frames[:4],
        encoding="jpeg",
        change=lambda i, m: setattr(m, "data", m.data[:-200] if i == 2 else m.data),
    )
    assert "image 2: compressed image 'jpeg'" in skipped_of(path)
    all_bad = make.bag(tmp_path / "all", frames[:2], change=lambda i, m: setattr(m, "step", 1))
    assert "image 0: image 128x96 rgb8: step is 1 bytes" in error_of(all_bad)


def test_good_images_before_a_bad_one_are_yielded(make, tmp_path, frames) -> None:
    sizes = [*frames[:5], *[make.picture(0, 60, 80)] * 5]
    source = BagImages(make.bag(tmp_path / "bag", sizes))
    got = []
    with pytest.raises(InputError, match="image 9 is 80x60, expected 128x96 like the first frame"):
        got.extend(source)
    assert len(got) == 5
    one = BagImages(make.bag(tmp_path / "one", [*frames[:5], make.picture(0, 60, 80), *frames[5:]]))
    assert len(list(one)) == 12
    assert "image 5 is 80x60" in one.first_skipped


def test_no_bag_at_all(tmp_path) -> None:
    assert "no such file or folder, expected a rosbag2" in error_of(tmp_path / "nothing")
    (tmp_path / "junk.db3").write_bytes(b"junk")
    assert "not readable as a rosbag2" in error_of(tmp_path / "junk.db3")
    (tmp_path / "junk.mcap").write_bytes(b"")
    assert "not readable as a rosbag2" in error_of(tmp_path / "junk.mcap")
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "metadata.yaml").write_text("a: [")
    assert "not readable as a rosbag2" in error_of(tmp_path / "yaml")


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_truncated_storage_file(make, tmp_path, storage: str) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(40)]
    path = make.bag(tmp_path / "bag", noise, storage=storage)
    file = next(p for p in path.iterdir() if p.suffix in (".db3", ".mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = error_of(path)
    assert str(path) in message
    assert "not readable as a rosbag2" in message or "damaged" in message


def result_of(frame, *, with_track: bool) -> FrameResult:
    mask = np.zeros(frame.rgb.shape[:2], bool)
    mask[10:30, 20:50] = True
    track = Track(
        id="track_1",
        expression="the red ball",
        state=TrackState.TRACKING,
        mask_value=3,
        mask=mask,
        box=(20, 10, 50, 30),
        area=600,
        score=0.75,
        first_seen=0.0,
        last_seen=frame.stamp,
        age=frame.index,
    )
    event = Event(EventKind.FOUND, "track_1", "the red ball", frame.stamp, frame.index)
    return FrameResult(
        frame.stamp,
        frame.index,
        *frame.rgb.shape[:2],
        (track,) if with_track else (),
        (event,) if frame.index == 1 else (),
    )


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_written_bag_reads_back_with_the_stamps_of_its_source(
    make, tmp_path, frames, storage: str
) -> None:
    source = BagImages(make.bag(tmp_path / "in", frames, storage=storage))
    with BagWriter(tmp_path / "out", source.clock, storage=storage) as writer:
        for frame in source:
            writer.write(result_of(frame, with_track=frame.index > 0), frame)
    tracks = list(read_messages(tmp_path / "out", "/sa2va/tracks"))
    masks = list(read_messages(tmp_path / "out", "/sa2va/mask"))
    events = list(read_messages(tmp_path / "out", "/sa2va/events"))
    assert (len(tracks), len(masks), len(events)) == (12, 12, 1)
    for index, ((recorded, array), (_, mask)) in enumerate(zip(tracks, masks, strict=True)):
        assert recorded == START_NS + index * STEP_NS + 5_000_000
        for header in (array.header, mask.header):
            assert header.stamp.sec * 10**9 + header.stamp.nanosec == START_NS + index * STEP_NS
            assert header.frame_id == "camera_optical_frame"
        assert (array.width, array.height, len(array.tracks)) == (128, 96, int(index > 0))
        labels = mask.data.reshape(96, 128)
        assert set(np.unique(labels)) == ({0, 3} if index else {0})
        if index:
            track = array.tracks[0]
            assert (labels == track.mask_value).sum() == track.area == 600
            assert (track.id, track.expression, track.state) == ("track_1", "the red ball", 1)
            assert (track.roi.x_offset, track.roi.width) == (20, 30)
            assert track.last_seen == array.header.stamp
            assert track.first_seen.sec * 10**9 + track.first_seen.nanosec == START_NS
            assert track.pose.pose.orientation.w == 1.0
    assert (events[0][1].type, events[0][1].track_id) == (EventKind.FOUND, "track_1")
    # mostly zeros: the label images must not take their raw size
    size = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert size < 12 * 96 * 128 / 2


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_bag_of_a_broken_run_can_be_read(make, tmp_path, frames, storage: str) -> None:
    source = BagImages(make.bag(tmp_path / "in", frames))

    def run() -> None:
        with BagWriter(tmp_path / "out", source.clock, storage=storage) as writer:
            for frame in source:
                if frame.index == 5:
                    raise KeyboardInterrupt
                writer.write(result_of(frame, with_track=True), frame)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(list(read_messages(tmp_path / "out", "/sa2va/tracks"))) == 5
    with pytest.raises(InputError, match="exists already, expected a new bag folder"):
        BagWriter(tmp_path / "out", source.clock)


def test_message_definitions_are_found_in_an_installed_prefix(tmp_path, monkeypatch) -> None:
    source = bag.message_folder()
    share = tmp_path / "prefix" / "share" / "sa2va_ros" / "msg"
    shutil.copytree(source, share)
    module = (
        tmp_path / "prefix" / "lib" / "python3" / "site-packages" / "sa2va_ros" / "bags" / "bag.py"
    )
    module.parent.mkdir(parents=True)
    module.touch()
    monkeypatch.setattr(bag, "__file__", str(module))
    assert bag.message_folder() == share  # by walking up from the module
    elsewhere = tmp_path / "elsewhere" / "sa2va_ros" / "bags" / "bag.py"
    monkeypatch.setattr(bag, "__file__", str(elsewhere))
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))
    assert bag.message_folder() == share  # by the environment of a sourced workspace
    monkeypatch.delenv("AMENT_PREFIX_PATH")
    with pytest.raises(InputError, match=r"TrackArray\.msg not found"):
        bag.message_folder()
