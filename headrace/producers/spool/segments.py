r"""How an event lies in a segment file, and how a file is read that was torn, or in which bytes have changed.

    segment: "HRSPOOL1", 16 bytes of salt, number of the first entry (8), CRC-32 of these
    entry:   "\xf5HRE", number (8), size of the payload (4), CRC-32 of the salt, the number, the size and the payload
    payload: sizes (2, 2, 2, 4) of topic, key, headers and value, then these; a header is its sizes (2, 2), name, value

Numbers count up by one, so what is missing is known by number. The salt is random and part of each checksum: bytes
within a body that look like an entry are none.
"""

import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeAlias
from zlib import crc32

from headrace.runtime.durable_files import sync_directory
from headrace.schemas.headers import Headers

Buffer: TypeAlias = "bytes | memoryview"

SUFFIX = ".segment"
MAGIC = b"HRSPOOL1"
SALT_BYTES = 16
MARKER = b"\xf5HRE"
_START = struct.Struct(">8s16sQ")
_HEAD = struct.Struct(">4sQII")
_SIZES = struct.Struct(">HHHI")
_PAIR = struct.Struct(">HH")
_UINT = struct.Struct(">I")
START_BYTES = _START.size + _UINT.size
HEAD_BYTES = _HEAD.size


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """What is to be published."""

    topic: str
    key: bytes
    headers: Headers
    value: bytes


@dataclass(frozen=True, slots=True)
class ScannedEntries:
    """A whole entry within a file: where it ends, and what it holds."""

    number: int
    end: int
    payload: bytes


def start_of_segment(salt: bytes, first: int) -> bytes:
    """Return the first bytes of a segment."""
    start = _START.pack(MAGIC, salt, first)
    return start + _UINT.pack(crc32(start))


def salt_of_segment(data: Buffer) -> bytes | None:
    """Return the salt that a segment begins with, or None where its beginning is damaged."""
    if len(data) < START_BYTES:
        return None
    start = bytes(data[: _START.size])
    if _UINT.pack(crc32(start)) != bytes(data[_START.size : START_BYTES]):
        return None
    return start[len(MAGIC) : len(MAGIC) + SALT_BYTES] if start.startswith(MAGIC) else None


def pack_entry(salt: bytes, number: int, message: SpoolEntry) -> bytes:
    """Return the bytes of an entry.

    Raises:
        struct.error: a part is larger than its size can say; what `check_event` passes never is.
    """
    headers = b"".join(_PAIR.pack(len(name), len(value)) + name.encode() + value for name, value in message.headers)
    topic = message.topic.encode()
    sizes = _SIZES.pack(len(topic), len(message.key), len(headers), len(message.value))
    payload = b"".join((sizes, topic, message.key, headers, message.value))
    return _HEAD.pack(MARKER, number, len(payload), _sum(salt, number, payload)) + payload


def size_of_entry(head: bytes) -> int:
    """Return how long the entry says it is that begins with these HEAD_BYTES; nothing about it is checked yet."""
    return HEAD_BYTES + int(_HEAD.unpack(head)[2]) if len(head) == HEAD_BYTES else HEAD_BYTES


def unpack(payload: bytes) -> SpoolEntry:
    """Return what a whole entry holds."""
    topic_bytes, key_bytes, headers_bytes, _ = _SIZES.unpack_from(payload)
    at = _SIZES.size
    topic = payload[at : at + topic_bytes].decode()
    at += topic_bytes
    key = payload[at : at + key_bytes]
    at += key_bytes
    headers, end = [], at + headers_bytes
    while at < end:
        name_bytes, value_bytes = _PAIR.unpack_from(payload, at)
        at += _PAIR.size
        name = payload[at : at + name_bytes].decode()
        headers.append((name, payload[at + name_bytes : at + name_bytes + value_bytes]))
        at += name_bytes + value_bytes
    return SpoolEntry(topic, key, headers, payload[end:])


def entry_at(data: Buffer, at: int, salt: bytes) -> ScannedEntries | None:
    """Return the entry that begins at a position, or None where there is no whole one."""
    if at + HEAD_BYTES > len(data):
        return None
    marker, number, size, declared = _HEAD.unpack_from(data, at)
    end = at + HEAD_BYTES + size
    if marker != MARKER or end > len(data):
        return None
    payload = bytes(data[at + HEAD_BYTES : end])
    return ScannedEntries(number, end, payload) if _sum(salt, number, payload) == declared else None


def entries(data: bytes, salt: bytes, at: int = START_BYTES) -> Iterator[ScannedEntries]:
    """Return the whole entries of a segment in order, passing over what is damaged."""
    while 0 <= at < len(data):
        found = entry_at(data, at, salt)
        if found is None:
            at = data.find(MARKER, at + 1)
        else:
            yield found
            at = found.end


def _sum(salt: bytes, number: int, payload: bytes) -> int:
    return crc32(payload, crc32(struct.pack(">QI", number, len(payload)), crc32(salt)))


@dataclass(eq=False)
class Segment:
    """A file of a spool: the numbers [first, end) as far as they can be read, and `size` bytes that are durable."""

    path: Path
    first: int
    end: int
    size: int
    descriptor: int
    sources: Counter[str] = field(default_factory=Counter)

    @classmethod
    def create(cls, directory: Path, salt: bytes, first: int) -> Self:
        """Begin a new file, durably."""
        path = directory / f"{first:020d}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(descriptor, start_of_segment(salt, first))
            os.fsync(descriptor)
            sync_directory(directory)
        except OSError:
            os.close(descriptor)
            raise
        return cls(path, first, first, START_BYTES, descriptor)

    @classmethod
    def recover(cls, path: Path, salt: bytes) -> Self:
        """Read a file that an earlier process left, whatever became of it. Nothing in it is changed."""
        data = path.read_bytes()
        segment = cls(path, int(path.stem), int(path.stem), len(data), os.open(path, os.O_RDONLY))
        for found in entries(data, salt):
            segment.end = max(segment.end, found.number + 1)
            segment.sources[unpack(found.payload).key.decode(errors="replace")] += 1
        return segment

    def read(self, at: int, salt: bytes) -> ScannedEntries | None:
        """Return the first whole entry from a position on, its `end` within the file; None where none follows."""
        size = size_of_entry(os.pread(self.descriptor, HEAD_BYTES, at))
        if at + size <= self.size and (found := entry_at(os.pread(self.descriptor, size, at), 0, salt)) is not None:
            return ScannedEntries(found.number, at + found.end, found.payload)
        rest = os.pread(self.descriptor, max(0, self.size - at), at)
        found = next(entries(rest, salt, max(rest.find(MARKER, 1), 0) or len(rest)), None)
        return None if found is None else ScannedEntries(found.number, at + found.end, found.payload)

    def append(self, data: bytes) -> None:
        """Write behind what is durable; `size` does not change, so what fails is written over."""
        os.lseek(self.descriptor, self.size, os.SEEK_SET)
        write_all(self.descriptor, data)

    def cut(self) -> None:
        """Take back what was written but not made durable."""
        os.ftruncate(self.descriptor, self.size)

    def delete(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file; may be repeated."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, however many calls it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def segment_files(directory: Path) -> Iterator[Path]:
    """Return the segment files of a spool in their order."""
    yield from sorted(path for path in directory.glob(f"*{SUFFIX}") if path.stem.isdecimal())


def salt_in(path: Path) -> bytes | None:
    """Return the salt in a segment file, or None where its beginning is damaged."""
    with path.open("rb") as file:
        return salt_of_segment(file.read(START_BYTES))
