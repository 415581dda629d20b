"""Segments: the files of a journal. A magic number, a header, then frames, each with length, checksum and position.

Rule 1. A segment's room is taken from the disk when it is made, so that appending to it needs none.
Rule 2. Reading ends at the first frame that does not fit. Zeros are the room that is left; the beginning of a frame and
        then zeros, as far as it would have reached, is a record that was never finished; anything else is damage.
Rule 3. Each frame says up to which position everything had been synced when it was written.

Raises OSError, with the path in it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC = b"POLLERJ1"
SUFFIX = ".journal"
SIZE = 8 * 1024 * 1024
"""Bytes: some ten thousand messages, and little to read at a start."""

_NAME = re.compile(rf"[0-9a-f]{{16}}{re.escape(SUFFIX)}")
_HEADER_MOST = 4096
_FRAME = struct.Struct("<IIQQ")  # length of the payload, checksum of all that follows, position, synced up to
_UNCHECKED = struct.Struct("<II")
_CHECKED = struct.Struct("<QQ")
FRAME_BYTES = _FRAME.size


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Whose segment it is.

    `first` is the position of its first record, `applied` what was written down by then, `boot` the kernel's name of
    its own life. `whole` says that what earlier lives left behind is known completely.
    """

    outbox: str
    identity: str
    incarnation: int
    boot: str
    sync: str
    first: int
    applied: int
    whole: bool


class Frame(NamedTuple):
    """One record as it was read."""

    position: int
    synced: int
    payload: bytes


class Segment:
    """A segment that is being written."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._used = 0
        self._named = False
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _allocate(self._fd, size)
        except OSError as error:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error

    @property
    def room(self) -> int:
        """Bytes that can still be appended, frames included."""
        return self._size - self._used

    @property
    def is_gone(self) -> bool:
        """Somebody has removed or replaced the file."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self._fd)
        return (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev)

    def head(self, header: Header) -> None:
        """Write the header, which makes the file a segment, and give it its name."""
        names = {name: getattr(header, name) for name in Header.__slots__}
        self._write(MAGIC)
        self.append(header.first, 0, json.dumps(names).encode())
        final = self.path.with_name(name_of(header.first))
        self.path.replace(final)
        self.path = final

    def append(self, position: int, synced: int, payload: bytes) -> None:
        """Write one record."""
        checked = _CHECKED.pack(position, synced) + payload
        self._write(_UNCHECKED.pack(len(payload), zlib.crc32(checked)) + checked)

    def _write(self, data: bytes) -> None:
        """All of it or, as far as `close` is concerned, nothing."""
        done = os.pwrite(self._fd, data, self._used)
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], self._used + done)
        self._used += done

    def sync(self) -> None:
        """Everything that was appended survives a power cut from now on, under the name that it has."""
        getattr(os, "fdatasync", os.fsync)(self._fd)
        if not self._named:
            sync_file(self.path.parent)
            self._named = True

    def close(self) -> None:
        """Give back the room that was not used. Never raises."""
        with contextlib.suppress(OSError):  # else the next start does it
            os.ftruncate(self._fd, self._used)
        os.close(self._fd)


def name_of(first: int) -> str:
    """The file name of the segment that begins with this position; names sort like positions."""
    return f"{first:016x}{SUFFIX}"


def segments(directory: Path) -> list[Path]:
    """The segments in `directory`, the oldest first. What somebody else has put there is left alone."""
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.name))


def first_of(path: Path) -> int:
    """The position with which the segment at `path` begins, by its name."""
    return int(path.stem, 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A segment as it was found: its records, the bytes they take, and whether what follows them is damaged."""

    header: Header
    frames: list[Frame]
    used: int
    damaged: bool
    cut: bool
    """Something stands behind the last record: damage, or the beginning of one that a killed process did not finish."""


def read(path: Path) -> Reading | None:
    """The segment at `path`; None if it is no segment, or torn before its first record."""
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        return None
    found = list(_frames(data, len(MAGIC)))
    header = _header(found[0].payload) if found else None
    if header is None:
        return None
    used = len(MAGIC) + sum(FRAME_BYTES + len(frame.payload) for frame in found)
    cut = len(data.rstrip(b"\0")) > used
    return Reading(header=header, frames=found[1:], used=used, damaged=_is_damaged(data, used), cut=cut)


def header_of(path: Path) -> Header | None:
    """The header alone; None as in `read`."""
    with path.open("rb") as file:
        start = file.read(_HEADER_MOST)
    found = next(_frames(start, len(MAGIC)), None) if start.startswith(MAGIC) else None
    return _header(found.payload) if found else None


def trim(path: Path, reading: Reading) -> None:
    """Give back the room that a killed process had taken for `path` and did not use. Never raises."""
    if not reading.cut and path.stat().st_size > reading.used:
        with contextlib.suppress(OSError):
            os.truncate(path, reading.used)


class Witness:
    """Beside the segments: the position of the last record, so that a tail that is gone is missed.

    It holds within one life of the kernel; a power cut may leave it ahead of what it tells of, or behind.
    """

    NAME = "last"
    _POSITION = struct.Struct("<Q")

    def __init__(self, directory: Path) -> None:
        fd = os.open(directory / self.NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            room = self._POSITION.size
            os.pwrite(fd, os.pread(fd, room, 0).ljust(room, b"\0"), 0)  # the disk has room for it from now on
            self._memory = mmap.mmap(fd, room)
        finally:
            os.close(fd)

    @classmethod
    def told(cls, directory: Path) -> int:
        """The position; 0 if nothing is known."""
        with contextlib.suppress(OSError, struct.error):
            return int(cls._POSITION.unpack((directory / cls.NAME).read_bytes())[0])
        return 0

    def tell(self, position: int) -> None:
        """Four times a message: a store in mapped memory, which a killed process leaves behind like a write."""
        self._POSITION.pack_into(self._memory, 0, position)

    def close(self) -> None:
        """Nothing more is told."""
        self._memory.close()


def sync_file(path: Path) -> None:
    """The file, or the names in the directory, at `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_damaged(data: bytes, used: int) -> bool:
    """There is more behind the last record than the beginning of one, for which there would have been room."""
    end = len(data.rstrip(b"\0"))
    if end <= used:
        return False
    length = _FRAME.unpack_from(data, used)[0] if used + FRAME_BYTES <= len(data) else len(data)
    reach = used + FRAME_BYTES + length
    # A length that was damaged may reach as far as one likes: then there are whole records behind it.
    behind = (next(_frames(data, at), None) for at in range(used + 1, end))
    return reach > len(data) or end > reach or any(frame is not None for frame in behind)


def _frames(data: bytes, offset: int) -> Iterator[Frame]:
    while offset + FRAME_BYTES <= len(data):
        length, checksum, position, synced = _FRAME.unpack_from(data, offset)
        offset += FRAME_BYTES
        if not length or offset + length > len(data):
            return
        payload = data[offset : offset + length]
        if zlib.crc32(payload, zlib.crc32(_CHECKED.pack(position, synced))) != checksum:
            return
        offset += length
        yield Frame(position, synced, payload)


def _header(payload: bytes) -> Header | None:
    try:
        values: Any = json.loads(payload)
        return Header(**values)
    except (ValueError, TypeError):
        return None


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    block = bytes(64 * 1024)  # where the system has no such call, zeros take the room as well
    for offset in range(0, size, len(block)):
        os.pwrite(fd, block[: size - offset], offset)
