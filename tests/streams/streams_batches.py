"""Record batches that no client library would write, though Kafka takes them."""

import struct
from collections.abc import Sequence
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c

from headrace.runtime.settings import Settings
from tests.fuzzing.varints import written

HEADER_BYTES = 61
CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT, COUNT_AT = 17, 21, 23, 57

Pairs = Sequence[tuple[bytes, bytes | None]]


class _Name(str):
    """Text that encodes to the bytes it was made of, whatever they are."""

    __slots__ = ("_raw",)

    def __new__(cls, raw: bytes) -> Self:
        made = super().__new__(cls, raw.decode("latin-1"))
        made._raw = raw
        return made

    def encode(self, *_: object) -> bytes:
        return self._raw


Message = tuple[bytes | None, Pairs]


def builder(messages: Sequence[Message], *, compression: int = 0) -> _DefaultRecordBatchBuilderPy:
    """A batch of (value, headers), all keyed `key`."""
    made = _DefaultRecordBatchBuilderPy(
        2, compression, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=0, batch_size=10**6
    )
    for number, (value, pairs) in enumerate(messages):
        made.append(number, timestamp=1_790_000_000_000, key=b"key", value=value, headers=_named(pairs))
    return made


async def publish(settings: Settings, topic: str, messages: Sequence[Message]) -> int:
    """Publish one batch to partition 0; returns the offset of its first message."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    try:
        batch = producer.create_batch()
        batch._builder = builder([])
        for value, pairs in messages:
            batch.append(timestamp=None, key=b"key", value=value, headers=_named(pairs))
        batch.close()
        done = await producer.send_batch(batch, topic, partition=0)
        return int((await done).offset)
    finally:
        await producer.stop()


def _named(pairs: Pairs) -> list[tuple[str, bytes | None]]:
    return [(_Name(name), content) for name, content in pairs]


async def publish_raw(settings: Settings, topic: str, raw: bytes, *, messages: int) -> int:
    """Publish a batch of so many messages to partition 0 as it is; returns the offset of its first message.

    Raises:
        KafkaError: the broker refuses it.
    """
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, max_request_size=2**25)
    await producer.start()
    try:
        batch = producer.create_batch()
        for _ in range(messages):
            batch.append(timestamp=None, key=None, value=b"")
        batch.close()
        batch._buffer = raw
        done = await producer.send_batch(batch, topic, partition=0)
        return int((await done).offset)
    finally:
        await producer.stop()


def raw_batch(messages: Sequence[Message], compression: int = 0, base_offset: int = 0) -> bytes:
    return struct.pack(">q", base_offset) + bytes(builder(messages, compression=compression).build())[8:]


def resealed(raw: bytes, *, at: int | None = None, put: bytes = b"") -> bytes:
    """The batch with other bytes at a place, as a broker takes it: its length and CRC fit."""
    changed = bytearray(raw)
    if at is not None:
        changed[at : at + len(put)] = put
    struct.pack_into(">i", changed, 8, len(changed) - 12)
    struct.pack_into(">I", changed, CRC_AT, calc_crc32c(bytes(changed[ATTRIBUTES_AT:])))
    return bytes(changed)


def record_of(value: bytes, *, offset_delta: int, headers: bytes = written(0)) -> bytes:
    body = b"\0" + written(0) + written(offset_delta) + written(-1) + written(len(value)) + value + headers
    return written(len(body)) + body


def batch_of(records: Sequence[bytes], *, last_delta: int, base_offset: int = 0) -> bytes:
    raw = bytearray(raw_batch([(b"", [])], base_offset=base_offset)[:HEADER_BYTES])
    struct.pack_into(">i", raw, LAST_DELTA_AT, last_delta)
    struct.pack_into(">i", raw, COUNT_AT, len(records))
    return resealed(bytes(raw) + b"".join(records))
