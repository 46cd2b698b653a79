# SPDX-License-Identifier: Apache-2.0
"""The storage files of a recording, whole or damaged; one that is broken does not cost the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rosbags.rosbag2 import Reader

from sa2va_model.errors import InputError
from sa2va_model.io.frames import BAG_SUFFIXES, natural_key
from sa2va_ros.bags.cut_files import messages_until_cut, unpacked


class StorageFile:
    """One storage file, or a bag folder that is read as a whole.

    Attributes:
        topics: type and number of messages of each topic.
        fault: what is wrong with it, "" if nothing; known at the latest when its messages were read.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            InputError: nothing of it can be read.
        """
        self.path, self.fault = path, ""
        self.topics: dict[str, tuple[str, int]] = {}
        try:
            with Reader(path) as reader:
                for link in reader.connections:
                    count = self.topics.get(link.topic, ("", 0))[1]
                    self.topics[link.topic] = (link.msgtype, count + link.msgcount)
        except (
            Exception
        ) as error:  # what is wrong shows on opening: errors of four libraries, and asserts
            self.fault = f"{path}: cut off or damaged ({words(error)})"
            if path.is_dir() or not self._recover():
                raise InputError(
                    f"{path}: not readable as a rosbag2 ({words(error)}), expected sqlite3 or mcap storage"
                ) from error

    def _recover(self) -> bool:
        """Whether there is a message before the damage."""
        found = Counter((m.topic, m.kind) for m in messages_until_cut(self.path))
        self.topics = {topic: (kind, count) for (topic, kind), count in found.items()}
        return bool(self.topics)

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """Time of recording in nanoseconds and bytes of each message of a topic, up to a damage."""
        if topic not in self.topics:
            return
        if self.fault:
            cut = (m for m in messages_until_cut(self.path) if m.topic == topic)
            yield from ((message.recorded, message.data) for message in cut)
            return
        try:
            with Reader(self.path) as reader:
                links = [link for link in reader.connections if link.topic == topic]
                for _, recorded, raw in reader.messages(links):
                    yield recorded, unpacked(bytes(raw))
        except Exception as error:  # noqa: BLE001  as above
            self.fault = f"{self.path}: cut off or damaged ({words(error)})"


def open_parts(path: Path) -> list[StorageFile]:
    """The parts of a bag folder or a storage file, in the order of recording.

    Raises:
        InputError: there is no bag, or nothing of it can be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, expected a rosbag2")
    entries = [path] if path.is_file() else list(path.iterdir())
    packed = [file.name for file in entries if file.suffix == ".zstd"]
    if packed and not (path / "metadata.yaml").exists():
        raise InputError(
            f"{path}: {packed[0]} is a compressed part of a rosbag2, expected the bag's folder with its metadata.yaml "
            f"(or unpack it: zstd -d {packed[0]})"
        )
    whole = path.is_file() or (path / "metadata.yaml").exists()
    try:
        if whole:
            return [StorageFile(path)]
        broken = None
    except InputError as error:
        if path.is_file():
            raise
        broken = error
    files = [file for file in entries if file.suffix in BAG_SUFFIXES]
    parts, faults = [], []
    for file in sorted(files, key=lambda file: natural_key(file.name)):  # _2 is before _10
        try:
            parts.append(StorageFile(file))
        except InputError as error:
            faults.append(str(error))
    if not parts:
        expected = f"{path}: holds no metadata.yaml, .db3 or .mcap file, expected a rosbag2"
        raise broken or InputError(faults[0] if faults else expected)
    if not any(part.fault for part in parts) and (faults or broken):
        parts[-1].fault = faults[0] if faults else str(broken)
    return parts


def words(error: Exception) -> str:
    """An error of another library in one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
