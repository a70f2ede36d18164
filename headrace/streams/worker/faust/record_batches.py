"""Let aiokafka read whatever Kafka holds, within memory that is known.

As it comes, aiokafka raises where it cannot decompress or read a batch, which ends a worker, and the next one at the
same position. Here a batch yields messages up to where it cannot be read, and then one more at its last offset, which
holds the raw batch and becomes a dead letter; so a redelivery finds it at the same place, and what follows is read.
This relies on internals of aiokafka, whose version is pinned.
"""

import struct
from binascii import crc32
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import _MemoryRecordsPy

from headrace.schemas.limits import BATCH_BYTES_MAX
from headrace.schemas.reject import RejectCode
from headrace.streams.core.delivery import UnreadableBytes, held_bytes
from headrace.streams.worker.faust.record_reader import (
    HEADER_BYTES,
    Record,
    RecordReader,
    UnreadableError,
    record_count,
)

_VERSION_2 = 2
_IDENTITY_BYTES = 21  # of a batch: its offset, length, and CRC, wherever the version has that
_MESSAGE_CRC = struct.Struct(">I")
_MESSAGE_CRC_AT = 12
_SUSPECTS_MAX = 64
_REASON_CHARS_MAX = 300


def read_any_batch(*, record_bytes_max: int, drained_bytes_max: int) -> None:
    """Let the aiokafka consumers of this process read any batch; may be repeated.

    `record_bytes_max` is the size of the largest message that is taken up. `drained_bytes_max` is what a partition
    hands over at a time, beyond its last message.
    """
    reader = RecordReader(record_bytes_max=record_bytes_max, batch_bytes_max=BATCH_BYTES_MAX)
    suspects: deque[bytes] = deque(maxlen=_SUSPECTS_MAX)
    fetcher.MemoryRecords = lambda raw: Batches(raw, reader, suspects)
    fetcher.PartitionRecords = PartitionRecords
    fetcher.FetchResult = type("FetchResult", (BoundedFetchResult,), {"drained_bytes_max": drained_bytes_max})


class Batches(_MemoryRecordsPy):  # type: ignore[misc]
    """The batches of one fetch. `suspects` are batches of this process whose CRC was wrong once."""

    _next_slice: memoryview | None

    def __init__(self, raw: bytes, reader: RecordReader, suspects: deque[bytes]) -> None:
        super().__init__(raw)
        self._reader = reader
        self._suspects = suspects

    def _cache_next(self, *_: Any) -> None:
        self._start = self._pos
        super()._cache_next()

    def next_batch(self, *_: Any) -> Any:
        """Return the next batch, whatever it is."""
        raw = self._next_slice
        if raw is None:
            return None
        if len(raw) < self.LOG_OVERHEAD:  # with a negative length; where the next one begins is not known
            raw, self._next_slice = memoryview(self._buffer)[self._start :], None
            return _Batch(raw, _header_of(raw[: self.LOG_OVERHEAD]), self._reader, self._suspects)
        self._cache_next()
        header = _header_of(raw)
        if header.is_control_batch:  # written by a broker, and read by the fetcher itself
            if header.compiled.validate_crc():
                return DefaultRecordBatch(raw)
            header = replace(header, is_control_batch=False, is_transactional=False)
        return _Batch(raw, header, self._reader, self._suspects)


@dataclass(frozen=True, slots=True)
class _Header:
    """What the fetcher asks of a batch.

    `is_whole` says that it has a message for each offset, `compiled` is aiokafka's own reader of version 2.
    """

    version: int
    base_offset: int
    next_offset: int
    producer_id: int | None = None
    is_transactional: bool = False
    is_control_batch: bool = False
    is_whole: bool = False
    timestamp: int | None = None
    compiled: Any = None


