"""Read the messages of a record batch; what cannot be read becomes a message that holds the raw bytes and says why.

Kafka takes what its clients do not read: header names that are not UTF-8, records that expand beyond any memory, more
headers than a client can hold. Formats: Kafka's documentation, "Message format": version 2 is `RecordBatch`, versions 0
and 1 are message sets.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch

from headrace.schemas.limits import HEADERS_MAX
from headrace.schemas.reject import RejectCode
from headrace.streams.core.delivery import UnreadableBytes
from headrace.streams.worker.faust.decompression import CODEC_MASK, Decompressor

_BATCH = struct.Struct(">qiibIhiqqqhii")  # up to the number of records
HEADER_BYTES = _BATCH.size
_ATTRIBUTES = struct.Struct(">h")
_ATTRIBUTES_AT = 21
_LENGTH_AT = 8
_MESSAGE = struct.Struct(">qiIbb")  # of versions 0 and 1, up to the attributes
_TIMESTAMP = struct.Struct(">q")
_LENGTH = struct.Struct(">i")
_LOG_OVERHEAD_BYTES = _LENGTH_AT + _LENGTH.size  # what the length of a batch or message does not count
_LOG_APPEND_TIME = 0x08
_VARINT_BYTES_MAX = 10

# From here on each record is looked at before it is read: a header costs a hundred times its bytes once it is read.
_COMPILED_BYTES_MAX = 256 * 1024


class Record(NamedTuple):
    """A message as aiokafka's fetcher takes it from a batch."""

    offset: int
    timestamp: int | None
    timestamp_type: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: int | None = None


def record_count(raw: memoryview) -> int:
    """Return the number of records that a batch of version 2 declares."""
    return int(_BATCH.unpack_from(raw)[12])


class UnreadableError(ValueError):
    """Bytes do not follow Kafka's format; nothing after them in their batch can be read."""


class RecordReader:
    """Reads batches; for one thread.

    `record_bytes_max` is the size of the largest record that is taken up, and `batch_bytes_max` that of a batch, both
    decompressed.
    """

    def __init__(self, *, record_bytes_max: int, batch_bytes_max: int) -> None:
        self._record_bytes_max = record_bytes_max
        self._decompress = Decompressor(batch_bytes_max)

    def read(self, raw: memoryview) -> Iterator[Any]:
        """Yield the messages of a batch of version 2.

        Raises:
            ValueError: from here on nothing can be read.
        """
        header = _BATCH.unpack_from(raw)
        attributes, count = header[5], header[12]
        payload, batch = raw[HEADER_BYTES:], raw
        if codec := attributes & CODEC_MASK:
            payload = self._decompress(codec, payload) if count else payload[:0]
        taken = 0
        if len(payload) <= _COMPILED_BYTES_MAX:
            if codec:
                batch = _uncompressed(raw, payload)
            try:
                for record in DefaultRecordBatch(batch):
                    named = len(record.headers)
                    yield record if named <= HEADERS_MAX else _unreadable(record, raw, _too_many_headers(named))
                    taken += 1
            except (ValueError, IndexError, CorruptRecordException):
                pass  # with names that are not UTF-8, or damaged: what follows is read below
            else:
                return
        yield from self._records(raw, header, payload, taken)

    def read_messages(self, raw: memoryview) -> Iterator[Record]:
        """Yield the messages of a message set of version 0 or 1, which has one message, or one that holds the others.

        Raises:
            ValueError: nothing can be read.
        """
        outer, _ = _message(raw, 0)
        codec = raw[_MESSAGE.size - 1] & CODEC_MASK
        if not codec:
            yield self._bounded(outer, raw)
            return
        if outer.value is None:
            raise UnreadableError("a compressed message has no value")
        inner, version = self._decompress(codec, memoryview(outer.value)), raw[_MESSAGE.size - 2]
        # Version 1 has offsets relative to the first message, and the outer offset is the last one's.
        last = [_MESSAGE.unpack_from(inner, at)[0] for at in _starts(inner)][-1]
        first = outer.offset - last if version > 0 else 0
        for at in _starts(inner):
            record, attributes = _message(inner, at)
            if attributes & CODEC_MASK:
                raise UnreadableError("a compressed message holds another one")
            if outer.timestamp_type == 1:
                record = record._replace(timestamp=outer.timestamp)
            record = record._replace(offset=first + record.offset, timestamp_type=outer.timestamp_type)
            yield self._bounded(record, raw)

    def _bounded(self, record: Record, raw: memoryview) -> Record:
        size_bytes = len(record.key or b"") + len(record.value or b"")
        return record if size_bytes <= self._record_bytes_max else _unreadable(record, raw, self._too_large(size_bytes))

    def _too_large(self, size_bytes: int) -> str:
        return f"the message has {size_bytes} bytes, at most {self._record_bytes_max}"

    def _records(self, raw: memoryview, header: tuple[int, ...], payload: memoryview, taken: int) -> Iterator[Record]:
        """Yield the records of a payload after the first `taken`."""
        at = 0
        for number in range(header[12]):
            length, start = _varint(payload, at)
            at = start + length
            if length < 0 or at > len(payload):
                raise UnreadableError("a record goes beyond its batch")
            if number >= taken:
                yield self._record(raw, header, payload[start:at])
        if at != len(payload):
            raise UnreadableError("bytes follow the last record")

    def _record(self, raw: memoryview, header: tuple[int, ...], body: memoryview) -> Record:
        timestamp_delta, at = _varint(body, 1)
        offset_delta, at = _varint(body, at)
        timestamp_type = int(bool(header[5] & _LOG_APPEND_TIME))
        timestamp = header[8] if timestamp_type else header[7] + timestamp_delta
        record = Record(header[0] + offset_delta, timestamp, timestamp_type, None, None, [])
        if not 0 <= offset_delta <= header[6]:
            raise UnreadableError("a record has an offset beyond its batch")
        if len(body) > self._record_bytes_max:
            return _unreadable(record, raw, self._too_large(len(body)))
        try:
            key, at = _bytes(body, at)
            value, at = _bytes(body, at)
            count, at = _varint(body, at)
            if count > HEADERS_MAX:
                return _unreadable(record, raw, _too_many_headers(count))
            headers = []
            for _ in range(count):
                name, at = _bytes(body, at)
                content, at = _bytes(body, at)
                headers.append(((name or b"").decode("utf-8", "backslashreplace"), content))
            if at != len(body):
                raise UnreadableError("bytes follow the last header")
        except (ValueError, IndexError) as error:
            value = UnreadableBytes.of(body, RejectCode.UNDECODABLE, f"the record does not follow its format: {error}")
            return record._replace(value=value)
        return record._replace(key=key, value=value, headers=headers)


