r"""The format of segment files, and how a torn or damaged file is read.

    segment: "HRSPOOL1", 16 bytes of salt, number of the first entry (8), CRC-32 of these
    entry:   "\xf5HRE", number (8), size of the payload (4), CRC-32 of the salt, the number, the size and the payload
    payload: sizes (2, 2, 2, 4) of topic, key, headers and value, then these; a header is its sizes (2, 2), name, value

Numbers increase by one, so missing entries are known by number. The random salt is part of each checksum, so bytes
within a body are never mistaken for an entry.
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
    """A message to publish."""

    topic: str
    key: bytes
    headers: Headers
    value: bytes


@dataclass(frozen=True, slots=True)
class ScannedEntry:
    """A complete entry in a file; `end` is its end position."""

    number: int
    end: int
    payload: bytes


def start_of_segment(salt: bytes, first: int) -> bytes:
    """Return the first bytes of a segment."""
    start = _START.pack(MAGIC, salt, first)
    return start + _UINT.pack(crc32(start))


def salt_of_segment(data: Buffer) -> bytes | None:
    """Return the salt of a segment, or None if its header is damaged."""
    if len(data) < START_BYTES:
        return None
    start = bytes(data[: _START.size])
    if _UINT.pack(crc32(start)) != bytes(data[_START.size : START_BYTES]):
        return None
    return start[len(MAGIC) : len(MAGIC) + SALT_BYTES] if start.startswith(MAGIC) else None


def pack_entry(salt: bytes, number: int, message: SpoolEntry) -> bytes:
    """Return the bytes of an entry.

    Raises:
        struct.error: a part is too large for its size field, which no valid event is.
    """
    headers = b"".join(_PAIR.pack(len(name), len(value)) + name.encode() + value for name, value in message.headers)
    topic = message.topic.encode()
    sizes = _SIZES.pack(len(topic), len(message.key), len(headers), len(message.value))
    payload = b"".join((sizes, topic, message.key, headers, message.value))
    return _HEAD.pack(MARKER, number, len(payload), _sum(salt, number, payload)) + payload


def size_of_entry(head: bytes) -> int:
    """Return the declared size of the entry with this header of HEAD_BYTES; it is not verified."""
    return HEAD_BYTES + int(_HEAD.unpack(head)[2]) if len(head) == HEAD_BYTES else HEAD_BYTES


def unpack(payload: bytes) -> SpoolEntry:
    """Return the message of a complete entry."""
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


def entry_at(data: Buffer, at: int, salt: bytes) -> ScannedEntry | None:
    """Return the entry at a position, or None if there is no complete one."""
    if at + HEAD_BYTES > len(data):
        return None
    marker, number, size, declared = _HEAD.unpack_from(data, at)
    end = at + HEAD_BYTES + size
    if marker != MARKER or end > len(data):
        return None
    payload = bytes(data[at + HEAD_BYTES : end])
    return ScannedEntry(number, end, payload) if _sum(salt, number, payload) == declared else None


def entries(data: bytes, salt: bytes, at: int = START_BYTES) -> Iterator[ScannedEntry]:
    """Return the complete entries of a segment in order, skipping damaged bytes."""
    while 0 <= at < len(data):
        entry = entry_at(data, at, salt)
        if entry is None:
            at = data.find(MARKER, at + 1)
        else:
            yield entry
            at = entry.end


def _sum(salt: bytes, number: int, payload: bytes) -> int:
    return crc32(payload, crc32(struct.pack(">QI", number, len(payload)), crc32(salt)))


@dataclass(eq=False)
class Segment:
    """A segment file with the readable numbers [first, end), of which `size` bytes are durable."""

    path: Path
    first: int
    end: int
    size: int
    descriptor: int
    sources: Counter[str] = field(default_factory=Counter)

    @classmethod
    def create(cls, directory: Path, salt: bytes, first: int) -> Self:
        """Create a new file durably."""
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
        """Read a file of an earlier process, which may be torn or damaged, without changing it."""
        data = path.read_bytes()
        segment = cls(path, int(path.stem), int(path.stem), len(data), os.open(path, os.O_RDONLY))
        for entry in entries(data, salt):
            segment.end = max(segment.end, entry.number + 1)
            segment.sources[unpack(entry.payload).key.decode(errors="replace")] += 1
        return segment

    def read(self, at: int, salt: bytes) -> ScannedEntry | None:
        """Return the first complete entry from a position on, or None if none follows."""
        size = size_of_entry(os.pread(self.descriptor, HEAD_BYTES, at))
        if at + size <= self.size and (entry := entry_at(os.pread(self.descriptor, size, at), 0, salt)) is not None:
            return ScannedEntry(entry.number, at + entry.end, entry.payload)
        rest = os.pread(self.descriptor, max(0, self.size - at), at)
        entry = next(entries(rest, salt, max(rest.find(MARKER, 1), 0) or len(rest)), None)
        return None if entry is None else ScannedEntry(entry.number, at + entry.end, entry.payload)

    def append(self, data: bytes) -> None:
        """Write after the durable bytes; `size` does not change, so a failed write is overwritten."""
        os.lseek(self.descriptor, self.size, os.SEEK_SET)
        write_all(self.descriptor, data)

    def cut(self) -> None:
        """Truncate bytes that were written but are not durable."""
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
    """Write all bytes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def segment_files(directory: Path) -> Iterator[Path]:
    """Return the segment files of a spool in order."""
    yield from sorted(path for path in directory.glob(f"*{SUFFIX}") if path.stem.isdecimal())


def salt_in(path: Path) -> bytes | None:
    """Return the salt of a segment file, or None if its header is damaged."""
    with path.open("rb") as file:
        return salt_of_segment(file.read(START_BYTES))
