"""Header names that are not text.

Kafka takes any bytes as the name of a header. aiokafka decodes them as UTF-8 and raises where they are not, before any
agent sees the message: a single one of them would end every worker that reads its partition, for ever. So a batch whose
names are not text is read again, leniently. What cannot be decoded is shown as backslash escapes; the dead letter, or
the record, comes out as of any other message. This reaches into aiokafka, whose version is pinned.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

_MAGIC_WITH_HEADERS = 2


def tolerate_header_names() -> None:
    """Let this process's aiokafka consumers read any header name; may be repeated."""
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
    """A batch as aiokafka's compiled reader has it, until that stumbles over a name."""

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
    """The same batch, read slowly."""

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _Buffer(self._buffer)


class _Buffer(bytearray):
    """Bytes whose slices decode whatever they hold; the reader decodes nothing but header names."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Slice(found) if isinstance(at, slice) else found


class _Slice(bytes):
    def decode(self, *_: Any) -> str:
        return super().decode("utf-8", "backslashreplace")
