"""Decode header names that are not UTF-8.

Kafka allows any bytes as the name of a header. aiokafka decodes names as UTF-8 and raises on invalid ones, before an
agent gets the message: one of them would end every worker that reads its partition, for ever. So a batch with invalid
names is read again, with invalid bytes as backslash escapes; the message becomes a record or a dead letter like any
other. This relies on internals of aiokafka, whose version is pinned.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

_MAGIC_WITH_HEADERS = 2


def tolerate_header_names() -> None:
    """Let the aiokafka consumers of this process read any header name; may be repeated."""
    fetcher.MemoryRecords = _Records


class _Records(_MemoryRecordsPy):  # type: ignore[misc]
    """The batches of one fetch."""

    def next_batch(self, *_: Any) -> Any:
        raw = self._next_slice
        batch = super().next_batch()
        if raw is None or raw[self.MAGIC_OFFSET] < _MAGIC_WITH_HEADERS or batch.is_control_batch:
            return batch
        return _Batch(batch, raw)


class _Batch:
    """A batch read by aiokafka's compiled reader, and from the first invalid name by the lenient one."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except UnicodeDecodeError:
            for number, record in enumerate(_LenientBatch(self._raw)):
                if number >= read:
                    yield record


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """The same batch, read by aiokafka's Python reader with lenient names."""

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _Buffer(self._buffer)


class _Buffer(bytearray):
    """Bytes whose slices decode leniently; the reader decodes only header names."""

    def __getitem__(self, index: Any) -> Any:
        item = super().__getitem__(index)
        return _Slice(item) if isinstance(index, slice) else item


class _Slice(bytes):
    def decode(self, *_: Any) -> str:
        return super().decode("utf-8", "backslashreplace")