def _uncompressed(raw: memoryview, payload: memoryview) -> memoryview:
    batch = bytearray(raw[:HEADER_BYTES])
    batch += payload
    (attributes,) = _ATTRIBUTES.unpack_from(batch, _ATTRIBUTES_AT)
    _ATTRIBUTES.pack_into(batch, _ATTRIBUTES_AT, attributes & ~CODEC_MASK)
    _LENGTH.pack_into(batch, _LENGTH_AT, len(batch) - _LOG_OVERHEAD_BYTES)
    return memoryview(batch)


def _too_many_headers(count: int) -> str:
    return f"the message has {count} headers, at most {HEADERS_MAX}"


def _unreadable(record: Any, raw: memoryview, reason: str) -> Record:
    """Return a message that holds its whole batch, which is compressed and so the smaller of the two."""
    value = UnreadableBytes.of(raw, RejectCode.TOO_LARGE, reason)
    return Record(record.offset, record.timestamp, record.timestamp_type, None, value, [])


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    """Return the number at `at` and its end; raises UnreadableError, or IndexError beyond `raw`."""
    value = shift = 0
    while (byte := raw[at]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if shift >= 7 * _VARINT_BYTES_MAX:
            raise UnreadableError("a number is longer than ten bytes")
    value |= byte << shift
    return (value >> 1) ^ -(value & 1), at + 1


def _bytes(raw: memoryview, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(raw, at)
    return _slice(raw, at, length)


def _slice(raw: memoryview, at: int, length: int) -> tuple[bytes | None, int]:
    """Return the bytes at `at` and their end; a length of -1 stands for none."""
    if length == -1:
        return None, at
    if not 0 <= length <= len(raw) - at:
        raise UnreadableError("a length goes beyond its record")
    return bytes(raw[at : at + length]), at + length


def _starts(raw: memoryview) -> Iterator[int]:
    """Yield where each message of a message set begins; there is at least one."""
    at = 0
    while at < len(raw) or at == 0:
        yield at
        length = _MESSAGE.unpack_from(raw, at)[1]
        at += _LOG_OVERHEAD_BYTES + length
        if length < 0 or at > len(raw):
            raise UnreadableError("a message goes beyond its set")


def _message(raw: memoryview, at: int) -> tuple[Record, int]:
    """Return the message of version 0 or 1 at `at`, and its attributes."""
    offset, length, checksum, version, attributes = _MESSAGE.unpack_from(raw, at)
    end = at + _LOG_OVERHEAD_BYTES + length
    if length < 0 or end > len(raw):
        raise UnreadableError("a message goes beyond its set")
    body, at = raw[:end], at + _MESSAGE.size
    timestamp = timestamp_type = None
    if version > 0:
        (timestamp,) = _TIMESTAMP.unpack_from(body, at)
        timestamp_type = int(bool(attributes & _LOG_APPEND_TIME))
        at += _TIMESTAMP.size
    key, at = _slice(body, at + _LENGTH.size, _LENGTH.unpack_from(body, at)[0])
    value, at = _slice(body, at + _LENGTH.size, _LENGTH.unpack_from(body, at)[0])
    if at != end:
        raise UnreadableError("bytes follow the message")
    return Record(offset, timestamp, timestamp_type, key, value, [], checksum), attributes
