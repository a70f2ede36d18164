"""Record batches with header names that no client library would write, though Kafka takes them."""

from collections.abc import Sequence
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from headrace.runtime.settings import Settings

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