def _header_of(raw: memoryview) -> _Header:
    base_offset = int.from_bytes(raw[:8], "big", signed=True)
    unknown = _Header(-1, base_offset, base_offset + 1)
    if len(raw) < Batches.MIN_SLICE:
        return unknown
    version = raw[Batches.MAGIC_OFFSET]
    if version < _VERSION_2:
        return _Header(version, base_offset, base_offset + 1)
    if len(raw) < HEADER_BYTES:  # the compiled reader does not check it
        return unknown
    batch = DefaultRecordBatch(raw)
    if batch.next_offset <= base_offset:
        return unknown
    return _Header(
        version,
        base_offset,
        batch.next_offset,
        batch.producer_id,
        batch.is_transactional,
        batch.is_control_batch,
        record_count(raw) == batch.next_offset - base_offset,
        batch.max_timestamp,
        batch,
    )


class _Batch:
    """One batch as the fetcher uses it."""

    def __init__(self, raw: memoryview, header: _Header, reader: RecordReader, suspects: deque[bytes]) -> None:
        self._raw = raw
        self._header = header
        self._reader = reader
        self._suspects = suspects
        self._damaged = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._header, name)

    def validate_crc(self) -> bool:
        """Return False for a wrong CRC, at the first time: fetched again, the batch may be whole."""
        match self._header.version:
            case 0 | 1:
                (declared,) = _MESSAGE_CRC.unpack_from(self._raw, _MESSAGE_CRC_AT)
                valid = declared == crc32(self._raw[Batches.MAGIC_OFFSET :])
            case _:
                valid = self._header.compiled is None or self._header.compiled.validate_crc()
        identity = bytes(self._raw[:_IDENTITY_BYTES])
        if valid or identity in self._suspects:
            self._damaged = not valid
            return True
        self._suspects.append(identity)
        return False

    def __iter__(self) -> Iterator[Any]:
        """Yield the messages, and one with the raw batch in place of those that cannot be read."""
        # A message set of version 0 or 1 names its last offset only.
        next_offset = self._header.base_offset if self._header.version >= _VERSION_2 else 0
        try:
            for record in self._records():
                if record.offset != next_offset:
                    self._check_gap(next_offset, record.offset)
                next_offset = record.offset + 1
                yield record
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the batches after this one are read
            if next_offset < self._header.next_offset:
                yield self._whole(str(error) or type(error).__name__)

    def _check_gap(self, next_offset: int, offset: int) -> None:
        # A broker checks the number of a batch's offsets, and of an uncompressed one no offset. Only compaction leaves
        # gaps, and then a batch has fewer messages than offsets.
        header = self._header
        if header.is_whole or not next_offset < offset < header.next_offset:
            raise UnreadableError("its offsets do not follow one another")

    def _records(self) -> Iterator[Any]:
        if self._damaged:
            raise UnreadableError("its CRC is wrong")
        match self._header.version:
            case 0 | 1:
                return self._reader.read_messages(self._raw)
            case 2:
                return self._reader.read(self._raw)
            case version:
                raise UnreadableError("it has no header" if version < 0 else f"its version is {version}")

    def _whole(self, error: str) -> Record:
        first, last = self._header.base_offset, self._header.next_offset - 1
        reason = f"the record batch of offsets {first} to {last} cannot be read: {error}"[:_REASON_CHARS_MAX]
        value = UnreadableBytes.of(self._raw, RejectCode.UNDECODABLE, reason)
        return Record(last, self._header.timestamp, None, None, value, [])


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """The messages of a fetch; it ends before a batch whose CRC is wrong, which is then fetched again."""

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except CorruptRecordException:
            self._records_iterator = iter(())
            raise StopIteration from None


class BoundedFetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """Hands over a fetch in parts: compressed, one of a few bytes may hold more than fits into memory."""

    drained_bytes_max: ClassVar[int]
    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        """Return messages until they hold `drained_bytes_max` bytes; the next call goes on."""
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        drained: list[Any] = []
        drained_bytes = 0
        for record in self._partition_records:
            drained.append(record)
            drained_bytes += held_bytes(record.key, record.value, record.headers)
            if drained_bytes >= self.drained_bytes_max or len(drained) == max_records:
                self._update_position()
                return drained
        self._update_position()
        self._partition_records = None
        return drained
