r"""How an event lies in a segment file, and how a file is read that was torn, or in which bytes have changed.

    segment: "HRSPOOL1", 16 bytes of salt, number of the first entry (8), CRC-32 of these
    entry:   "\xf5HRE", number (8), size of the payload (4), CRC-32 of the salt, the number, the size and the payload
    payload: sizes (2, 2, 2, 4) of topic, key, headers and value, then these; a header is its sizes (2, 2), name, value

Numbers count up by one, so what is missing is known by number. The salt is random and part of each checksum: bytes
within a body that look like an entry are none.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias
from zlib import crc32

from headrace.schemas.headers import Headers

Buffer: TypeAlias = "bytes | memoryview"

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
